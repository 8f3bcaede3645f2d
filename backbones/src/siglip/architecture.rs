//! The sizes of a SigLIP, as a recipe writes them, and checked.
//!
//! Owns every check of sizes: behind [`Architecture::check`] all of them fit together and no
//! product of them overflows. Builds nothing.

use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;

use crate::block::Activation;
use crate::probe::Probe;
use crate::sizes::{Blocks, Check, MOST_LAYERS, MOST_PIXELS, MOST_TOKENS, is_default};
use crate::text::{Projected, Reading, Text};
use crate::vit::{Ends, Vit};

pub(super) const CHECK: Check = Check("siglip");
/// Of every norm.
pub(super) const EPS: f64 = 1e-6;

/// A SigLIP of any size. Its joint space is as wide as its vision tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
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
    /// Width D of the tokens and of the joint space.
    pub width: usize,
    /// Heads, of the blocks and of the probe.
    pub heads: usize,
    /// Width inside the MLPs; four times the width unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<usize>,
    /// The nonlinearity inside the MLPs: by tanh in Google's code and in transformers, exact in
    /// open_clip's form of the smaller models.
    #[serde(default = "gelu_tanh", skip_serializing_if = "is_gelu_tanh")]
    pub activation: Activation,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the pictures it was trained on, in pixels. What is left beside the last whole
    /// patch is not seen.
    pub image_size: usize,
}

/// The sizes of a text tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSizes {
    /// Blocks.
    pub layers: usize,
    /// Width T of the tokens.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Width inside the MLPs; four times the width unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<usize>,
    /// The nonlinearity inside the MLPs, as in the vision tower.
    #[serde(default = "gelu_tanh", skip_serializing_if = "is_gelu_tanh")]
    pub activation: Activation,
    /// A sentence's vector is not projected: the tower is as wide as the joint space.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_projection: bool,
    /// Places of a sentence, all of which are filled; 64 unless given.
    #[serde(default = "siglip_context")]
    pub context: usize,
    /// Rows of its table of words; 32000 unless given.
    #[serde(default = "siglip_vocabulary")]
    pub vocabulary: usize,
    /// The id that pads: 1 in SigLIP, 0 in SigLIP 2.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub padding: u32,
    /// The id behind a sentence's words.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub end: u32,
}

fn gelu_tanh() -> Activation {
    Activation::GeluTanh
}

fn is_gelu_tanh(activation: &Activation) -> bool {
    *activation == Activation::GeluTanh
}

pub(super) fn siglip_context() -> usize {
    64
}

pub(super) fn siglip_vocabulary() -> usize {
    32_000
}

fn one() -> u32 {
    1
}

fn is_one(id: &u32) -> bool {
    *id == 1
}

/// Sizes that fit together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub vision: Vit,
    pub text: Text,
}

impl Architecture {
    /// Whether another model is meant, however its sizes are written.
    pub(super) fn differs(&self, other: &Self) -> Result<bool> {
        // Checked sizes have every default filled in, and nothing else.
        Ok(format!("{:?}", self.check(0)?) != format!("{:?}", other.check(0)?))
    }

    /// The sizes at an input of `input_size` pixels (0 is the native one), if they fit together.
    pub(super) fn check(&self, input_size: usize) -> Result<Model> {
        let vision = self.vision(input_size)?;
        Ok(Model {
            text: self.text(vision.joint)?,
            vision,
        })
    }

    fn vision(&self, input_size: usize) -> Result<Vit> {
        let sizes = &self.vision;
        let patch = CHECK.within("vision.patch", sizes.patch, MOST_PIXELS)?;
        let native = CHECK.within("vision.image_size", sizes.image_size, MOST_PIXELS)?;
        let pixels = match input_size {
            0 => native,
            size => CHECK.within("input_size", size, MOST_PIXELS)?,
        };
        if pixels < patch {
            return Err(CHECK.wrong(format!("{pixels} pixels are less than a patch of {patch}")));
        }
        let block = CHECK.blocks(Blocks {
            tower: "vision",
            width: sizes.width,
            heads: Some(sizes.heads),
            head_width: None,
            mlp: sizes.mlp,
            activation: sizes.activation,
            causal: false,
            eps: EPS,
        })?;
        Ok(Vit {
            layers: CHECK.within("vision.layers", sizes.layers, MOST_LAYERS)?,
            block,
            channels: 3,
            patch,
            pixels,
            joint: block.width,
            ends: Ends::Probe(Probe {
                width: block.width,
                heads: block.heads,
                mlp: block.mlp,
                activation: block.activation,
                eps: EPS,
            }),
        })
    }

    fn text(&self, joint: usize) -> Result<Text> {
        let sizes = &self.text;
        let block = CHECK.blocks(Blocks {
            tower: "text",
            width: sizes.width,
            heads: Some(sizes.heads),
            head_width: None,
            mlp: sizes.mlp,
            activation: sizes.activation,
            causal: false,
            eps: EPS,
        })?;
        let vocabulary = CHECK.within("text.vocabulary", sizes.vocabulary, MOST_TOKENS)?;
        Ok(Text {
            layers: CHECK.within("text.layers", sizes.layers, MOST_LAYERS)?,
            block,
            context: CHECK.within("text.context", sizes.context, MOST_TOKENS)?,
            vocabulary,
            joint,
            projection: match (sizes.no_projection, block.width == joint) {
                (false, _) => Projected::With { bias: true },
                (true, true) => Projected::Not,
                (true, false) => {
                    return Err(CHECK.wrong(format!(
                        "text.no_projection: text.width = {}, the joint space is {joint} wide",
                        block.width
                    )));
                }
            },
            reading: Reading::Last {
                padding: CHECK.id("text.padding", sizes.padding, vocabulary)?,
                end: CHECK.id("text.end", sizes.end, vocabulary)?,
            },
        })
    }
}
