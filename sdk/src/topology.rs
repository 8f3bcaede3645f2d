//! What a backbone is made of, known from its configuration alone.
//!
//! Owns the description that plans are made from: widths, blocks, stages, projections, existing
//! parameters. Holds no weights and reads none.

use crate::parameter::Init;
use crate::regrid::Regrid;
use crate::site::{At, Branch, Projection, Role, Tower};

/// A dual encoder from outside: two towers and their joint space.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The vision tower.
    pub vision: TowerTopology,
    /// The text tower.
    pub text: TowerTopology,
    /// Width of the joint space, E.
    pub joint: usize,
    /// How similarities of pairs become probabilities.
    pub contrast: Contrast,
    /// Existing parameters that belong to neither tower (the logit scale).
    pub shared: Vec<ParameterInfo>,
}

/// How similarities of pairs become probabilities: what the model was trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contrast {
    /// Among all that a picture or a sentence is compared with (CLIP).
    #[default]
    Softmax,
    /// Each pair for itself (SigLIP, arXiv 2303.15343).
    Sigmoid,
}

/// One tower from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct TowerTopology {
    /// The stream after the embedding.
    pub embed: StreamInfo,
    /// The blocks in order. A ResNet's blocks are its bottlenecks.
    pub blocks: Vec<BlockInfo>,
    /// The last block of each stage at which features of another depth begin: thirds of a
    /// transformer, layers 2 to 4 of a ResNet.
    pub stages: Vec<usize>,
    /// The stream as [`At::Final`] gives it.
    pub last: StreamInfo,
    /// Tokens the tower can position: words of a sentence. Unused for pictures.
    pub context: usize,
    /// Projections, query, key and value one by one.
    pub projections: Vec<ProjectionInfo>,
    /// Parameters and buffers that exist in the base.
    pub parameters: Vec<ParameterInfo>,
}

/// One block from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockInfo {
    /// The stream it gives.
    pub stream: StreamInfo,
    /// Heads of its attention, 0 without one.
    pub heads: usize,
    /// Its residual branches, in order.
    pub branches: Vec<BranchInfo>,
}

/// A residual branch from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchInfo {
    /// Which branch.
    pub branch: Branch,
    /// Width of its output.
    pub width: usize,
    /// The projections that read the branch's normed input: what acts on that norm's output
    /// folds into all of them. Empty where anything else reads it too: then nothing folds.
    pub consumers: Vec<Projection>,
}

/// Shape of a stream, without its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Width D of its tokens or channels C of its map.
    pub width: usize,
    /// Rows and columns where the stream lies on a grid (patches or a map).
    pub grid: Option<(usize, usize)>,
    /// Whether it is a map `[B, C, H, W]`; otherwise tokens `[B, N, D]`.
    pub map: bool,
}

/// How a projection maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[out, in]` on the last dimension.
    Linear,
    /// `[out, in, k, k]` on maps.
    Conv {
        /// Kernel size.
        kernel: usize,
        /// Stride.
        stride: usize,
        /// Zero padding on every side.
        padding: usize,
    },
    /// `[in, out]`: rows picked by id; `in` is the vocabulary.
    Embedding,
}

/// A projection from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionInfo {
    /// Its tower.
    pub tower: Tower,
    /// Its depth.
    pub at: At,
    /// Which one.
    pub projection: Projection,
    /// Input width.
    pub input: usize,
    /// Output width.
    pub output: usize,
    /// How it maps.
    pub shape: Shape,
    /// The canonical name of its weight, without `.weight`.
    pub name: String,
}

/// An existing parameter or buffer from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterInfo {
    /// Canonical name.
    pub name: String,
    /// Shape in use.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Its tower; none for the logit scale.
    pub tower: Option<Tower>,
    /// The depths whose computation reads it.
    pub used: Vec<At>,
    /// Where its value comes from.
    pub origin: Origin,
}

/// Where the value of an existing parameter comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Stored in the base as it is used.
    Base,
    /// A table of positions stored for another grid; resized once, when the model is built.
    /// `special` rows in front keep their values.
    Resized {
        /// Rows in front that do not lie on the grid.
        special: usize,
        /// The grid that is used; the stored one is square.
        to: (usize, usize),
        /// How.
        by: Regrid,
    },
    /// Not in the base: made from the seed and kept in the overlay.
    Fresh(Init),
}

impl Topology {
    /// Two towers and a joint space of width `joint`, with the parameter `logit_scale`.
    pub fn new(vision: TowerTopology, text: TowerTopology, joint: usize) -> Self {
        Self {
            vision,
            text,
            joint,
            contrast: Contrast::Softmax,
            shared: vec![of_logits(LOGIT_SCALE)],
        }
    }

    /// The same, each pair for itself: with the parameter `logit_bias` too.
    #[must_use]
    pub fn sigmoid(mut self) -> Self {
        self.contrast = Contrast::Sigmoid;
        self.shared.push(of_logits(LOGIT_BIAS));
        self
    }

    /// The topology of `tower`.
    pub fn tower(&self, tower: Tower) -> &TowerTopology {
        match tower {
            Tower::Vision => &self.vision,
            Tower::Text => &self.text,
        }
    }

    /// Projections of both towers.
    pub fn projections(&self) -> impl Iterator<Item = &ProjectionInfo> {
        self.vision.projections.iter().chain(&self.text.projections)
    }

    /// Existing parameters and buffers of both towers and between them.
    pub fn parameters(&self) -> impl Iterator<Item = &ParameterInfo> {
        self.vision
            .parameters
            .iter()
            .chain(&self.text.parameters)
            .chain(&self.shared)
    }

    /// The stream at a depth of a tower, if the tower has it.
    pub fn stream(&self, tower: Tower, at: At) -> Option<StreamInfo> {
        let this = self.tower(tower);
        match at {
            At::Embed => Some(this.embed),
            At::Block(i) => this.blocks.get(i).map(|b| b.stream),
            At::Final => Some(this.last),
            At::Pooled => Some(StreamInfo {
                width: self.joint,
                grid: None,
                map: false,
            }),
            At::Logits => None,
        }
    }

    /// Values held by the base: its size as methods' papers count it, buffers left out.
    pub fn parameter_count(&self) -> usize {
        self.parameters()
            .filter(|p| p.role != Role::Statistics && !matches!(p.origin, Origin::Fresh(_)))
            .map(ParameterInfo::count)
            .sum()
    }
}

/// Name of the parameter `[]` that is the natural logarithm of the factor on similarities.
pub const LOGIT_SCALE: &str = "logit_scale";
/// Name of the parameter `[]` that is added to them behind the factor.
pub const LOGIT_BIAS: &str = "logit_bias";

/// A number that acts on the similarities of pairs.
fn of_logits(name: &str) -> ParameterInfo {
    ParameterInfo {
        name: name.into(),
        shape: Vec::new(),
        role: Role::Scale,
        tower: None,
        used: vec![At::Logits],
        origin: Origin::Base,
    }
}

impl ParameterInfo {
    /// Values in it.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The last block of each third of `blocks`; of fewer than three, each block.
pub fn thirds(blocks: usize) -> Vec<usize> {
    let mut ends: Vec<usize> = (1..=3)
        .filter_map(|k| (k * blocks / 3).checked_sub(1))
        .collect();
    ends.dedup();
    ends
}
