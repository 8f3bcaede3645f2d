//! A dual encoder of a few thousand parameters that has every place a hook can hang in.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::toy_block::ToyBlock;
use crate::backbone::{Backbone, Encoder, Encoders, Weights};
use crate::error::Result;
use crate::hooks::PlaceHooks;
use crate::key_map::KeyMap;
use crate::layers::{BatchNorm, Conv2d, Embedding, LayerNorm, Linear};
use crate::ops::{self, Conv};
use crate::parameter::{Init, Parameter};
use crate::pass::Pass;
use crate::plugin::{Opt, Plugin};
use crate::preparation::Preparation;
use crate::site::{At, Branch, Projection, Role, Tower};
use crate::stream::{SpanKind, Stream};
use crate::tokenizer::{Encoded, Tokenizer};
use crate::topology::{
    BlockInfo, BranchInfo, Origin, ParameterInfo, ProjectionInfo, Shape, StreamInfo, Topology,
    TowerTopology,
};

/// Two transformers with layer scales; the patches of the vision tower pass a batch norm.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Toy {
    /// Blocks of each tower.
    pub blocks: usize,
    /// Width of both towers.
    pub width: usize,
}

impl Default for Toy {
    fn default() -> Self {
        Self {
            blocks: 3,
            width: 8,
        }
    }
}

impl Plugin for Toy {
    const NAME: &'static str = "toy";
    const ABOUT: &'static str = "a dual encoder for tests";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("blocks", "whole number", "blocks of each tower"),
        Opt::new("width", "whole number", "width of both towers"),
    ];
}

impl Toy {
    /// Side of its pictures.
    pub const SIDE: usize = 8;
    /// Ids in its sentences.
    pub const WORDS: usize = 6;
    /// The id a sentence starts with.
    pub const START: u32 = 14;
    /// The id a sentence ends with; words are 1 to 13, padding is 0.
    pub const END: u32 = 15;
    /// Positions of the text tower: more than words, for prompts before positions.
    pub const CONTEXT: usize = 24;
    /// Rows and columns of its patches.
    pub const GRID: (usize, usize) = (4, 4);
    const JOINT: usize = 6;
    const HEADS: usize = 2;
    const VOCABULARY: usize = 16;
    const PATCH: Conv = Conv {
        stride: 2,
        padding: 0,
    };

    fn tower(&self, tower: Tower) -> TowerTopology {
        let stream = StreamInfo {
            width: self.width,
            grid: (tower == Tower::Vision).then_some(Self::GRID),
            map: false,
        };
        let mut parts = Parts::new(tower);
        match tower {
            Tower::Vision => parts.vision(self.width),
            Tower::Text => parts.text(self.width),
        }
        for block in 0..self.blocks {
            parts.block(block, self.width);
        }
        parts.norm(At::Final, "norm", self.width);
        // The vision tower projects every patch, the text tower its pooled vector alone.
        let joint = match tower {
            Tower::Vision => At::Final,
            Tower::Text => At::Pooled,
        };
        parts.linear(joint, Projection::Joint, "joint", (self.width, Self::JOINT));
        let last = StreamInfo {
            width: match tower {
                Tower::Vision => Self::JOINT,
                Tower::Text => self.width,
            },
            ..stream
        };
        let branch = |branch, consumers: &[Projection]| BranchInfo {
            branch,
            width: self.width,
            consumers: consumers.to_vec(),
        };
        let attention = [Projection::Query, Projection::Key, Projection::Value];
        let block = BlockInfo {
            stream,
            heads: Self::HEADS,
            branches: vec![
                branch(Branch::Attention, &attention),
                branch(Branch::Mlp, &[Projection::Up]),
            ],
        };
        TowerTopology {
            embed: stream,
            blocks: vec![block; self.blocks],
            stages: (0..self.blocks).collect(),
            last,
            context: Self::CONTEXT,
            projections: parts.projections,
            parameters: parts.parameters,
        }
    }
}

/// The lists of a tower's topology, as they grow.
struct Parts {
    tower: Tower,
    projections: Vec<ProjectionInfo>,
    parameters: Vec<ParameterInfo>,
}

impl Parts {
    fn new(tower: Tower) -> Self {
        Self {
            tower,
            projections: Vec::new(),
            parameters: Vec::new(),
        }
    }

    fn vision(&mut self, width: usize) {
        let kernel = 2;
        let shape = Shape::Conv {
            kernel,
            stride: Toy::PATCH.stride,
            padding: Toy::PATCH.padding,
        };
        self.projection(At::Embed, Projection::Patch, "patch", (3, width), shape);
        let dims = [width, 3, kernel, kernel];
        self.parameter(At::Embed, "patch.weight", &dims, Role::Weight);
        self.norm(At::Embed, "batch", width);
        for name in ["batch.running_mean", "batch.running_var"] {
            self.parameter(At::Embed, name, &[width], Role::Statistics);
        }
        self.parameter(At::Embed, "class", &[width], Role::Class);
        let rows = 1 + Toy::GRID.0 * Toy::GRID.1;
        self.parameter(At::Embed, "positions", &[rows, width], Role::Position);
        self.norm(At::Embed, "first", width);
    }

    fn text(&mut self, width: usize) {
        let size = (Toy::VOCABULARY, width);
        self.projection(
            At::Embed,
            Projection::Token,
            "token",
            size,
            Shape::Embedding,
        );
        self.parameter(At::Embed, "token.weight", &[size.0, size.1], Role::Weight);
        let positions = [Toy::CONTEXT, width];
        self.parameter(At::Embed, "positions", &positions, Role::Position);
    }

    fn block(&mut self, index: usize, d: usize) {
        use Projection::*;
        let at = At::Block(index);
        for (projection, size) in [
            (Query, (d, d)),
            (Key, (d, d)),
            (Value, (d, d)),
            (Output, (d, d)),
            (Up, (d, 2 * d)),
            (Down, (2 * d, d)),
        ] {
            let name = format!("blocks.{index}.{projection}");
            self.linear(at, projection, &name, size);
        }
        for branch in 1..=2 {
            self.norm(at, &format!("blocks.{index}.norm{branch}"), d);
            let name = format!("blocks.{index}.scale{branch}");
            self.parameter(at, &name, &[d], Role::Weight);
            if let Some(scale) = self.parameters.last_mut() {
                scale.origin = Origin::Fresh(Init::Constant(0.5));
            }
        }
    }

    fn linear(&mut self, at: At, which: Projection, name: &str, size: (usize, usize)) {
        self.projection(at, which, name, size, Shape::Linear);
        self.parameter(
            at,
            &format!("{name}.weight"),
            &[size.1, size.0],
            Role::Weight,
        );
        if which != Projection::Joint {
            self.parameter(at, &format!("{name}.bias"), &[size.1], Role::Bias);
        }
    }

    fn norm(&mut self, at: At, name: &str, width: usize) {
        self.parameter(at, &format!("{name}.weight"), &[width], Role::NormWeight);
        self.parameter(at, &format!("{name}.bias"), &[width], Role::NormBias);
    }

    fn projection(
        &mut self,
        at: At,
        projection: Projection,
        name: &str,
        (input, output): (usize, usize),
        shape: Shape,
    ) {
        self.projections.push(ProjectionInfo {
            tower: self.tower,
            at,
            projection,
            input,
            output,
            shape,
            name: format!("{}.{name}", self.tower),
        });
    }

    fn parameter(&mut self, at: At, name: &str, shape: &[usize], role: Role) {
        // The last norm and a dense joint projection serve features and pooling.
        let used = match at {
            At::Final => vec![At::Final, At::Pooled],
            at => vec![at],
        };
        self.parameters.push(ParameterInfo {
            name: format!("{}.{name}", self.tower),
            shape: shape.to_vec(),
            role,
            tower: Some(self.tower),
            used,
            origin: Origin::Base,
        });
    }
}

impl Backbone for Toy {
    fn topology(&self) -> Result<Topology> {
        let (vision, text) = (self.tower(Tower::Vision), self.tower(Tower::Text));
        Ok(Topology::new(vision, text, Self::JOINT))
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let blocks = |tower: Tower| -> Result<Vec<ToyBlock>> {
            let causal = tower == Tower::Text;
            (0..self.blocks)
                .map(|i| {
                    ToyBlock::load(weights, &format!("{tower}.blocks.{i}"), Self::HEADS, causal)
                })
                .collect()
        };
        Ok(Encoders {
            vision: Box::new(Vision {
                patch: Conv2d::load(weights, "vision.patch", Self::PATCH)?,
                batch: BatchNorm::load(weights, "vision.batch")?,
                class: weights.parameter("vision.class")?,
                positions: weights.parameter("vision.positions")?,
                first: LayerNorm::load(weights, "vision.first")?,
                blocks: blocks(Tower::Vision)?,
                norm: LayerNorm::load(weights, "vision.norm")?,
                joint: Linear::load(weights, "vision.joint")?,
            }),
            text: Box::new(Text {
                token: Embedding::load(weights, "text.token")?,
                positions: weights.parameter("text.positions")?,
                blocks: blocks(Tower::Text)?,
                norm: LayerNorm::load(weights, "text.norm")?,
                joint: Linear::load(weights, "text.joint")?,
            }),
            logit_scale: weights.parameter("logit_scale")?,
            logit_bias: None,
        })
    }

    fn layouts(&self) -> Result<Vec<KeyMap>> {
        Ok(Vec::new())
    }

    fn preparation(&self) -> Preparation {
        Preparation {
            size: Self::SIDE,
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Preparation::default()
        }
    }

    fn tokenizer(&self, _path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        Ok(Arc::new(Words))
    }
}

struct Vision {
    patch: Conv2d,
    batch: BatchNorm,
    class: Parameter,
    positions: Parameter,
    first: LayerNorm,
    blocks: Vec<ToyBlock>,
    norm: LayerNorm,
    joint: Linear,
}

impl Encoder for Vision {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let patch = hooks.projection(Projection::Patch);
        let map = patch.forward(&self.patch, input, pass)?;
        let map = self.batch.forward(&map, pass)?;
        let (b, d, h, w) = map.dims4()?;
        let patches = map.reshape((b, d, h * w))?.transpose(1, 2)?;
        let class = self.class.tensor(pass)?;
        let class = class.broadcast_as((b, 1, d))?.contiguous()?;
        Ok(Stream::patches(
            ops::concat(&class, &patches, 1)?,
            1,
            (h, w),
        ))
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let positions = self.positions.tensor(pass)?;
        Ok(stream.with(ops::add(&stream.data, &positions)?))
    }

    fn norm(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        Ok(stream.with(self.first.forward(&stream.data, pass)?))
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

    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let normed = self.norm.forward(&stream.data, pass)?;
        let joint = hooks.projection(Projection::Joint);
        Ok(stream.with(joint.forward(&self.joint, &normed, pass)?))
    }

    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let (class, _) = stream
            .span(|k| *k == SpanKind::Special)
            .ok_or_else(|| crate::Error::plugin("the toy's class token was taken out"))?;
        let class = stream.data.narrow(1, class, 1)?.squeeze(1)?;
        let normed = self.norm.forward(&class, pass)?;
        let joint = hooks.projection(Projection::Joint);
        joint.forward(&self.joint, &normed, pass)
    }
}

struct Text {
    token: Embedding,
    positions: Parameter,
    blocks: Vec<ToyBlock>,
    norm: LayerNorm,
    joint: Linear,
}

impl Encoder for Text {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let token = hooks.projection(Projection::Token);
        let words = token.forward(&self.token, input, pass)?;
        let end = input
            .to_vec2::<u32>()?
            .iter()
            .map(|ids| ids.iter().position(|id| *id == Toy::END).unwrap_or(0) as u32)
            .collect();
        Ok(Stream::words(words, Some(input.eq(0u32)?), end)?.started()?)
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let words = stream.data.dim(1)?;
        if words > Toy::CONTEXT {
            return Err(crate::Error::wrong_use(format!(
                "{words} tokens for {} positions",
                Toy::CONTEXT
            )));
        }
        let positions = self.positions.tensor(pass)?.narrow(0, 0, words)?;
        Ok(stream.with(ops::add(&stream.data, &positions)?))
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

    fn features(&self, stream: &Stream, _: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        Ok(stream.with(self.norm.forward(&stream.data, pass)?))
    }

    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let normed = self.norm.forward(&stream.at_end()?, pass)?;
        let joint = hooks.projection(Projection::Joint);
        joint.forward(&self.joint, &normed, pass)
    }
}

/// The toy's tokenizer: a word's id is a hash of its letters.
#[derive(Clone, Copy, Debug)]
pub struct Words;

impl Tokenizer for Words {
    fn encode(&self, sentence: &str, len: usize) -> Encoded {
        let id = |word: &str| 1 + (crate::random::hash(word) % 13) as u32;
        let mut ids = vec![Toy::START];
        ids.extend(sentence.split_whitespace().map(id));
        let cut = ids.len() + 1 > len;
        ids.truncate(len.saturating_sub(1));
        let end = ids.len() as u32;
        ids.push(Toy::END);
        ids.resize(len, 0);
        Encoded { ids, end, cut }
    }

    fn vocabulary(&self) -> usize {
        Toy::VOCABULARY
    }
}
