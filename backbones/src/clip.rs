//! CLIP (Radford et al., arXiv 2103.00020): a text transformer beside a vision transformer or a
//! ResNet.
//!
//! Owns the plugin's options and puts the towers together. Sizes are in `architecture.rs`, models
//! by name in `preset.rs`, those that files describe in `described.rs`, the ResNet in `resnet.rs`
//! (with `attention_pool.rs`), foreign names in `key_maps.rs`. The transformers are those that
//! all families share.
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
mod described;
pub(crate) mod key_maps;
mod preset;
mod resnet;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::preparation::{Fit, Preparation};
use twinspan_sdk::source::Description;
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Error, Result, register};

pub use architecture::{
    Architecture, LastToken, Pooling, ResnetSizes, TextSizes, VisionSizes, VitSizes,
};
pub use preset::Preset;

use crate::pictures::Pictures;
use crate::sizes::is_default;
use crate::tokenizer::sentences::Sentences;
use architecture::{CHECK, Model, Vision};

/// CLIP with a ViT or a ResNet as its vision tower.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// A released model; what the files beside the weights describe, or else ViT-B/16, where
    /// neither this nor `model` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Side of the square input in pixels; 0 is what the model was trained on.
    pub input_size: usize,
    /// The residual around a ResNet's dense attention pool (ETRIS).
    pub connect: bool,
    /// Sizes in place of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Architecture>,
    /// How pictures are prepared, where it is not as OpenAI did.
    #[serde(skip_serializing_if = "is_default")]
    pub pictures: Pictures,
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
            "a released model: OpenAI's ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px, RN50, RN101, RN50x4, RN50x16, RN50x64; \
             open_clip's ViT-B-32, ViT-B-32-256, ViT-B-16, ViT-B-16-plus-240, ViT-L-14, ViT-L-14-336, ViT-H-14, ViT-H-14-378, ViT-g-14, ViT-bigG-14, \
             with -quickgelu where there is one; without it what the files beside the weights describe, else ViT-B/16",
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
             vision = {kind = \"vit\", layers, width, heads or head_width (64), patch, image_size, mlp (4 x width), \
             pooling = \"class\" (default) or \"mean\", no_norm_in, norm_pooled} \
             or {kind = \"resnet\", layers = [4 numbers], width, head_width (64), image_size}; \
             text = {layers, width, heads (width / 64), context (77), vocabulary (49408), mlp (4 x width), \
             last = {padding, end} or end, no_causal_mask, joint_bias}",
        ),
        Pictures::OPT,
    ];
}

impl Clip {
    /// A released model as it was trained.
    pub fn preset(preset: Preset) -> Self {
        Self {
            preset: Some(preset),
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
            None => self.preset.unwrap_or_default().architecture(),
        }
    }

    fn model(&self) -> Result<Model> {
        self.pictures.check(CHECK)?;
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
        let mut layouts = vec![key_maps::openai(&model, ""), key_maps::custom_text(&model)];
        if let Vision::Vit(vit) = &model.vision {
            layouts.push(key_maps::transformers(vit, &model.text));
        }
        Ok(layouts)
    }

    fn described(&self, description: &Description) -> Result<Option<toml::Table>> {
        let found = described::architecture(description)?;
        if found.is_none() && !self.is_said() {
            return Ok(None);
        }
        let preset = self.preset.map(|p| (p.name(), p.architecture()));
        let filled = Self {
            model: CHECK.settle(found, &self.model, preset, Architecture::differs)?,
            pictures: self.pictures.or(Pictures::described(description)?),
            ..self.clone()
        };
        Ok(Some(toml::Table::try_from(filled).map_err(Error::plugin)?))
    }

    fn is_said(&self) -> bool {
        self.preset.is_some() || self.model.is_some()
    }

    fn preparation(&self) -> Preparation {
        let size = match self.input_size {
            0 => self.architecture().image_size(),
            size => size,
        };
        self.pictures.over(Preparation {
            size,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            fit: Fit::Crop,
            ..Preparation::default()
        })
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        let rows = self.model()?.text.vocabulary;
        Ok(Arc::new(Sentences::open(path, rows)?))
    }
}
