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
//! how these layers follow each other and how they start; one unit is `unit`'s. What is cut out of
//! a stream for them, and what becomes of what they give, is each adapter's.

mod unit;

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::Want;
use twinspan_sdk::layers::Linear;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Sites, Tower};

use crate::setting::{check_factor, wrong};
use unit::Unit;

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
    if dim == 0 || dim > MOST_WIDTH || !dim.is_multiple_of(SHARES) {
        let message = format!(
            "dim = {dim} must be a multiple of {SHARES} up to {MOST_WIDTH}: branches have shares \
             of it"
        );
        return Err(wrong(owner, message));
    }
    check_factor(owner, "factor", factor)
}

/// The wish for MLPs, or other branches that `sites` names, within the one tower that an adapter
/// is for.
pub(crate) fn wants(tower: Tower, sites: &Sites) -> Vec<Want> {
    let towers = vec![tower];
    vec![Want::Branches {
        sites: Sites {
            towers,
            ..sites.clone()
        },
        default: &[Branch::Mlp],
    }]
}

/// Refuses sites in the other tower, which [`wants`] would pass over.
pub(crate) fn check_towers(owner: &str, tower: Tower, sites: &Sites) -> Result<()> {
    match sites.towers.contains(&tower.other()) {
        true => Err(wrong(
            owner,
            format!("it acts on the {tower} tower alone; sites.towers may be [\"{tower}\"]"),
        )),
        false => Ok(()),
    }
}

/// What lies beside one MLP: down to the branches' channels, the branches, up again.
pub(crate) struct Dense {
    down: Linear,
    pub branches: Branches,
    up: Linear,
    factor: f64,
}

impl Dense {
    /// Between `width` and `d` channels.
    pub fn make(
        params: &mut Params,
        over: Over,
        (width, d): (usize, usize),
        start: Start,
        factor: f64,
    ) -> Result<Self> {
        Ok(Self {
            down: start.linear(&mut params.within("down"), width, d)?,
            branches: Branches::make(params, over, d, start)?,
            up: start.linear(&mut params.within("up"), d, width)?,
            factor,
        })
    }

    /// ReLU(x·downᵀ): `[B, N, D]` to `[B, N, d]`.
    pub fn narrow(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        Ok(ops::relu(&self.down.forward(x, pass)?)?)
    }

    /// s·y·upᵀ: `[B, N, d]` to `[B, N, D]`.
    pub fn widen(&self, y: &Tensor, pass: &Pass) -> Result<Tensor> {
        Ok((self.up.forward(y, pass)? * self.factor)?)
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
