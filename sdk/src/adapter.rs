//! The contract of an adapter.
//!
//! Owns the traits an adapter implements and the slots it is given. Which slots there are is the
//! plan's business ([`crate::plan`]); what can be hung into them is [`crate::hooks`]'s.
//!
//! # Writing an adapter
//!
//! An adapter is a serde struct of its options. It says which places it wants, is given the
//! matching [`Slot`]s with their dimensions, makes its parameters once over all of them and hangs
//! a hook into each. It never sees a backbone's type:
//!
//! ```
//! use candle_core::Tensor;
//! use serde::{Deserialize, Serialize};
//! use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
//! use twinspan_sdk::hooks::{Affine, Hooks};
//! use twinspan_sdk::parameter::{Init, Params};
//! use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
//! use twinspan_sdk::site::{Projection, Sites};
//! use twinspan_sdk::{Result, register};
//!
//! /// IA3: a learned scale on keys and values (Liu et al., 2022).
//! #[derive(Clone, Default, Serialize, Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Gain {
//!     sites: Sites,
//! }
//!
//! impl Plugin for Gain {
//!     const NAME: &'static str = "gain";
//!     const ABOUT: &'static str = "a learned scale on keys and values";
//!     const OPTIONS: &'static [Opt] = &[Opt::sites("both towers, key and value")];
//! }
//!
//! impl Adapter for Gain {
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities { identity_at_start: true, mergeable: true, ..Default::default() }
//!     }
//!     fn wants(&self) -> Vec<Want> {
//!         vec![Want::Projections {
//!             sites: self.sites.clone(),
//!             default: &[Projection::Key, Projection::Value],
//!         }]
//!     }
//!     fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
//!         for slot in slots.iter().filter_map(Slot::projection) {
//!             let scale = params.within(&slot.name).trained("scale", &[slot.output], Init::Ones)?;
//!             hooks.output(slot, Affine { scale: Some(scale), shift: None, channels: slot.channels() });
//!         }
//!         Ok(Box::new(Idle))
//!     }
//! }
//!
//! register!(adapter: Gain);
//! ```

use std::fmt;
use std::ops::Range;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::base::Base;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::parameter::Params;
use crate::pass::Pass;
use crate::plugin::Capabilities;
use crate::site::{At, Branch, Edge, Moment, Projection, Role, Sites, Tap, Tower};
use crate::task::Dataset;
use crate::tokenizer::Tokenizer;
use crate::topology::{Shape, StreamInfo};
use crate::tuned::Tuned;

/// An adapter: small trainable parts beside, between or around frozen weights.
pub trait Adapter: Send + Sync {
    /// What it promises; the laws of the testkit are chosen by it.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// The places it wants. One that matches nothing in the backbone is an error.
    fn wants(&self) -> Vec<Want>;

    /// Its options, with what they leave open filled in from the training data: how much there
    /// is to remember (Tip-Adapter's keys). What the options say stays. `None` where data tells
    /// it nothing. Asked once, before a model is made anew; the recipe in the artifact says it.
    ///
    /// # Errors
    /// The data is not what the adapter is for.
    fn fitted(&self, _training: Training) -> Result<Option<toml::Table>> {
        Ok(None)
    }

    /// What the hook in `slot` looks at elsewhere. The order of the towers follows from it.
    /// Existing parameters have no hook and read nothing.
    fn reads(&self, _slot: &Slot) -> Vec<Tap> {
        Vec::new()
    }

    /// Makes the adapter's parameters, once over all its slots, and hangs its hooks.
    ///
    /// # Errors
    /// An option does not fit the slots' dimensions.
    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed>;
}

/// What an installed adapter does in the course of its life.
pub type Installed = Box<dyn Life>;

/// The life of an installed adapter; every step has an empty default.
pub trait Life: Send + Sync {
    /// Starts from weights, tokenizer or data: PiSSA's factors, DoRA's norms, CoOp's words,
    /// Tip-Adapter's keys. Called once, when a model is made anew, not when it is loaded.
    ///
    /// # Errors
    /// What it starts from is not there.
    fn prepare(&mut self, _source: &Source) -> Result<()> {
        Ok(())
    }

    /// A scalar added to the loss (AdaLoRA's orthogonality).
    ///
    /// # Errors
    /// An operation failed.
    fn penalty(&self, _pass: &Pass) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Called when the optimiser has written a step, with the step's mean gradients before
    /// clipping (AdaLoRA's ranks). State that must survive an interruption lives in buffers.
    ///
    /// # Errors
    /// An operation failed.
    fn after_step(&mut self, _progress: Progress, _gradients: &GradStore) -> Result<()> {
        Ok(())
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The step that was taken, counted from 0.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
}

/// A life without events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle;

impl Life for Idle {}

/// What [`Life::prepare`] can start from.
pub struct Source<'a> {
    /// The frozen weights.
    pub base: &'a Base,
    /// The model, adapters installed: a forward pass gives what an adapter's hooks read
    /// (Tip-Adapter's keys are pooled vectors of the training pictures).
    pub model: &'a Tuned,
    /// The tokenizer, when the recipe names one.
    pub tokenizer: Option<&'a dyn Tokenizer>,
    /// What it will train on, when there is data.
    pub training: Option<Training<'a>>,
}

/// The data that a model trains on.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// The data.
    pub data: &'a dyn Dataset,
    /// The split of it that trains.
    pub split: &'a str,
}

impl Source<'_> {
    /// The weight of a projection as hooks see it, `[out, in]` or `[out, in, k, k]`, before any
    /// hook: that of an embedding is turned to `[out, in]`.
    ///
    /// # Errors
    /// The base lacks it.
    pub fn weight(&self, slot: &ProjectionSlot) -> Result<Tensor> {
        let weight = self.model.value(&format!("{}.weight", slot.name))?;
        match slot.shape {
            Shape::Embedding => Ok(weight.t()?.contiguous()?),
            Shape::Linear | Shape::Conv { .. } => Ok(weight),
        }
    }
}

/// A wish for places of one kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Want {
    /// Projections; `default` where `sites` names none.
    Projections {
        /// The choice.
        sites: Sites,
        /// The adapter's own choice of projections.
        default: &'static [Projection],
    },
    /// Branches of blocks, their norm's output included; `default` where `sites` names none.
    Branches {
        /// The choice.
        sites: Sites,
        /// The adapter's own choice of branches.
        default: &'static [Branch],
    },
    /// The stream at single moments of one tower.
    Streams {
        /// The tower.
        tower: Tower,
        /// The moments.
        moments: Vec<Moment>,
    },
    /// The stream on one side of each of some blocks; of `default`, as many as a tower has, where
    /// `sites` names none.
    Between {
        /// The choice.
        sites: Sites,
        /// The adapter's own choice of blocks.
        default: Range<usize>,
        /// The side.
        edge: Edge,
    },
    /// Keys and values of attentions.
    KeyValues {
        /// The choice.
        sites: Sites,
    },
    /// Both streams at the ends of stages, counted from 1.
    Stages {
        /// Which stages; empty means all.
        stages: Vec<usize>,
    },
    /// The pooled vectors.
    Pooled {
        /// Towers; empty means both.
        towers: Vec<Tower>,
    },
    /// The logits of the joint space.
    Logits,
    /// Places whose dimensions or names the adapter must know, and at which it does not act: the
    /// patch size, the table of words. They are slots like others, behind those of other wishes.
    Look(Box<Want>),
    /// Existing parameters by role; empty roles mean all that train by gradient.
    Parameters {
        /// Roles.
        roles: Vec<Role>,
        /// The choice.
        sites: Sites,
    },
}

/// A place that was found for a [`Want`], with its dimensions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Slot {
    /// A projection.
    Projection(ProjectionSlot),
    /// A branch of a block.
    Branch(BranchSlot),
    /// A moment of a stream.
    Stream(StreamSlot),
    /// Keys and values of an attention.
    KeyValue(KeyValueSlot),
    /// Both streams at the end of a stage.
    Stage(StageSlot),
    /// A pooled vector.
    Pooled(PooledSlot),
    /// The logits of the joint space.
    Logits(LogitsSlot),
    /// An existing parameter.
    Parameter(ParameterSlot),
}

/// A projection to act on.
#[derive(Clone, Debug)]
pub struct ProjectionSlot {
    /// Its tower.
    pub tower: Tower,
    /// Its depth.
    pub at: At,
    /// Which one.
    pub projection: Projection,
    /// Its canonical name.
    pub name: String,
    /// Input width.
    pub input: usize,
    /// Output width.
    pub output: usize,
    /// How it maps.
    pub shape: Shape,
}

/// A branch to act on.
#[derive(Clone, Debug)]
pub struct BranchSlot {
    /// Its tower.
    pub tower: Tower,
    /// Its block.
    pub block: usize,
    /// Which branch.
    pub branch: Branch,
    /// Width of its output.
    pub width: usize,
    /// The stream that the block gives.
    pub stream: StreamInfo,
    /// The stream that the block reads: its width is that of the branch's input, and in a
    /// ResNet neither it nor the grid need be the output's.
    pub before: StreamInfo,
}

/// A moment of a stream to act on.
#[derive(Clone, Debug)]
pub struct StreamSlot {
    /// Its tower.
    pub tower: Tower,
    /// When.
    pub moment: Moment,
    /// The stream there.
    pub stream: StreamInfo,
}

/// Keys and values to act on.
#[derive(Clone, Debug)]
pub struct KeyValueSlot {
    /// Its tower.
    pub tower: Tower,
    /// Its block.
    pub block: usize,
    /// Width of keys and values.
    pub width: usize,
    /// Heads they are cut into.
    pub heads: usize,
}

/// The end of a stage in both towers.
#[derive(Clone, Debug)]
pub struct StageSlot {
    /// Counted from 1.
    pub stage: usize,
    /// Stages the backbone has.
    pub stages: usize,
    /// Block of the vision tower after which it lies, and the stream there.
    pub vision: (usize, StreamInfo),
    /// Block of the text tower after which it lies, and the stream there.
    pub text: (usize, StreamInfo),
    /// The grid at the middle stage, on which all stages can meet.
    pub middle: Option<(usize, usize)>,
}

/// A pooled vector to act on.
#[derive(Clone, Debug)]
pub struct PooledSlot {
    /// Its tower.
    pub tower: Tower,
    /// Its width.
    pub width: usize,
}

/// The logits to act on.
#[derive(Clone, Debug)]
pub struct LogitsSlot {
    /// Width of the pooled vectors whose similarities they are.
    pub width: usize,
}

/// An existing parameter to train.
#[derive(Clone, Debug)]
pub struct ParameterSlot {
    /// Its canonical name.
    pub name: String,
    /// Its shape in use.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Its tower; none for the logit scale.
    pub tower: Option<Tower>,
    /// Its value in the base; none while planning, which reads no weights.
    pub value: Option<Tensor>,
}

impl Slot {
    /// The tower and depth the slot lies at; none for stages and what lies outside of towers.
    pub fn place(&self) -> Option<(Tower, At)> {
        match self {
            Slot::Projection(s) => Some((s.tower, s.at)),
            Slot::Branch(s) => Some((s.tower, At::Block(s.block))),
            Slot::Stream(s) => Some((s.tower, s.moment.at())),
            Slot::KeyValue(s) => Some((s.tower, At::Block(s.block))),
            Slot::Pooled(s) => Some((s.tower, At::Pooled)),
            Slot::Stage(_) | Slot::Logits(_) | Slot::Parameter(_) => None,
        }
    }

    /// The projection, if it is one.
    pub fn projection(&self) -> Option<&ProjectionSlot> {
        match self {
            Slot::Projection(s) => Some(s),
            _ => None,
        }
    }

    /// The branch, if it is one.
    pub fn branch(&self) -> Option<&BranchSlot> {
        match self {
            Slot::Branch(s) => Some(s),
            _ => None,
        }
    }

    /// The stage, if it is one.
    pub fn stage(&self) -> Option<&StageSlot> {
        match self {
            Slot::Stage(s) => Some(s),
            _ => None,
        }
    }

    /// The stream, if it is one.
    pub fn stream(&self) -> Option<&StreamSlot> {
        match self {
            Slot::Stream(s) => Some(s),
            _ => None,
        }
    }

    /// The keys and values, if it is them.
    pub fn key_value(&self) -> Option<&KeyValueSlot> {
        match self {
            Slot::KeyValue(s) => Some(s),
            _ => None,
        }
    }

    /// The pooled vector, if it is one.
    pub fn pooled(&self) -> Option<&PooledSlot> {
        match self {
            Slot::Pooled(s) => Some(s),
            _ => None,
        }
    }

    /// The logits, if it is them.
    pub fn logits(&self) -> Option<&LogitsSlot> {
        match self {
            Slot::Logits(s) => Some(s),
            _ => None,
        }
    }

    /// The existing parameter, if it is one.
    pub fn parameter(&self) -> Option<&ParameterSlot> {
        match self {
            Slot::Parameter(s) => Some(s),
            _ => None,
        }
    }
}

/// Where an adapter acts, in words: `projections (query, value)`.
impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(items: &[T]) -> String {
            let items: Vec<String> = items.iter().map(T::to_string).collect();
            items.join(", ")
        }
        fn chosen<T: ToString + Clone>(asked: &[T], default: &[T]) -> String {
            match asked.is_empty() {
                true => list(default),
                false => list(asked),
            }
        }
        let of = |towers: &[Tower]| match towers {
            [tower] => format!("{tower} "),
            _ => String::new(),
        };
        match self {
            Want::Projections { sites, default } => {
                let (of, which) = (of(&sites.towers), chosen(&sites.projections, default));
                write!(f, "{of}projections ({which})")
            }
            Want::Branches { sites, default } => {
                let (of, which) = (of(&sites.towers), chosen(&sites.branches, default));
                write!(f, "{of}branches ({which})")
            }
            Want::Streams { tower, moments } => {
                let moments: Vec<String> = moments.iter().map(Moment::to_string).collect();
                write!(f, "the {tower} stream {}", moments.join(" and "))
            }
            Want::Between { sites, edge, .. } => {
                let side = match edge {
                    Edge::Before => "before",
                    Edge::After => "after",
                };
                write!(f, "the {}stream {side} blocks", of(&sites.towers))
            }
            Want::KeyValues { sites } => write!(f, "{}keys and values", of(&sites.towers)),
            Want::Stages { .. } => f.write_str("both streams at the ends of stages"),
            Want::Pooled { towers } => write!(f, "{}pooled vectors", of(towers)),
            Want::Look(at) => write!(f, "looks at {at}"),
            Want::Logits => f.write_str("logits"),
            Want::Parameters { roles, .. } => match roles.is_empty() {
                true => f.write_str("existing parameters"),
                false => write!(f, "existing parameters ({})", list(roles)),
            },
        }
    }
}

/// The name of the place in plans and messages.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Projection(s) => f.write_str(&s.name),
            Slot::Branch(s) => write!(f, "{}.blocks.{}.{}", s.tower, s.block, s.branch),
            Slot::Stream(s) => write!(f, "{} {}", s.tower, s.moment),
            Slot::KeyValue(s) => write!(f, "{}.blocks.{}.key-value", s.tower, s.block),
            Slot::Stage(s) => {
                let (vision, text) = (s.vision.0, s.text.0);
                write!(
                    f,
                    "stage {} (vision.blocks.{vision}, text.blocks.{text})",
                    s.stage
                )
            }
            Slot::Pooled(s) => write!(f, "{}.pooled", s.tower),
            Slot::Logits(_) => f.write_str("logits"),
            Slot::Parameter(s) => f.write_str(&s.name),
        }
    }
}

impl BranchSlot {
    /// Along which dimension of its input and output the channels lie.
    pub fn channels(&self) -> crate::hooks::Channels {
        match self.stream.map {
            true => crate::hooks::Channels::Map,
            false => crate::hooks::Channels::Last,
        }
    }
}

impl ProjectionSlot {
    /// Along which dimension of its output the channels lie.
    pub fn channels(&self) -> crate::hooks::Channels {
        match self.shape {
            Shape::Conv { .. } => crate::hooks::Channels::Map,
            Shape::Linear | Shape::Embedding => crate::hooks::Channels::Last,
        }
    }
}
