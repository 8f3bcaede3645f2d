//! The names that a plugin is written with: `use twinspan_sdk::prelude::*;`.

pub use crate::adapter::{Adapter, Idle, Installed, Life, Slot, Want};
pub use crate::backbone::{Backbone, Encoder, Encoders, Weights};
pub use crate::declare::{Declared, Layer};
pub use crate::hooks::{Affine, Hooks, Operator, PlaceHooks};
pub use crate::layers::{BatchNorm, Conv2d, Embedding, LayerNorm, Linear};
pub use crate::parameter::{Init, Parameter, Params};
pub use crate::pass::Pass;
pub use crate::plugin::{Capabilities, Opt, Plugin};
pub use crate::preparation::Preparation;
pub use crate::recipe::Recipe;
pub use crate::site::{At, Branch, Projection, Role, Sites, Tap, Tower};
pub use crate::stream::Stream;
pub use crate::task::{Batch, Dataset, Head, Kit, Task};
pub use crate::tokenizer::Tokenizer;
pub use crate::topology::{Topology, TowerTopology};
pub use crate::{Error, Result, ops, register};
