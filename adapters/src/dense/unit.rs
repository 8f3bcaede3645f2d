//! One unit of the dense branches: convolution, batch norm and ReLU.
//!
//! Owns its layers, on a map and on a line. Their order is [`super`]'s.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::layers::BatchNorm;
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Parameter, Params};
use twinspan_sdk::pass::Pass;

use super::{Over, Start};

/// The eps of every batch norm.
const EPS: f64 = 1e-3;

/// Convolution, batch norm and ReLU.
pub(super) struct Unit {
    /// `[out, in, k, k]`, or `[out, in, k]` over a line.
    weight: Parameter,
    bias: Parameter,
    norm: BatchNorm,
    over: Over,
    padding: usize,
}

impl Unit {
    pub fn make(
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

    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
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
