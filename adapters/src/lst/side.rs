//! The layers of a side network: the way between widths and grids, and its narrow blocks.
//!
//! ```text
//! tokens    x + attention(norm x), then x + W₂ quick_gelu(W₁ norm x)      W₁ [4d, d]
//! map       x + conv(relu(conv x))                                        3x3
//! ```
//!
//! A block is of the kind of the tower's own: a pre-norm transformer on tokens, which hides padding
//! (and no later words: the side of a causal tower looks both ways) and has heads of 32 channels or
//! a little more, or convolutions on a map. Fewer heads than the
//! tower's, for a narrow side with as many would spend its time on their probabilities. Layers
//! start as in PyTorch. What goes in and where is [`super`]'s.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::StreamSlot;
use twinspan_sdk::hooks::Channels;
use twinspan_sdk::layers::{Attention, Conv2d, LayerNorm, Linear};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;

use crate::bottleneck::Pointwise;
use crate::setting::wrong;

/// Channels of a head, or a little more.
const HEAD: usize = 32;
/// Width of a block's perceptron over that of the side.
const WIDER: usize = 4;
/// A convolution that keeps the grid.
const SAME: Conv = Conv {
    stride: 1,
    padding: 1,
};

/// Where the channels of a stream lie.
pub(super) fn channels(slot: &StreamSlot) -> Channels {
    match slot.stream.map {
        true => Channels::Map,
        false => Channels::Last,
    }
}

/// The way of the side from one rung to the next.
pub(super) struct Passage {
    /// Side of the squares that are averaged; 1 where the grid stays.
    squares: usize,
    project: Option<Pointwise>,
}

impl Passage {
    /// From beside one stream to beside the next, which have these widths of the side.
    pub fn make(
        params: &mut Params,
        before: &StreamSlot,
        here: &StreamSlot,
        widths: (usize, usize),
    ) -> Result<Self> {
        let start = Init::KaimingUniform { fan: widths.0 };
        let project = match widths.0 == widths.1 {
            true => None,
            false => Some(Pointwise::make(
                &mut params.within("project"),
                widths,
                channels(here),
                start,
            )?),
        };
        Ok(Self {
            squares: squares(before, here, params.owner())?,
            project,
        })
    }

    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = match self.squares {
            1 => x.clone(),
            k => ops::avg_pool2d(x, k)?,
        };
        match &self.project {
            Some(project) => project.forward(&x, pass),
            None => Ok(x),
        }
    }
}

/// Side of the squares whose averages make the grid of `here` of that of `before`.
fn squares(before: &StreamSlot, here: &StreamSlot, owner: &str) -> Result<usize> {
    let (true, Some(from), Some(to)) = (here.stream.map, before.stream.grid, here.stream.grid)
    else {
        return Ok(1);
    };
    let side = (from.0 / to.0.max(1)).max(1);
    match (from.0 / side, from.1 / side) == to {
        true => Ok(side),
        false => Err(wrong(
            owner,
            format!(
                "the side comes from a grid of {from:?}, whose squares make none of {to:?} {}",
                here.moment
            ),
        )),
    }
}

/// A narrow block.
pub(super) enum Block {
    Transformer(Box<Transformer>),
    Convolution([Conv2d; 2]),
}

impl Block {
    pub fn make(params: &mut Params, width: usize, channels: Channels) -> Result<Self> {
        let start = Init::KaimingUniform { fan: 9 * width };
        let mut conv = |name: &str| {
            let mut params = params.within(name);
            Conv2d::make(&mut params, width, width, 3, SAME, start)?
                .with_bias(&mut params, Init::Zeros)
        };
        match channels {
            Channels::Map => Ok(Block::Convolution([conv("conv1")?, conv("conv2")?])),
            Channels::Last => Ok(Block::Transformer(Box::new(Transformer::make(
                params, width,
            )?))),
        }
    }

    /// The same shape as `x`; `padding` is `u8 [B, N]`, 1 where a token is hidden.
    pub fn forward(&self, x: &Tensor, padding: Option<&Tensor>, pass: &mut Pass) -> Result<Tensor> {
        match self {
            Block::Transformer(block) => block.forward(x, padding, pass),
            Block::Convolution([first, second]) => {
                let inside = ops::relu(&first.forward(x, pass)?)?;
                Ok(ops::add(x, &second.forward(&inside, pass)?)?)
            }
        }
    }
}

/// A pre-norm transformer block (Vaswani et al., 2017).
pub(super) struct Transformer {
    attention_norm: LayerNorm,
    attention: Attention,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Transformer {
    fn make(params: &mut Params, width: usize) -> Result<Self> {
        let output = Init::KaimingUniform { fan: width };
        let heads = heads(width);
        Ok(Self {
            attention_norm: LayerNorm::make(&mut params.within("attention.norm"), width)?,
            attention: Attention::make(
                &mut params.within("attention"),
                width,
                width,
                heads,
                0.0,
                output,
            )?,
            mlp_norm: LayerNorm::make(&mut params.within("mlp.norm"), width)?,
            up: Linear::make_uniform(&mut params.within("mlp.up"), width, WIDER * width)?,
            down: Linear::make_uniform(&mut params.within("mlp.down"), WIDER * width, width)?,
        })
    }

    fn forward(&self, x: &Tensor, padding: Option<&Tensor>, pass: &mut Pass) -> Result<Tensor> {
        let normed = self.attention_norm.forward(x, pass)?;
        let mixed = self
            .attention
            .forward(&normed, &normed, &normed, padding, pass)?;
        let x = ops::add(x, &mixed)?;
        let normed = self.mlp_norm.forward(&x, pass)?;
        let inside = ops::quick_gelu(&self.up.forward(&normed, pass)?)?;
        Ok(ops::add(&x, &self.down.forward(&inside, pass)?)?)
    }
}

/// The most heads of [`HEAD`] channels or more that divide a width.
fn heads(width: usize) -> usize {
    let most = (width / HEAD).max(1);
    let mut fit = (1..=most).rev().filter(|h| width.is_multiple_of(*h));
    fit.next().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::heads;

    #[test]
    fn heads_are_32_wide_or_a_little_more() {
        assert_eq!([1, 31, 64, 96, 128, 72].map(heads), [1, 1, 2, 3, 4, 2]);
        assert_eq!(heads(67), 1);
    }
}
