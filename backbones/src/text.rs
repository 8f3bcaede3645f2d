//! The text tower that all families share: a transformer over words.
//!
//! Owns the embedding, the last norm and the sentence's vector. Blocks are
//! [`crate::block`]'s; ids come from [`crate::tokenizer`].
//!
//! Sources: <https://github.com/openai/CLIP>, `CLIP.encode_text`; SigLIP (arXiv 2303.15343).

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
    pub projection: Projected,
    pub reading: Reading,
}

/// Whether a sentence's vector is projected into the joint space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projected {
    /// By a matrix, with a bias or without.
    With { bias: bool },
    /// The tower is as wide as the joint space.
    Not,
}

/// Where a sentence's vector is read, and what is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// At the first of its highest ids, which is the end token's in CLIP's vocabulary; 0 pads, as
    /// CLIP's tokenizers write it.
    Highest,
    /// At the first place with the end token's id; 0 pads.
    End(u32),
    /// At the last place. The tower was trained on sentences padded to its whole context, so
    /// shorter ones are padded here, whatever length a task asks for.
    Last {
        /// The id that pads.
        padding: u32,
        /// The id behind a sentence's words; it may be the same.
        end: u32,
    },
}

impl Reading {
    /// The place at which each sentence is read.
    fn ends(self, sentences: &[Vec<u32>]) -> Result<Vec<u32>> {
        let place = |ids: &Vec<u32>| match self {
            Reading::Highest => first_highest(ids),
            Reading::End(end) => first(ids, end).or(Some(0)),
            Reading::Last { .. } => u32::try_from(ids.len()).ok()?.checked_sub(1),
        };
        let ends = sentences.iter().map(place).collect::<Option<_>>();
        ends.ok_or_else(|| Error::plugin("a sentence without tokens has no end token"))
    }

    /// Whether each id of a sentence is padding.
    fn padding(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Reading::Highest | Reading::End(_) => ids.iter().map(|id| u8::from(*id == 0)).collect(),
            Reading::Last { padding, end } => {
                let words = ids.iter().position(|id| *id == end).map_or(0, |at| at + 1);
                let behind = |(at, id): (usize, &u32)| u8::from(at >= words && *id == padding);
                ids.iter().enumerate().map(behind).collect()
            }
        }
    }
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
        if let Projected::With { bias } = self.projection {
            let joint = Layer {
                bias,
                ..Layer::linear(At::Pooled, Projection::Joint, width, self.joint)
            };
            declared.layer("text.joint", joint, &[At::Pooled]);
        }
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
            norm: LayerNorm::load(weights, "text.norm")?.with_eps(self.block.eps),
            reading: self.reading,
            joint: match self.projection {
                Projected::With { .. } => Some(Linear::load(weights, "text.joint")?),
                Projected::Not => None,
            },
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
    reading: Reading,
    joint: Option<Linear>,
}

impl Encoder for TextEncoder {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let mut sentences: Vec<Vec<u32>> = input.to_vec2()?;
        if let Reading::Last { padding, .. } = self.reading {
            let context = self.positions.dims()[0];
            let short = sentences.iter_mut().filter(|ids| ids.len() < context);
            short.for_each(|ids| ids.resize(context, padding));
        }
        let ends = self.reading.ends(&sentences)?;
        let (device, rows) = (input.device(), sentences.len());
        let masks: Vec<u8> = sentences
            .iter()
            .flat_map(|ids| self.reading.padding(ids))
            .collect();
        let ids = sentences.concat();
        let shape = (rows, ids.len() / rows.max(1));
        let token = hooks.projection(Projection::Token);
        let ids = Tensor::from_vec(ids, shape, device)?;
        let words = token.forward(&self.token, &ids, pass)?;
        let padding = Tensor::from_vec(masks, shape, device)?;
        let stream = Stream::words(words, Some(padding), ends)?;
        match self.reading {
            Reading::Highest | Reading::End(_) => Ok(stream.started()?),
            Reading::Last { .. } => Ok(stream),
        }
    }

    /// Prompts push padding out at the end where the sentences with them exceed the context.
    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let (tokens, context) = (stream.data.dim(1)?, self.positions.dims()[0]);
        let (mut stream, mut tokens) = (stream, tokens);
        if let Some(more) = tokens.checked_sub(context) {
            stream = stream.without_padding(more)?;
            tokens = stream.data.dim(1)?;
        }
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

    /// The end token, or the last one, normed and, where the tower projects it, projected.
    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let end = self.norm.forward(&stream.at_end()?, pass)?;
        match &self.joint {
            Some(joint) => hooks
                .projection(Projection::Joint)
                .forward(joint, &end, pass),
            None => Ok(end),
        }
    }
}

fn first_highest(ids: &[u32]) -> Option<u32> {
    first(ids, *ids.iter().max()?)
}

/// The first place of an id.
fn first(ids: &[u32], wanted: u32) -> Option<u32> {
    let first = ids.iter().position(|id| *id == wanted)?;
    u32::try_from(first).ok()
}

#[cfg(test)]
mod tests {
    use super::{Reading, first_highest};

    #[test]
    fn a_sentence_ends_at_its_first_highest_id() {
        assert_eq!(first_highest(&[98, 4, 99, 99, 0]), Some(2));
        assert_eq!(first_highest(&[0, 0]), Some(0));
        assert_eq!(first_highest(&[]), None);
    }

    #[test]
    fn what_pads_lies_behind_the_end() {
        let same = Reading::Last { padding: 1, end: 1 };
        assert_eq!(same.padding(&[7, 1, 1, 1]), [0, 0, 1, 1]);
        assert_eq!(same.padding(&[7, 8, 9, 1]), [0, 0, 0, 0]);
        let other = Reading::Last { padding: 0, end: 1 };
        assert_eq!(other.padding(&[0, 7, 1, 0]), [0, 0, 0, 1]);
        assert_eq!(Reading::Highest.padding(&[98, 4, 99, 0]), [0, 0, 0, 1]);
    }

    #[test]
    fn a_sentence_is_read_at_its_end_or_at_the_last_place() {
        let sentences = [vec![98, 4, 99, 0], vec![98, 99, 0, 0]];
        assert_eq!(Reading::Highest.ends(&sentences).unwrap(), [2, 1]);
        assert_eq!(Reading::End(4).ends(&sentences).unwrap(), [1, 0]);
        let last = Reading::Last { padding: 1, end: 1 };
        assert_eq!(last.ends(&sentences).unwrap(), [3, 3]);
        assert!(last.ends(&[Vec::new()]).is_err());
    }
}
