//! CLIP's text tower: a causal transformer over words.
//!
//! Owns the embedding, the last norm and the sentence's vector. Blocks are
//! [`crate::block`]'s; ids come from [`crate::tokenizer`].
//!
//! Source: <https://github.com/openai/CLIP>, `CLIP.encode_text`.

use candle_core::Tensor;
use twinspan_sdk::backbone::{Encoder, Weights};
use twinspan_sdk::hooks::PlaceHooks;
use twinspan_sdk::layers::{Embedding, LayerNorm, Linear};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Projection, Role, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::topology::{Shape, StreamInfo, TowerTopology, thirds};
use twinspan_sdk::{Error, Result};

use crate::block::{Block, BlockShape};
use twinspan_sdk::declare::{Declared, Layer};

/// The id that pads; CLIP's own padding and what its tokenizers write.
const PADDING: u32 = 0;

/// The sizes of a text tower, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub layers: usize,
    pub block: BlockShape,
    /// Words it has positions for.
    pub context: usize,
    pub vocabulary: usize,
    /// Width E of the joint space.
    pub joint: usize,
}

impl Text {
    pub fn topology(&self) -> TowerTopology {
        let width = self.block.width;
        let mut declared = Declared::new(Tower::Text);
        let token = Layer {
            shape: Shape::Embedding,
            ..Layer::linear(At::Embed, Projection::Token, self.vocabulary, width).bare()
        };
        declared.layer("text.token", token, &[At::Embed]);
        let positions = [self.context, width];
        declared.parameter("text.position", &positions, Role::Position, &[At::Embed]);
        for index in 0..self.layers {
            self.block.declare(&mut declared, Tower::Text, index);
        }
        declared.norm("text.norm", width, &[At::Final, At::Pooled]);
        let joint = Layer::linear(At::Pooled, Projection::Joint, width, self.joint).bare();
        declared.layer("text.joint", joint, &[At::Pooled]);
        let words = StreamInfo {
            width,
            grid: None,
            map: false,
        };
        TowerTopology {
            embed: words,
            blocks: vec![self.block.info(None); self.layers],
            stages: thirds(self.layers),
            last: words,
            context: self.context,
            projections: declared.projections,
            parameters: declared.parameters,
        }
    }

    pub fn load(&self, weights: &Weights) -> Result<TextEncoder> {
        Ok(TextEncoder {
            token: Embedding::load(weights, "text.token")?,
            positions: weights.parameter("text.position")?,
            blocks: (0..self.layers)
                .map(|i| Block::load(weights, self.block, Tower::Text, i))
                .collect::<Result<_>>()?,
            norm: LayerNorm::load(weights, "text.norm")?,
            joint: Linear::load(weights, "text.joint")?,
        })
    }
}

/// Ids `u32 [B, L]` to words `[B, L, T]` and a sentence's vector `[B, E]`.
pub(crate) struct TextEncoder {
    token: Embedding,
    /// `[context, T]`.
    positions: Parameter,
    blocks: Vec<Block>,
    norm: LayerNorm,
    joint: Linear,
}

impl Encoder for TextEncoder {
    /// The sentence ends at the first of its highest ids, which is the end token's.
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let ids: Vec<Vec<u32>> = input.to_vec2()?;
        let end = ids.iter().map(|ids| first_highest(ids));
        let Some(end) = end.collect::<Option<Vec<u32>>>() else {
            return Err(Error::plugin("a sentence without tokens has no end token"));
        };
        let padding = input.eq(PADDING)?;
        let token = hooks.projection(Projection::Token);
        let words = token.forward(&self.token, input, pass)?;
        Ok(Stream::words(words, Some(padding), end)?)
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let (tokens, context) = (stream.data.dim(1)?, self.positions.dims()[0]);
        if tokens > context {
            return Err(Error::wrong_use(format!(
                "{tokens} tokens of text, prompts included, exceed the {context} positions of the backbone"
            )));
        }
        let positions = self.positions.tensor(pass)?.narrow(0, 0, tokens)?;
        let data = ops::add(&stream.data, &positions)?;
        Ok(stream.with(data))
    }

    fn block(
        &self,
        index: usize,
        stream: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        self.blocks[index].forward(stream, hooks, pass)
    }

    /// `[B, N, T]`, not projected; prompts are still in it.
    fn features(&self, stream: &Stream, _hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        Ok(stream.with(self.norm.forward(&stream.data, pass)?))
    }

    /// The end token, normed and projected.
    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let end = self.norm.forward(&stream.at_end()?, pass)?;
        let joint = hooks.projection(Projection::Joint);
        joint.forward(&self.joint, &end, pass)
    }
}

fn first_highest(ids: &[u32]) -> Option<u32> {
    let highest = ids.iter().max()?;
    let first = ids.iter().position(|id| id == highest)?;
    u32::try_from(first).ok()
}

#[cfg(test)]
mod tests {
    use super::first_highest;

    #[test]
    fn a_sentence_ends_at_its_first_highest_id() {
        assert_eq!(first_highest(&[98, 4, 99, 99, 0]), Some(2));
        assert_eq!(first_highest(&[0, 0]), Some(0));
        assert_eq!(first_highest(&[]), None);
    }
}
