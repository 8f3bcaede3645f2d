//! The projector (CRIS, arXiv 2111.15174; ETRIS keeps it): the map four times
//! as fine, and correlated with a kernel that the sentence makes. Does not see
//! single words.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::layers::{Conv2d, Linear};
use twinspan_sdk::ops::{self, Conv, Interpolation};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;

use super::conv_block::ConvBlock;

/// Side of the kernel that the sentence makes.
const SIDE: usize = 3;

/// From a map and a sentence to logits.
pub(super) struct Projector {
    refine: [ConvBlock; 2],
    output: Conv2d,
    kernel: Linear,
}

impl Projector {
    /// A projector of maps of `width` channels and sentences of width `state`.
    pub fn make(width: usize, state: usize, params: &mut Params) -> Result<Self> {
        let half = width / 2;
        let init = Init::KaimingUniform { fan: half };
        let at = &mut params.within("output");
        let output = Conv2d::make(at, half, half, 1, Conv::default(), init)?;
        let output = output.with_bias(at, init)?;
        let at = &mut params.within("kernel");
        let kernel = Linear::make_uniform(at, state, half * SIDE * SIDE + 1)?;
        Ok(Self {
            refine: [
                ConvBlock::same(&mut params.within("refine.0"), width, width, 3)?,
                ConvBlock::same(&mut params.within("refine.1"), width, half, 3)?,
            ],
            output,
            kernel,
        })
    }

    /// `[P, width, h, w]` and `[P, E]` to logits `[P, 1, 4h, 4w]`.
    pub fn forward(&self, map: &Tensor, state: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let mut map = map.clone();
        for refine in &self.refine {
            let (_, _, rows, columns) = map.dims4()?;
            let finer = (2 * rows, 2 * columns);
            map = ops::resize(&map, finer, Interpolation::Bilinear, false)?;
            map = refine.forward(&map, pass)?;
        }
        let map = self.output.forward(&map, pass)?;

        let (pairs, channels, ..) = map.dims4()?;
        let values = channels * SIDE * SIDE;
        let made = self.kernel.forward(state, pass)?;
        let kernel = made.narrow(1, 0, values)?;
        let kernel = kernel.reshape((pairs, channels, SIDE, SIDE))?;
        let bias = made.narrow(1, values, 1)?.reshape(pairs)?;
        Ok(ops::correlate_per_sample(&map, &kernel, &bias, SIDE / 2)?)
    }
}
