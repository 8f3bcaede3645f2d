//! Models by name.
//!
//! Owns the sizes of what Meta released with registers, but for the giant one, whose MLPs are
//! gated. Each stands beside the text tower of OpenAI's CLIP ViT-B/16.

use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, VisionSizes};
use crate::clip;

/// A released vision tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// 12 blocks of 384.
    #[serde(rename = "dinov2-with-registers-small")]
    Small,
    /// 12 blocks of 768.
    #[default]
    #[serde(rename = "dinov2-with-registers-base")]
    Base,
    /// 24 blocks of 1024.
    #[serde(rename = "dinov2-with-registers-large")]
    Large,
}

impl Preset {
    /// Every model, in order.
    pub const ALL: &'static [Preset] = &[Preset::Small, Preset::Base, Preset::Large];

    /// Its sizes.
    pub fn architecture(self) -> Architecture {
        let (layers, width) = match self {
            Preset::Small => (12, 384),
            Preset::Base => (12, 768),
            Preset::Large => (24, 1024),
        };
        let clip = clip::Preset::VitB16.architecture();
        Architecture {
            embed_dim: clip.embed_dim,
            activation: clip.activation,
            vision: VisionSizes {
                layers,
                width,
                heads: None,
                mlp: None,
                patch: 14,
                image_size: 518,
                registers: 4,
            },
            text: clip.text,
        }
    }
}
