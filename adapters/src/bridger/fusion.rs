//! How one tower looks at the other within a bridge.
//!
//! Owns both released fusions: the gate of the transformers and the decoder layer of the ResNets.
//! Widths, grids and what is handed from stage to stage are [`super`]'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::layers::{Attention, LayerNorm, Linear};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::{Result, ops};

use super::START;

/// Width of the FFN, whatever the bridge's.
const FFN: usize = 128;

/// How one tower looks at the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fusion {
    /// As released: gate where the vision tower has tokens, transformer where it has maps.
    #[default]
    Auto,
    /// x ⊙ attention(x, other), without dropout.
    Gate,
    /// Self-attention, cross-attention and an FFN of 128 with ReLU, each added and then normed.
    Transformer,
}

impl Fusion {
    /// What it is beside a vision tower of maps or of tokens.
    pub(super) fn on(self, map: bool) -> Self {
        match (self, map) {
            (Fusion::Auto, true) => Fusion::Transformer,
            (Fusion::Auto, false) => Fusion::Gate,
            (chosen, _) => chosen,
        }
    }
}

/// The layers of a fusion.
pub(super) enum Mixer {
    Gate(Attention),
    Transformer(Box<Decoder>),
}

impl Mixer {
    pub fn make(
        params: &mut Params,
        fusion: Fusion,
        dim: usize,
        heads: usize,
        dropout: f64,
    ) -> Result<Self> {
        Ok(match fusion {
            Fusion::Transformer => {
                Mixer::Transformer(Box::new(Decoder::make(params, dim, heads, dropout)?))
            }
            Fusion::Gate | Fusion::Auto => {
                Mixer::Gate(attention(params, "cross", dim, heads, 0.0)?)
            }
        })
    }

    /// What `x` `[B, N, d]` becomes after looking at `other` `[B, M, d]`.
    pub fn forward(&self, x: &Tensor, other: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        match self {
            Mixer::Gate(cross) => Ok(ops::mul(x, &cross.forward(x, other, other, None, pass)?)?),
            Mixer::Transformer(decoder) => decoder.forward(x, other, pass),
        }
    }
}

fn attention(
    params: &mut Params,
    name: &str,
    dim: usize,
    heads: usize,
    dropout: f64,
) -> Result<Attention> {
    Attention::make(&mut params.within(name), dim, dim, heads, dropout, START)
}

/// A post-norm decoder layer (Vaswani et al., 2017).
pub(super) struct Decoder {
    itself: Attention,
    itself_norm: LayerNorm,
    cross: Attention,
    cross_norm: LayerNorm,
    ffn_in: Linear,
    ffn_out: Linear,
    ffn_norm: LayerNorm,
    dropout: f64,
}

impl Decoder {
    fn make(params: &mut Params, dim: usize, heads: usize, dropout: f64) -> Result<Self> {
        Ok(Self {
            itself: attention(params, "self", dim, heads, dropout)?,
            itself_norm: LayerNorm::make(&mut params.within("self_norm"), dim)?,
            cross: attention(params, "cross", dim, heads, dropout)?,
            cross_norm: LayerNorm::make(&mut params.within("cross_norm"), dim)?,
            ffn_in: Linear::make(&mut params.within("ffn_in"), dim, FFN, START)?,
            ffn_out: Linear::make(&mut params.within("ffn_out"), FFN, dim, START)?,
            ffn_norm: LayerNorm::make(&mut params.within("ffn_norm"), dim)?,
            dropout,
        })
    }

    fn forward(&self, x: &Tensor, other: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let y = self.itself.forward(x, x, x, None, pass)?;
        let x = self.added(&self.itself_norm, x, &y, pass)?;
        let y = self.cross.forward(&x, other, other, None, pass)?;
        let x = self.added(&self.cross_norm, &x, &y, pass)?;
        let y = ops::relu(&self.ffn_in.forward(&x, pass)?)?;
        let y = ops::dropout(&y, pass.dropout(self.dropout))?;
        let y = self.ffn_out.forward(&y, pass)?;
        self.added(&self.ffn_norm, &x, &y, pass)
    }

    fn added(&self, norm: &LayerNorm, x: &Tensor, y: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let y = ops::dropout(y, pass.dropout(self.dropout))?;
        norm.forward(&ops::add(x, &y)?, pass)
    }
}
