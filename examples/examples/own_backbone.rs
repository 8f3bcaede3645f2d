//! A backbone of one's own: both towers are residual MLPs over their tokens.
//!
//! `cargo run -p twinspan-examples --example own_backbone`

use std::{path::Path, sync::Arc};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan::backbones::tokenizer::ClipTokenizer;
use twinspan::sdk::backbone::{Backbone, Encoder, Encoders, Preparation, Weights};
use twinspan::sdk::declare::{Declared, Layer};
use twinspan::sdk::hooks::{Operator, PlaceHooks};
use twinspan::sdk::key_map::KeyMap;
use twinspan::sdk::layers::{Conv2d, Embedding, LayerNorm, Linear};
use twinspan::sdk::ops::{self, Conv};
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plugin::{Opt, Plugin};
use twinspan::sdk::site::{At, Branch, Projection, Tower};
use twinspan::sdk::stream::Stream;
use twinspan::sdk::tokenizer::Tokenizer;
use twinspan::sdk::topology::{StreamInfo, Topology, TowerTopology};
use twinspan::sdk::{Result, register};
use twinspan_examples::overfit;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plain {
    width: usize,
}

register!(backbone: Plain);
const (PATCH, SIDE, BLOCKS): (usize, usize, usize) = (8, 8, 3);
