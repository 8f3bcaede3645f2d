//! SigLIP (Zhai et al., arXiv 2303.15343) and SigLIP 2 at a fixed resolution (Tschannen et al.,
//! arXiv 2502.14786): transformers on both sides, and pairs that are right or wrong each for
//! itself.
//!
//! Owns the plugin's options and puts the towers together. Sizes are in `architecture.rs`, models
//! by name in `preset.rs`, those that files describe in `described.rs`, foreign names in
//! `key_maps.rs`. The transformers are those that all families share.
//!
//! # Canonical names
//! As CLIP's with a ViT, but `vision.patch` has a bias, there is no class token and no
//! `vision.norm_in`; `logit_bias`; in place of `vision.joint` the pool by a probe:
//! `vision.pool.probe`, `vision.pool.{query,key,value,output,norm,up,down}`; `text.joint` has a
//! bias.
//!
//! The dense features are the patches, each as if the probe looked at it alone: so they lie in
//! the joint space, as CLIP's do.

mod architecture;
mod described;
mod key_maps;
mod preset;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twinspan_sdk::backbone::{Backbone, Encoders, Weights};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::preparation::{Fit, Preparation};
use twinspan_sdk::source::Description;
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Error, Result, register};

pub use architecture::{Architecture, TextSizes, VisionSizes};
pub use preset::Preset;

use crate::pictures::Pictures;
use crate::sizes::is_default;
use crate::tokenizer::pieces::Pieces;
use architecture::{CHECK, Model};

/// SigLIP or SigLIP 2 at a fixed resolution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Siglip {
    /// A released model; what the files beside the weights describe, or else
    /// siglip-base-patch16-224, where neither this nor `model` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Side of the square input in pixels; 0 is what the model was trained on.
    pub input_size: usize,
    /// Sizes in place of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Architecture>,
    /// How pictures are prepared, where it is not as they were trained on.
    #[serde(skip_serializing_if = "is_default")]
    pub pictures: Pictures,
}

register!(backbone: Siglip);

impl Plugin for Siglip {
    const NAME: &'static str = "siglip";
    const ABOUT: &'static str = "SigLIP (Zhai et al., arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) at a fixed resolution";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "preset",
            "string",
            "a released model: siglip-base-patch16-224, -256, -384, -512, -256-multilingual, siglip-large-patch16-256, -384, siglip-so400m-patch14-224, -384, siglip-so400m-patch16-256-i18n, \
             siglip2-base-patch32-256, siglip2-base-patch16-224, -256, -384, -512, siglip2-large-patch16-256, -384, -512, \
             siglip2-so400m-patch14-224, -384, siglip2-so400m-patch16-256, -384, -512, siglip2-giant-opt-patch16-256, -384; \
             without it what the files beside the weights describe, else siglip-base-patch16-224",
        ),
        Opt::new(
            "input_size",
            "integer",
            "side of the square input in pixels, at least a patch; 0 (default) is what the model was trained on",
        ),
        Opt::new(
            "model",
            "table {vision, text}",
            "sizes in place of the preset's: vision = {layers, width, heads, mlp (4 x width), activation (\"gelu-tanh\"), patch, image_size}; \
             text = {layers, width, heads, mlp (4 x width), activation (\"gelu-tanh\"), no_projection, context (64), vocabulary (32000), padding (1), end (1)}; \
             the joint space is as wide as the vision tower",
        ),
        Pictures::OPT,
    ];
}

impl Siglip {
    /// A released model as it was trained.
    pub fn preset(preset: Preset) -> Self {
        Self {
            preset: Some(preset),
            ..Self::default()
        }
    }

    /// A SigLIP of any size.
    pub fn of(model: Architecture) -> Self {
        Self {
            model: Some(model),
            ..Self::default()
        }
    }

    fn architecture(&self) -> Architecture {
        match &self.model {
            Some(model) => model.clone(),
            None => self.preset.unwrap_or_default().architecture(),
        }
    }

    fn model(&self) -> Result<Model> {
        self.pictures.check(CHECK)?;
        self.architecture().check(self.input_size)
    }
}

impl Backbone for Siglip {
    fn topology(&self) -> Result<Topology> {
        let Model { vision, text } = self.model()?;
        Ok(Topology::new(vision.topology(), text.topology(), vision.joint).sigmoid())
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let Model { vision, text } = self.model()?;
        Ok(Encoders {
            vision: Box::new(vision.load(weights)?),
            text: Box::new(text.load(weights)?),
            logit_scale: weights.parameter("logit_scale")?,
            logit_bias: Some(weights.parameter("logit_bias")?),
        })
    }

    fn layouts(&self) -> Result<Vec<KeyMap>> {
        let model = self.model()?;
        Ok(vec![
            key_maps::transformers(&model),
            key_maps::open_clip(&model),
        ])
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
            0 => self.architecture().vision.image_size,
            size => size,
        };
        self.pictures.over(Preparation {
            size,
            fit: Fit::Squash,
            resampling: self.preset.unwrap_or_default().resampling(),
            ..Preparation::default()
        })
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        let text = self.model()?.text;
        Ok(Arc::new(Pieces::open(path, &text)?))
    }
}
