//! Places in a dual encoder, by name: towers, taps, projections, branches, roles.
//!
//! Owns the vocabulary in which recipes, adapters and tasks speak of a backbone. Does not know
//! which of these places a given backbone has; that is its [`Topology`](crate::topology).

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two encoders of a dual encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tower {
    /// The encoder of pictures.
    Vision,
    /// The encoder of sentences.
    Text,
}

impl Tower {
    /// Both towers, vision first.
    pub const BOTH: [Tower; 2] = [Tower::Vision, Tower::Text];

    /// The other tower.
    pub fn other(self) -> Self {
        match self {
            Tower::Vision => Tower::Text,
            Tower::Text => Tower::Vision,
        }
    }
}

/// A point in the depth of a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// The embedding: tokens or stem, positions, first norm.
    Embed,
    /// A block, counted from 0. As a tap: its output, bridges at it included.
    Block(usize),
    /// The tower's last features: every word or patch, after the last norm and, where the
    /// backbone projects them densely, in the joint space.
    Final,
    /// One vector per item in the joint space.
    Pooled,
    /// The similarity of the two pooled vectors (the logit scale lives here).
    Logits,
}

/// A stream that someone looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tap {
    /// The tower looked at.
    pub tower: Tower,
    /// Where in it.
    pub at: At,
}

impl Tap {
    /// The tap at `at` in the vision tower.
    pub fn vision(at: At) -> Self {
        Self {
            tower: Tower::Vision,
            at,
        }
    }

    /// The tap at `at` in the text tower.
    pub fn text(at: At) -> Self {
        Self {
            tower: Tower::Text,
            at,
        }
    }
}

/// A step of the embedding after which a stream hook can act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EmbedStep {
    /// Word embeddings or patches exist, without positions (CoOp inserts here).
    Tokens,
    /// Positions are added (VPT inserts here).
    Positions,
    /// The first norm is applied, where the tower has one.
    Norm,
}

/// Where a stream hook acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Within the embedding.
    Embed(EmbedStep),
    /// Before a block.
    Before(usize),
    /// After a block, before any bridge at it.
    After(usize),
}

/// On which side of a block a stream hook acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Before it.
    Before,
    /// After it, before any bridge there.
    After,
}

impl Edge {
    /// The moment on this side of block `block`.
    pub fn of(self, block: usize) -> Moment {
        match self {
            Edge::Before => Moment::Before(block),
            Edge::After => Moment::After(block),
        }
    }
}

impl Moment {
    /// The depth this moment belongs to: what must have been read before it.
    pub fn at(self) -> At {
        match self {
            Moment::Embed(_) => At::Embed,
            Moment::Before(i) | Moment::After(i) => At::Block(i),
        }
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The name used in recipes, messages and file names.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// A weight that maps one width to another: linear, convolution or embedding.
    ///
    /// Query, key and value are one by one even where a checkpoint fuses them.
    Projection {
        /// The table of word embeddings.
        Token = "token",
        /// The convolution that cuts a picture into patches.
        Patch = "patch",
        /// Query of an attention.
        Query = "query",
        /// Key of an attention.
        Key = "key",
        /// Value of an attention.
        Value = "value",
        /// Output of an attention.
        Output = "output",
        /// First layer of an MLP.
        Up = "up",
        /// Second layer of an MLP.
        Down = "down",
        /// First convolution of a bottleneck or stem.
        Conv1 = "conv1",
        /// Second convolution of a bottleneck or stem.
        Conv2 = "conv2",
        /// Third convolution of a bottleneck or stem.
        Conv3 = "conv3",
        /// Fourth convolution of a stem.
        Conv4 = "conv4",
        /// Convolution of a bottleneck's shortcut.
        Shortcut = "shortcut",
        /// Residual convolution around a dense attention pool (ETRIS's `connect`).
        Connect = "connect",
        /// Projection into the joint space.
        Joint = "joint",
    }
}

names! {
    /// A residual branch of a block.
    Branch {
        /// Self-attention.
        Attention = "attention",
        /// The two-layer perceptron.
        Mlp = "mlp",
        /// The convolutions of a bottleneck.
        Convolution = "convolution",
    }
}

names! {
    /// What an existing parameter is for.
    Role {
        /// Weight of a projection.
        Weight = "weight",
        /// Bias of a projection.
        Bias = "bias",
        /// Weight of a norm.
        NormWeight = "norm-weight",
        /// Bias of a norm.
        NormBias = "norm-bias",
        /// Table of positions.
        Position = "position",
        /// Class token and registers.
        Class = "class",
        /// Logit scale and logit bias.
        Scale = "scale",
        /// Running mean or variance of a batch norm: a buffer, never trained by gradient.
        Statistics = "statistics",
    }
}

/// Which places an adapter is asked to act on; an empty list means all that it can serve.
///
/// In a recipe: `sites = { towers = ["text"], blocks = [0, 1], projections = ["query"] }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sites {
    /// Towers; default both.
    pub towers: Vec<Tower>,
    /// Blocks, counted from 0; default all. Embedding and final layers are outside of blocks:
    /// they are left out as soon as blocks are named.
    pub blocks: Vec<usize>,
    /// Of each tower, only so many of the last blocks and what follows them; default 0 for all.
    pub last: usize,
    /// Projections; the default is the adapter's own, without those at the end of a tower that
    /// the task reads nowhere.
    pub projections: Vec<Projection>,
    /// Branches; the default is the adapter's own.
    pub branches: Vec<Branch>,
}

impl Sites {
    /// Whether the place `at` in `tower`, which has so many blocks, is asked for.
    pub fn covers(&self, tower: Tower, at: At, blocks: usize) -> bool {
        let in_tower = self.towers.is_empty() || self.towers.contains(&tower);
        let in_depth =
            self.blocks.is_empty() || matches!(at, At::Block(i) if self.blocks.contains(&i));
        let at_end = match at {
            _ if self.last == 0 => true,
            At::Embed => false,
            At::Block(i) => i.saturating_add(self.last) >= blocks,
            At::Final | At::Pooled | At::Logits => true,
        };
        in_tower && in_depth && at_end
    }
}

impl fmt::Display for Tower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tower::Vision => "vision",
            Tower::Text => "text",
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Embed => f.write_str("embed"),
            At::Block(i) => write!(f, "blocks.{i}"),
            At::Final => f.write_str("final"),
            At::Pooled => f.write_str("pooled"),
            At::Logits => f.write_str("logits"),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Embed(EmbedStep::Tokens) => f.write_str("before positions"),
            Moment::Embed(EmbedStep::Positions) => f.write_str("after positions"),
            Moment::Embed(EmbedStep::Norm) => f.write_str("after the first norm"),
            Moment::Before(i) => write!(f, "before block {i}"),
            Moment::After(i) => write!(f, "after block {i}"),
        }
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tower, self.at)
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(items: &[T]) -> String {
            let names: Vec<String> = items.iter().map(T::to_string).collect();
            names.join(", ")
        }
        let mut parts = Vec::new();
        if !self.towers.is_empty() {
            parts.push(format!("towers [{}]", list(&self.towers)));
        }
        if !self.blocks.is_empty() {
            parts.push(format!("blocks [{}]", list(&self.blocks)));
        }
        if self.last > 0 {
            parts.push(format!("the last {} blocks", self.last));
        }
        if !self.projections.is_empty() {
            parts.push(format!("projections [{}]", list(&self.projections)));
        }
        if !self.branches.is_empty() {
            parts.push(format!("branches [{}]", list(&self.branches)));
        }
        match parts.is_empty() {
            true => f.write_str("everything"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}
