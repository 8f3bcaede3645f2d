//! The pocket encoder: a small dual encoder whose weights are part of this crate, so that
//! everything runs without a download.
//!
//! Owns its sizes, its stem and its weights. The transformers are CLIP's
//! ([`clip`](crate::clip)); the stem of convolutions in front of the patches is that of Xiao et
//! al. (arXiv 2106.14881), which a transformer of this size needs to see outlines. A picture's
//! vector is the mean of its patches in the joint space, not the class token, so that every patch
//! lies there too.
//!
//! The weights and the merges were trained by `examples/pretrain_pocket` on made-up scenes with
//! captions of the whole scene, which it learned to tell apart whole and part by part; it never
//! saw a mask.
//!
//! # Canonical names
//! As CLIP's with a ViT, and `vision.stem.{conv1,conv2,conv3,conv4}`.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::declare::{Declared, Layer};
use twinspan_sdk::hooks::PlaceHooks;
use twinspan_sdk::layers::Conv2d;
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::site::{At, Projection, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::{Topology, TowerTopology};
use twinspan_sdk::{Error, Result, register};

use crate::block::{Activation, BlockShape};
use crate::text::{Projected, Reading, Text};
use crate::tokenizer::ClipTokenizer;
use crate::tokenizer::sentences::Sentences;
use crate::vit::{Ends, Vit, VitEncoder};

/// Weights in f16 under canonical names, as `examples/pretrain_pocket` wrote them.
const WEIGHTS: &[u8] = include_bytes!("pocket/weights.safetensors");
/// Merges of the words of captions and sentences, as `examples/pretrain_pocket` wrote them.
const MERGES: &str = include_str!("pocket/merges.txt");

/// Channels behind each convolution of the stem, which halves its input's sides.
const STEM: [usize; 4] = [24, 48, 96, 128];
const HALVING: Conv = Conv {
    stride: 2,
    padding: 1,
};
/// Width E of the joint space.
const JOINT: usize = 128;

/// The pocket encoder: pictures of 128 pixels on a grid of 8 x 8, sentences of up to 77 ids.
///
/// ```
/// use twinspan_backbones::pocket::Pocket;
/// use twinspan_sdk::backbone::Backbone;
///
/// let parameters: usize = Pocket {}.topology()?.parameters().map(|p| p.count()).sum();
/// assert!(parameters < 1_500_000);
/// # Ok::<(), twinspan_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pocket {}

impl Plugin for Pocket {
    const NAME: &'static str = "pocket";
    const ABOUT: &'static str = "a small encoder of made-up scenes whose weights are built in: 128 pixels, needs no download";
    const OPTIONS: &'static [Opt] = &[];
}

register!(backbone: Pocket);

impl Pocket {
    /// Side of its pictures in pixels.
    pub const SIDE: usize = 128;
    /// Rows of its table of words: bytes, bytes at a word's end, merges, start and end.
    pub const VOCABULARY: usize = 768;
    /// The longest sentence in ids.
    pub const CONTEXT: usize = 77;

    fn vision(&self) -> Vit {
        let side = Self::SIDE >> STEM.len();
        Vit {
            layers: 6,
            block: BlockShape {
                width: 128,
                heads: 4,
                mlp: 256,
                activation: Activation::QuickGelu,
                causal: false,
                eps: 1e-5,
                layer_scale: false,
            },
            channels: STEM[STEM.len() - 1],
            patch: 1,
            pixels: side,
            joint: JOINT,
            ends: Ends::CLIP,
        }
    }

    fn text(&self) -> Text {
        Text {
            layers: 3,
            block: BlockShape {
                width: 96,
                heads: 4,
                mlp: 192,
                activation: Activation::QuickGelu,
                causal: true,
                eps: 1e-5,
                layer_scale: false,
            },
            context: Self::CONTEXT,
            vocabulary: Self::VOCABULARY,
            joint: JOINT,
            projection: Projected::With { bias: false },
            reading: Reading::Highest,
        }
    }

    fn vision_topology(&self) -> TowerTopology {
        let mut declared = Declared::new(Tower::Vision);
        let mut input = 3;
        for (projection, output) in CONVOLUTIONS.into_iter().zip(STEM) {
            let layer = Layer {
                bias: true,
                ..Layer::conv(At::Embed, projection, (input, output), 3, HALVING.stride)
            };
            declared.layer(&format!("vision.stem.{projection}"), layer, &[At::Embed]);
            input = output;
        }
        let mut topology = self.vision().topology();
        topology.projections.splice(0..0, declared.projections);
        topology.parameters.splice(0..0, declared.parameters);
        // Early ends: what a patch itself shows is still in its token there.
        topology.stages = vec![0, 2, 5];
        topology
    }
}

/// What the stem's convolutions are called.
const CONVOLUTIONS: [Projection; 4] = [
    Projection::Conv1,
    Projection::Conv2,
    Projection::Conv3,
    Projection::Conv4,
];

impl Backbone for Pocket {
    fn topology(&self) -> Result<Topology> {
        Ok(Topology::new(
            self.vision_topology(),
            self.text().topology(),
            JOINT,
        ))
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let mut stem = Vec::new();
        for projection in CONVOLUTIONS {
            let name = format!("vision.stem.{projection}");
            stem.push((projection, Conv2d::load(weights, &name, HALVING)?));
        }
        Ok(Encoders {
            vision: Box::new(Vision {
                stem,
                tower: self.vision().load(weights)?,
            }),
            text: Box::new(self.text().load(weights)?),
            logit_scale: weights.parameter("logit_scale")?,
            logit_bias: None,
        })
    }

    fn preparation(&self) -> Preparation {
        Preparation {
            size: Self::SIDE,
            mean: [0.5; 3],
            std: [0.25; 3],
            ..Preparation::default()
        }
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        if path.is_some() {
            return Sentences::open(path, Self::VOCABULARY).map(|s| Arc::new(s) as _);
        }
        let own = ClipTokenizer::of_merges(MERGES).map_err(Error::plugin)?;
        Ok(Arc::new(Sentences::from(own)))
    }

    fn embedded(&self) -> Option<&'static [u8]> {
        Some(WEIGHTS)
    }
}

/// A stem of convolutions, and CLIP's vision transformer over what it gives.
struct Vision {
    stem: Vec<(Projection, Conv2d)>,
    tower: VitEncoder,
}

impl Encoder for Vision {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let mut map = input.clone();
        for (projection, conv) in &self.stem {
            let hooked = hooks.projection(*projection);
            map = ops::quick_gelu(&hooked.forward(conv, &map, pass)?)?;
        }
        self.tower.tokens(&map, hooks, pass)
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        self.tower.positions(stream, pass)
    }

    fn norm(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        self.tower.norm(stream, pass)
    }

    fn block(
        &self,
        index: usize,
        stream: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        self.tower.block(index, stream, hooks, pass)
    }

    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        self.tower.features(stream, hooks, pass)
    }

    /// The mean of the dense features.
    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let dense = self.tower.features(stream, hooks, pass)?;
        Ok(dense.data.mean(1)?)
    }
}
