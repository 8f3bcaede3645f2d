//! CLIP (Radford et al., arXiv 2103.00020): a text transformer beside a vision transformer or a
//! ResNet.
//!
//! Owns the plugin's options and puts the towers together. Sizes and presets are in
//! `architecture.rs`, the towers in `text.rs`, `vit.rs` and `resnet.rs` (with
//! `attention_pool.rs`), foreign names in `key_maps.rs`, the tokenizer in `sentences.rs`.
//!
//! # Canonical names
//! `logit_scale`; in both towers `TOWER.blocks.I.attention.{norm,query,key,value,output}` and
//! `….mlp.{norm,up,down}`, each with `.weight` and `.bias`.
//!
//! | tower | around the blocks |
//! |---|---|
//! | text | `text.token.weight`, `text.position`; `text.norm`, `text.joint.weight` |
//! | ViT | `vision.patch.weight`, `vision.class`, `vision.position`, `vision.norm_in`; `vision.norm_out`, `vision.joint.weight` |
//! | ResNet | `vision.stem.{conv1,norm1,…,norm3}`; `vision.pool.position`, `vision.pool.{query,key,value,output}`, `vision.pool.connect.{conv,norm}` |
//!
//! A ResNet's blocks are its bottlenecks, counted through all four layers:
//! `vision.blocks.I.{conv1,norm1,…,norm3}`, `….shortcut.{conv,norm}`. Matrices are `[out, in]`,
//! tables `[rows, D]`.

mod architecture;
mod attention_pool;
mod key_maps;
mod resnet;
pub(crate) mod sentences;
pub(crate) mod text;
pub(crate) mod vit;

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Error, Result, register};

pub use architecture::{Architecture, Preset, ResnetSizes, TextSizes, VisionSizes, VitSizes};

use architecture::{Model, Vision};
use sentences::Sentences;

/// CLIP with a ViT or a ResNet as its vision tower.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// One of OpenAI's models.
    pub preset: Preset,
    /// Side of the square input in pixels; 0 is what the model was trained on.
    pub input_size: usize,
    /// The residual around a ResNet's dense attention pool (ETRIS).
    pub connect: bool,
    /// Sizes in place of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Architecture>,
}

register!(backbone: Clip);

impl Plugin for Clip {
    const NAME: &'static str = "clip";
    const ABOUT: &'static str =
        "CLIP with a vision transformer or a ResNet (Radford et al., arXiv 2103.00020)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "preset",
            "string",
            "OpenAI's model: ViT-B/32, ViT-B/16 (default), ViT-L/14, ViT-L/14@336px, RN50, RN101, RN50x4, RN50x16, RN50x64",
        ),
        Opt::new(
            "input_size",
            "integer",
            "side of the square input in pixels, a multiple of the patch or, for a ResNet, of 32; 0 (default) is what the model was trained on",
        ),
        Opt::new(
            "connect",
            "boolean",
            "ResNet only: adds ETRIS's residual, a 1x1 convolution and batch norm that no CLIP file holds, around the dense attention pool, and rectifies the sum; default false",
        ),
        Opt::new(
            "model",
            "table {embed_dim, activation, vision, text}",
            "sizes in place of the preset's: activation = \"quick-gelu\" (default) or \"gelu\"; \
             vision = {kind = \"vit\", layers, width, heads or head_width (64), patch, image_size, mlp (4 x width)} \
             or {kind = \"resnet\", layers = [4 numbers], width, head_width (64), image_size}; \
             text = {layers, width, heads (width / 64), context (77), vocabulary (49408), mlp (4 x width)}",
        ),
    ];
}

impl Clip {
    /// One of OpenAI's models as it was trained.
    pub fn preset(preset: Preset) -> Self {
        Self {
            preset,
            ..Self::default()
        }
    }

    /// A CLIP of any size.
    pub fn of(model: Architecture) -> Self {
        Self {
            model: Some(model),
            ..Self::default()
        }
    }

    /// The key map of OpenAI's and open_clip's state dicts whose names begin with `prefix`; with
    /// `connect` its tensors too, under `PREFIXvisual.attnpool.connect.{0,1}`.
    ///
    /// # Errors
    /// The options do not fit together.
    pub fn openai_map(&self, prefix: &str) -> Result<KeyMap> {
        Ok(key_maps::openai(&self.model()?, prefix))
    }

    fn architecture(&self) -> Architecture {
        match &self.model {
            Some(model) => model.clone(),
            None => self.preset.architecture(),
        }
    }

    fn model(&self) -> Result<Model> {
        self.architecture().check(self.input_size, self.connect)
    }
}

impl Backbone for Clip {
    fn topology(&self) -> Result<Topology> {
        let model = self.model()?;
        let vision = match &model.vision {
            Vision::Vit(vit) => vit.topology(),
            Vision::Resnet(resnet) => resnet.topology(),
        };
        Ok(Topology::new(vision, model.text.topology(), model.joint))
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let model = self.model()?;
        let vision: Box<dyn Encoder> = match &model.vision {
            Vision::Vit(vit) => Box::new(vit.load(weights)?),
            Vision::Resnet(resnet) => Box::new(resnet.load(weights)?),
        };
        Ok(Encoders {
            vision,
            text: Box::new(model.text.load(weights)?),
            logit_scale: weights.parameter("logit_scale")?,
            logit_bias: None,
        })
    }

    fn layouts(&self) -> Result<Vec<KeyMap>> {
        let model = self.model()?;
        let mut layouts = vec![key_maps::openai(&model, "")];
        if let Vision::Vit(vit) = &model.vision {
            layouts.push(key_maps::transformers(vit, &model.text));
        }
        Ok(layouts)
    }

    fn preparation(&self) -> Preparation {
        Preparation {
            size: match self.input_size {
                0 => self.architecture().image_size(),
                size => size,
            },
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            ..Preparation::default()
        }
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        let rows = self.model()?.text.vocabulary;
        Ok(Arc::new(Sentences::open(path, rows)?))
    }
}

/// The batch of pictures or maps `[B, C, S, S]`.
///
/// # Errors
/// They have another shape.
fn pictures(input: &Tensor, channels: usize, pixels: usize) -> Result<usize> {
    match *input.dims() {
        [batch, c, rows, columns] if (c, rows, columns) == (channels, pixels, pixels) => Ok(batch),
        ref other => Err(Error::Shape {
            what: "a batch of pictures [B, 3, S, S]".into(),
            expected: vec![
                other.first().copied().unwrap_or(1),
                channels,
                pixels,
                pixels,
            ],
            got: other.to_vec(),
        }),
    }
}
