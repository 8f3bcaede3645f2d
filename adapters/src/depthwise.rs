//! A convolution in groups: each output channel reads a few neighbouring input channels alone.
//!
//! ```text
//! y[o] = Σ_j K[o, j] ∗ x[o·γ + j] + b[o]      j = 0..γ, K [w, γ, k, k], x [B, w·γ, H, W]
//! ```
//!
//! Owns the arithmetic: group o of item i is one sample with a kernel of its own. No plugin.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;

/// A convolution in as many groups as it has outputs.
pub struct Depthwise {
    /// `[w, γ, k, k]`.
    kernel: Parameter,
    /// `[w]`.
    bias: Parameter,
    conv: Conv,
}

impl Depthwise {
    /// From `groups` times `each` channels to `groups`: the kernel uniform in ±√(1/(each·k²)), the
    /// bias 0.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(
        params: &mut Params,
        (groups, each): (usize, usize),
        kernel: usize,
        conv: Conv,
    ) -> Result<Self> {
        let fan = each * kernel * kernel;
        let start = Init::KaimingUniform { fan };
        Ok(Self {
            kernel: params.trained("weight", &[groups, each, kernel, kernel], start)?,
            bias: params.trained("bias", &[groups], Init::Zeros)?,
            conv,
        })
    }

    /// `[B, w·γ, H, W]` to `[B, w, H', W']`.
    ///
    /// # Errors
    /// The channels differ or the map is smaller than the kernel.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (kernel, bias) = (self.kernel.tensor(pass)?, self.bias.tensor(pass)?);
        let (groups, each, _, _) = kernel.dims4()?;
        let (items, _, rows, columns) = x.dims4()?;
        let groups_of_items: Vec<u32> = (0..items).flat_map(|_| 0..groups as u32).collect();
        let y = ops::correlate_per_sample(
            &x.reshape((items * groups, each, rows, columns))?,
            &ops::select(&kernel, &groups_of_items)?,
            &ops::select(&bias, &groups_of_items)?,
            self.conv.padding,
        )?;
        let (_, _, rows, columns) = y.dims4()?;
        let y = y.reshape((items, groups, rows, columns))?;
        match self.conv.stride {
            1 => Ok(y),
            stride => every(&every(&y, 2, stride)?, 3, stride),
        }
    }
}

/// The slices 0, stride, 2·stride, … along a dimension.
fn every(x: &Tensor, dim: usize, stride: usize) -> Result<Tensor> {
    let places: Vec<u32> = (0..x.dim(dim)? as u32).step_by(stride).collect();
    Ok(ops::select(&x.transpose(0, dim)?, &places)?.transpose(0, dim)?)
}
