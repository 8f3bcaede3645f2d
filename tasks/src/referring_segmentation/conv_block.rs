//! A convolution, batch norm and ReLU: the unit that neck and projector are
//! built of. Owns its starts; knows no grid.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::layers::{BatchNorm, Conv2d, ConvTranspose2d};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;

enum Convolution {
    Plain(Conv2d),
    Transposed(ConvTranspose2d),
}

/// `ReLU(BN(conv(x)))`; the convolution has no bias, for the norm would cancel
/// it.
pub(super) struct ConvBlock {
    conv: Convolution,
    norm: BatchNorm,
}

impl ConvBlock {
    /// A convolution that keeps the grid: `kernel` is odd.
    pub fn same(params: &mut Params, input: usize, output: usize, kernel: usize) -> Result<Self> {
        let conv = Conv {
            stride: 1,
            padding: kernel / 2,
        };
        Self::plain(params, input, output, kernel, conv)
    }

    /// A convolution whose kernel and stride are `factor`: the grid shrinks by
    /// it.
    pub fn shrink(params: &mut Params, input: usize, output: usize, factor: usize) -> Result<Self> {
        let conv = Conv {
            stride: factor,
            padding: 0,
        };
        Self::plain(params, input, output, factor, conv)
    }

    /// A transposed convolution whose kernel and stride are `factor`: the grid
    /// grows by it.
    pub fn grow(params: &mut Params, input: usize, output: usize, factor: usize) -> Result<Self> {
        // torch counts the fan of a weight [in, out, k, k] by its second dimension.
        let init = Init::KaimingUniform {
            fan: output * factor * factor,
        };
        let conv = Conv {
            stride: factor,
            padding: 0,
        };
        let at = &mut params.within("conv");
        let conv = ConvTranspose2d::make(at, input, output, factor, conv, init)?;
        Self::normed(params, output, Convolution::Transposed(conv))
    }

    fn plain(
        params: &mut Params,
        input: usize,
        output: usize,
        kernel: usize,
        conv: Conv,
    ) -> Result<Self> {
        let init = Init::KaimingUniform {
            fan: input * kernel * kernel,
        };
        let at = &mut params.within("conv");
        let conv = Conv2d::make(at, input, output, kernel, conv, init)?;
        Self::normed(params, output, Convolution::Plain(conv))
    }

    fn normed(params: &mut Params, output: usize, conv: Convolution) -> Result<Self> {
        let norm = BatchNorm::make(&mut params.within("norm"), output)?;
        Ok(Self { conv, norm })
    }

    /// `[P, in, h, w]` to `[P, out, h', w']`.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = match &self.conv {
            Convolution::Plain(conv) => conv.forward(x, pass)?,
            Convolution::Transposed(conv) => conv.forward(x, pass)?,
        };
        Ok(ops::relu(&self.norm.forward(&x, pass)?)?)
    }
}
