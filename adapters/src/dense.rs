//! The dense branches of DETRIS (Huang et al., AAAI 2025), of which both of its adapters are
//! built: on a map of patches in the vision tower, on a line of words in the text tower.
//!
//! ```text
//! unit(m) = ReLU(BN(conv(m)))                  conv with bias, BN with eps 1e-3, m [B, d, ..]
//! b1 = unit_1(m)                               d to d/2
//! b2 = unit_3(unit_1([m, b1]))                 to d/16, to d/4
//! b3 = unit_5(unit_1([m, b1, b2]))             to d/16, to d/4
//! branches(m) = [b1, b2, b3]                   d again
//! ```
//!
//! The number at a unit is its kernel: k on a line, k x k on a map, padded to keep the size. Owns
//! these layers and how they start. What is cut out of a stream for them, and what becomes of
//! what they give, is each adapter's.

use candle_core::Tensor;
use twinspan_sdk::layers::{BatchNorm, Linear};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Sites, Tower};
use twinspan_sdk::{Error, Result};

/// The eps of every batch norm.
const EPS: f64 = 1e-3;
/// The narrowest unit has a sixteenth of the channels.
const SHARES: usize = 16;
/// Wider branches are slips of the pen.
const MOST_WIDTH: usize = 1 << 16;

/// What a convolution slides over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Patches, `[B, C, H, W]`.
    Map,
    /// Words, `[B, C, 1, N]`.
    Line,
}

/// How weights start.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    /// Kaiming-normal over the fan-in, biases zero.
    Kaiming,
    /// As PyTorch's layers start: weights and biases uniform in ±√(1/fan).
    Uniform,
}

impl Start {
    fn weight(self, fan: usize) -> Init {
        match self {
            Start::Kaiming => Init::KaimingNormal { fan },
            Start::Uniform => Init::KaimingUniform { fan },
        }
    }

    fn bias(self, fan: usize) -> Init {
        match self {
            Start::Kaiming => Init::Zeros,
            Start::Uniform => Init::KaimingUniform { fan },
        }
    }

    /// A linear layer that starts so.
    pub fn linear(self, params: &mut Params, input: usize, output: usize) -> Result<Linear> {
        match self {
            Start::Kaiming => Linear::make(params, input, output, self.weight(input)),
            Start::Uniform => Linear::make_uniform(params, input, output),
        }
    }
}

/// Refuses a width that the branches cannot share, and a factor that is no number.
pub(crate) fn check(owner: &str, dim: usize, factor: f64) -> Result<()> {
    let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
    if dim == 0 || dim > MOST_WIDTH || !dim.is_multiple_of(SHARES) {
        return wrong(format!(
            "dim = {dim} must be a multiple of {SHARES} up to {MOST_WIDTH}: branches have shares \
             of it"
        ));
    }
    if !factor.is_finite() {
        return wrong(format!("factor = {factor} must be a number"));
    }
    Ok(())
}

/// The choice of sites within the one tower that an adapter is for.
pub(crate) fn within(tower: Tower, sites: &Sites) -> Sites {
    Sites {
        towers: vec![tower],
        ..sites.clone()
    }
}

/// Refuses sites in the other tower, which [`within`] would pass over.
pub(crate) fn check_towers(owner: &str, tower: Tower, sites: &Sites) -> Result<()> {
    match sites.towers.contains(&tower.other()) {
        true => Err(Error::wrong_use(format!(
            "{owner}: it acts on the {tower} tower alone; sites.towers may be [\"{tower}\"]"
        ))),
        false => Ok(()),
    }
}

/// The three branches.
pub(crate) struct Branches {
    first: Unit,
    second: [Unit; 2],
    third: [Unit; 2],
}

impl Branches {
    /// New branches on `d` channels.
    pub fn make(params: &mut Params, over: Over, d: usize, start: Start) -> Result<Self> {
        let (half, quarter, least) = (d / 2, d / 4, d / SHARES);
        let mut unit = |name: &str, from, to, kernel| {
            Unit::make(&mut params.within(name), over, from, to, kernel, start)
        };
        Ok(Self {
            first: unit("branch1", d, half, 1)?,
            second: [
                unit("branch2.0", d + half, least, 1)?,
                unit("branch2.1", least, quarter, 3)?,
            ],
            third: [
                unit("branch3.0", d + half + quarter, least, 1)?,
                unit("branch3.1", least, quarter, 5)?,
            ],
        })
    }

    /// `[B, d, H, W]` to the same shape; a line is a map of one row.
    pub fn forward(&self, m: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let b1 = self.first.forward(m, pass)?;
        let seen = ops::concat(m, &b1, 1)?;
        let b2 = through(&self.second, &seen, pass)?;
        let seen = ops::concat(&seen, &b2, 1)?;
        let b3 = through(&self.third, &seen, pass)?;
        let front = ops::concat(&b1, &b2, 1)?;
        Ok(ops::concat(&front, &b3, 1)?)
    }
}

fn through([first, second]: &[Unit; 2], x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
    second.forward(&first.forward(x, pass)?, pass)
}

/// Convolution, batch norm and ReLU.
struct Unit {
    /// `[out, in, k, k]`, or `[out, in, k]` over a line.
    weight: Parameter,
    bias: Parameter,
    norm: BatchNorm,
    over: Over,
    padding: usize,
}

impl Unit {
    fn make(
        params: &mut Params,
        over: Over,
        from: usize,
        to: usize,
        kernel: usize,
        start: Start,
    ) -> Result<Self> {
        let shape = match over {
            Over::Map => vec![to, from, kernel, kernel],
            Over::Line => vec![to, from, kernel],
        };
        let fan = shape.iter().skip(1).product();
        let mut conv = params.within("conv");
        Ok(Self {
            weight: conv.trained("weight", &shape, start.weight(fan))?,
            bias: conv.trained("bias", &[to], start.bias(fan))?,
            norm: BatchNorm::make(&mut params.within("norm"), to)?.with_eps(EPS),
            over,
            padding: kernel / 2,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (weight, bias) = (self.weight.tensor(pass)?, self.bias.tensor(pass)?);
        let y = match self.over {
            Over::Map => {
                let conv = Conv {
                    stride: 1,
                    padding: self.padding,
                };
                ops::conv2d(x, &weight, Some(&bias), conv)?
            }
            Over::Line => {
                let (x, weight) = (with_ends(x, self.padding)?, weight.unsqueeze(2)?);
                ops::conv2d(&x, &weight, Some(&bias), Conv::default())?
            }
        };
        Ok(ops::relu(&self.norm.forward(&y, pass)?)?)
    }
}

/// A line with `n` zeros at both ends: a convolution's own padding would surround its one row.
fn with_ends(x: &Tensor, n: usize) -> Result<Tensor> {
    if n == 0 {
        return Ok(x.clone());
    }
    let (b, c, rows, _) = x.dims4()?;
    let zeros = Tensor::zeros((b, c, rows, n), x.dtype(), x.device())?;
    Ok(ops::concat(&ops::concat(&zeros, x, 3)?, &zeros, 3)?)
}
