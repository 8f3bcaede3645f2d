//! The sizes of a DINOv2 beside a text tower, as a recipe writes them, and checked.
//!
//! Owns the checks of the vision tower's sizes; the text tower's are CLIP's. Builds nothing.

use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::regrid::Regrid;

use crate::block::{Activation, BlockShape};
use crate::clip::TextSizes;
use crate::sizes::{Blocks, Check, MOST_LAYERS, MOST_PIXELS, MOST_TOKENS, MOST_WIDTH};
use crate::text::Text;
use crate::vit::{Ends, Vit};

pub(super) const CHECK: Check = Check("dinov2-clip");
/// Of every norm of the vision tower.
const EPS: f64 = 1e-6;

/// A DINOv2 beside a text tower, of any size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Width E of a sentence's vector.
    pub embed_dim: usize,
    /// The nonlinearity inside the text tower's MLPs; the vision tower's is the exact GELU.
    #[serde(default)]
    pub activation: Activation,
    /// The vision tower.
    pub vision: VisionSizes,
    /// The text tower.
    pub text: TextSizes,
}

/// The sizes of a vision tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionSizes {
    /// Blocks.
    pub layers: usize,
    /// Width D of the tokens.
    pub width: usize,
    /// Heads. Without it a head is 64 wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Width inside the MLPs; four times the width unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<usize>,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the pictures whose grid the table of positions has, in pixels.
    pub image_size: usize,
    /// Registers behind the class token; 4 unless given.
    #[serde(default = "four")]
    pub registers: usize,
}

fn four() -> usize {
    4
}

/// Sizes that fit together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub vision: Vit,
    pub text: Text,
}

impl Architecture {
    /// The sizes at an input of `input_size` pixels (0 is the native one), if they fit together.
    pub(super) fn check(&self, input_size: usize, regrid: Regrid) -> Result<Model> {
        let joint = CHECK.within("embed_dim", self.embed_dim, MOST_WIDTH)?;
        Ok(Model {
            vision: self.vision(input_size, joint, regrid)?,
            text: self.text.check(CHECK, self.activation, joint)?,
        })
    }

    fn vision(&self, input_size: usize, joint: usize, regrid: Regrid) -> Result<Vit> {
        let sizes = &self.vision;
        let patch = CHECK.within("vision.patch", sizes.patch, MOST_PIXELS)?;
        let native = CHECK.within("vision.image_size", sizes.image_size, MOST_PIXELS)?;
        let pixels = match input_size {
            0 => native,
            size => CHECK.within("input_size", size, MOST_PIXELS)?,
        };
        for (name, pixels) in [("vision.image_size", native), ("input_size", pixels)] {
            CHECK.multiple(name, pixels, patch, "the patch")?;
        }
        let block = CHECK.blocks(Blocks {
            tower: "vision",
            width: sizes.width,
            heads: sizes.heads,
            head_width: None,
            mlp: sizes.mlp,
            activation: Activation::Gelu,
            causal: false,
            eps: EPS,
        })?;
        Ok(Vit {
            layers: CHECK.within("vision.layers", sizes.layers, MOST_LAYERS)?,
            block: BlockShape {
                layer_scale: true,
                ..block
            },
            channels: 3,
            patch,
            pixels,
            joint,
            ends: Ends::Registers {
                count: CHECK.within("vision.registers", sizes.registers, MOST_TOKENS)?,
                regrid,
            },
        })
    }
}
