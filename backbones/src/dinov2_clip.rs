//! DINOv2 with registers (Oquab et al., arXiv 2304.07193; Darcet et al., arXiv 2309.16588) beside
//! the text tower of a CLIP: two encoders that were trained apart, as DETRIS (arXiv 2501.08580)
//! pairs them.
//!
//! Owns the plugin's options and puts the towers together. Sizes are in `architecture.rs`, models
//! by name in `preset.rs`, foreign names in `key_maps.rs`. The transformers are those that all
//! families share.
//!
//! # No joint space
//! Nothing was trained to make a picture's vector comparable with a sentence's. The sentence's is
//! CLIP's own, projected; the class token gets a projection of the same width that is made from
//! the seed (`vision.joint.weight`) and kept in the overlay. So a task that compares pooled
//! vectors must train something in between; dense features are the patches behind the last norm,
//! not projected, and need none of it.
//!
//! # Weights
//! They come from two files: `weights` names DINOv2's (transformers' or Meta's names), and
//! `more_weights` CLIP's (OpenAI's, open_clip's or transformers' names), whose vision tower is
//! passed over. One file under canonical names will do too.
//!
//! # Canonical names
//! As CLIP's with a ViT, but `vision.patch` has a bias, there is no `vision.norm_in`, and there are
//! `vision.registers` `[R, D]`, `vision.blocks.I.attention.scale` and `….mlp.scale`.

mod architecture;
mod key_maps;
mod preset;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twinspan_sdk::backbone::{Backbone, Encoders, Weights};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::preparation::{Fit, Preparation};
use twinspan_sdk::regrid::Regrid;
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Result, register};

pub use architecture::{Architecture, VisionSizes};
pub use preset::Preset;

use crate::pictures::Pictures;
use crate::sizes::is_default;
use crate::tokenizer::sentences::Sentences;
use architecture::{CHECK, Model};

/// DINOv2 with registers beside a CLIP's text tower.
///
/// ```
/// use twinspan_backbones::dinov2_clip::Dinov2Clip;
/// use twinspan_sdk::backbone::Backbone;
///
/// let detris = Dinov2Clip { input_size: 448, ..Default::default() };
/// let topology = detris.topology()?;
/// assert_eq!(topology.vision.last.grid, Some((32, 32)));
/// assert_eq!((topology.vision.last.width, topology.text.last.width), (768, 512));
/// # Ok::<(), twinspan_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dinov2Clip {
    /// A released DINOv2 beside CLIP ViT-B/16's text tower; the base one unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Side of the square input in pixels; 0 is what DINOv2 was trained on last, 518.
    pub input_size: usize,
    /// How the table of positions is brought to an input of another size.
    pub positions: Positions,
    /// Sizes in place of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Architecture>,
    /// How pictures are prepared, where it is not as for DINOv2.
    #[serde(skip_serializing_if = "is_default")]
    pub pictures: Pictures,
}

/// How a table of positions is brought to another grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Bicubic with antialiasing, as Meta released the models with registers and transformers
    /// has them.
    #[default]
    Antialias,
    /// Bicubic without it, at a scale of (places + 0.1) / places before: the first DINOv2's, and
    /// DETRIS's.
    Offset,
}

register!(backbone: Dinov2Clip);

impl Plugin for Dinov2Clip {
    const NAME: &'static str = "dinov2-clip";
    const ABOUT: &'static str = "DINOv2 with registers (arXiv 2309.16588) beside a CLIP's text tower, as DETRIS pairs them; weights from two files";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "preset",
            "string",
            "dinov2-with-registers-small, -base (default) or -large, beside the text tower of CLIP ViT-B/16",
        ),
        Opt::new(
            "input_size",
            "integer",
            "side of the square input in pixels, a multiple of the patch (14); 0 (default) is 518; DETRIS has 448",
        ),
        Opt::new(
            "positions",
            "string",
            "how the table of positions is resized: antialias (default, as released), offset (bicubic with an offset of 0.1, as DETRIS)",
        ),
        Opt::new(
            "model",
            "table {embed_dim, activation, vision, text}",
            "sizes in place of the preset's: activation of the text tower = \"quick-gelu\" (default) or \"gelu\"; \
             vision = {layers, width, heads (width / 64), mlp (4 x width), patch, image_size, registers (4)}; \
             text as the backbone clip has it; embed_dim is the width of a sentence's vector",
        ),
        Pictures::OPT,
    ];
}

impl Dinov2Clip {
    fn architecture(&self) -> Architecture {
        match &self.model {
            Some(model) => model.clone(),
            None => self.preset.unwrap_or_default().architecture(),
        }
    }

    fn model(&self) -> Result<Model> {
        self.pictures.check(CHECK)?;
        let regrid = match self.positions {
            Positions::Antialias => Regrid::Antialias,
            Positions::Offset => Regrid::Offset(0.1),
        };
        self.architecture().check(self.input_size, regrid)
    }
}

impl Backbone for Dinov2Clip {
    fn topology(&self) -> Result<Topology> {
        let Model { vision, text } = self.model()?;
        Ok(Topology::new(
            vision.topology(),
            text.topology(),
            text.joint,
        ))
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let Model { vision, text } = self.model()?;
        Ok(Encoders {
            vision: Box::new(vision.load(weights)?),
            text: Box::new(text.load(weights)?),
            logit_scale: weights.parameter("logit_scale")?,
            logit_bias: None,
        })
    }

    fn layouts(&self) -> Result<Vec<KeyMap>> {
        Ok(key_maps::all(&self.model()?))
    }

    fn preparation(&self) -> Preparation {
        let size = match self.input_size {
            0 => self.architecture().vision.image_size,
            size => size,
        };
        self.pictures.over(Preparation {
            size,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            fit: Fit::CropFirst,
            ..Preparation::default()
        })
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        let rows = self.model()?.text.vocabulary;
        Ok(Arc::new(Sentences::open(path, rows)?))
    }
}
