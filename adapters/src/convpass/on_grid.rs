//! The convolution of Convpass: of patches on their grid, of every other token alone.
//!
//! ```text
//! patches    K ∗ p + k                         p [B, d, H, W], padded to keep the grid
//! others     K[:, :, 1, 1] t + k               a map of one pixel meets the centre of K
//! ```
//!
//! Owns K, which starts as the identity at its centre, and its bias, which starts 0.

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::{Error, Result};

use crate::pixels::pixels;

/// A 3x3 convolution of tokens on a grid.
pub(super) struct OnGrid {
    /// `[d, d, 3, 3]`.
    kernel: Parameter,
    /// `[d]`.
    bias: Parameter,
}

impl OnGrid {
    pub fn make(params: &mut Params, d: usize) -> Result<Self> {
        let kernel = params.trained("weight", &[d, d, 3, 3], Init::Zeros)?;
        kernel.set(&centred(d)?)?;
        Ok(Self {
            kernel,
            bias: params.trained("bias", &[d], Init::Zeros)?,
        })
    }

    /// The patches convolved on their grid, every other token as a map of one pixel.
    pub fn forward(&self, tokens: &Stream, pass: &Pass) -> Result<Tensor> {
        let around = Conv {
            stride: 1,
            padding: 1,
        };
        let (kernel, bias) = (self.kernel.tensor(pass)?, self.bias.tensor(pass)?);
        let map = ops::conv2d(&tokens.grid()?, &kernel, Some(&bias), around)?;
        let patches = pixels(&map)?;
        let Some((start, len)) = tokens.span(|kind| *kind == SpanKind::Patches) else {
            return Err(Error::plugin("tokens on a grid are without patches"));
        };
        let centre = kernel.narrow(2, 1, 1)?.narrow(3, 1, 1)?.flatten_from(1)?;
        let alone = |first: usize, count: usize| -> Result<Tensor> {
            let tokens = tokens.data.narrow(1, first, count)?;
            Ok(ops::linear(&tokens, &centre, Some(&bias))?)
        };
        let mut all = patches;
        if start > 0 {
            all = ops::concat(&alone(0, start)?, &all, 1)?;
        }
        let behind = tokens.data.dim(1)? - start - len;
        if behind > 0 {
            all = ops::concat(&all, &alone(start + len, behind)?, 1)?;
        }
        Ok(all)
    }
}

/// The identity at the centre of a 3x3 kernel of `d` channels.
fn centred(d: usize) -> Result<Tensor> {
    let one = Tensor::eye(d, DType::F64, &Device::Cpu)?.reshape((d, d, 1, 1))?;
    let row = one.pad_with_zeros(3, 1, 1)?;
    Ok(row.pad_with_zeros(2, 1, 1)?)
}
