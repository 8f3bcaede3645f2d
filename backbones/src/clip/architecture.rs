//! The sizes of a CLIP, as a recipe writes them, and checked.
//!
//! Owns every check of sizes: behind [`Architecture::check`] all of them fit together and no
//! product of them overflows. Models by name are in `preset.rs`, those that files describe in
//! `described.rs`. Builds nothing.

use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;

use super::resnet::{self, Resnet};
use crate::block::Activation;
use crate::sizes::{
    Blocks, Check, HEAD_WIDTH, MOST_LAYERS, MOST_PIXELS, MOST_TOKENS, MOST_WIDTH, is_default,
};
use crate::text::{Projected, Reading, Text};
use crate::vit::{Ends, Vit};

pub(super) const CHECK: Check = Check("clip");
/// Of every norm.
pub(super) const EPS: f64 = 1e-5;

/// A CLIP of any size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Width E of the joint space.
    pub embed_dim: usize,
    /// The nonlinearity inside both transformers' MLPs.
    #[serde(default)]
    pub activation: Activation,
    /// The vision tower.
    pub vision: VisionSizes,
    /// The text tower.
    pub text: TextSizes,
}

/// The sizes of a vision tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VisionSizes {
    /// A vision transformer.
    Vit(VitSizes),
    /// A ResNet with an attention pool.
    Resnet(ResnetSizes),
}

/// The sizes of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitSizes {
    /// Blocks.
    pub layers: usize,
    /// Width D of the tokens.
    pub width: usize,
    /// Heads; or give `head_width`. Without either a head is 64 wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Width of a head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_width: Option<usize>,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the pictures it was trained on, in pixels.
    pub image_size: usize,
    /// Width inside the MLPs; four times the width unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<usize>,
    /// What a picture's vector is made of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pooling: Pooling,
    /// No norm in front of the blocks (open_clip's `no_ln_pre`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_norm_in: bool,
    /// The last norm acts on the pooled vector, not on every token before (open_clip's
    /// `final_ln_after_pool`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm_pooled: bool,
}

/// What a picture's vector is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The class token (open_clip's `tok`).
    #[default]
    Class,
    /// The mean of the patches (open_clip's `avg`).
    Mean,
}

/// The sizes of a ResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetSizes {
    /// Bottlenecks of each of the four layers.
    pub layers: [usize; 4],
    /// Channels behind the stem.
    pub width: usize,
    /// Width of a head of the attention pool; 64 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_width: Option<usize>,
    /// Side of the pictures it was trained on, in pixels.
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
    /// Heads. Without it a head is 64 wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Words it has positions for; 77 unless given.
    #[serde(default = "clip_context")]
    pub context: usize,
    /// Rows of its table of words; 49408 unless given.
    #[serde(default = "clip_vocabulary")]
    pub vocabulary: usize,
    /// Width inside the MLPs; four times the width unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<usize>,
    /// A sentence's vector is read at the last of all its places, not at its end token
    /// (open_clip's pool type `last`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastToken>,
    /// The end token's id, where it is not the highest of all (open_clip's pool type `eos`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u32>,
    /// Words see later words too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_causal_mask: bool,
    /// The projection into the joint space has a bias (open_clip's `proj_bias`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub joint_bias: bool,
}

/// The ids of a tower that reads a sentence at the last place of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastToken {
    /// The id that pads sentences to the context.
    pub padding: u32,
    /// The id behind a sentence's words.
    pub end: u32,
}

/// CLIP's context.
pub(super) fn clip_context() -> usize {
    77
}

/// CLIP's vocabulary.
pub(super) fn clip_vocabulary() -> usize {
    49408
}

/// Sizes that fit together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub vision: Vision,
    pub text: Text,
    /// Width E of the joint space.
    pub joint: usize,
}

/// Either vision tower.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vision {
    Vit(Vit),
    Resnet(Resnet),
}

impl Architecture {
    /// Side of the pictures it was trained on, in pixels.
    pub fn image_size(&self) -> usize {
        match &self.vision {
            VisionSizes::Vit(sizes) => sizes.image_size,
            VisionSizes::Resnet(sizes) => sizes.image_size,
        }
    }

    /// Whether another model is meant, however its sizes are written.
    pub(super) fn differs(&self, other: &Self) -> Result<bool> {
        let whole = |sizes: &Self| -> Result<String> {
            let Model {
                vision,
                text,
                joint,
            } = sizes.check(0, false)?;
            // Checked sizes have every default filled in, and nothing else.
            Ok(format!("{vision:?} {text:?} {joint}"))
        };
        Ok(whole(self)? != whole(other)?)
    }

    /// The sizes at an input of `input_size` pixels (0 is the native one), if they fit together.
    pub(super) fn check(&self, input_size: usize, connect: bool) -> Result<Model> {
        let joint = CHECK.within("embed_dim", self.embed_dim, MOST_WIDTH)?;
        CHECK.within("vision.image_size", self.image_size(), MOST_PIXELS)?;
        let input = match input_size {
            0 => self.image_size(),
            size => CHECK.within("input_size", size, MOST_PIXELS)?,
        };
        let vision = match &self.vision {
            VisionSizes::Vit(_) if connect => {
                return Err(CHECK.wrong(
                    "connect is the residual of a ResNet's attention pool; a ViT has none",
                ));
            }
            VisionSizes::Vit(sizes) => Vision::Vit(self.vit(sizes, input, joint)?),
            VisionSizes::Resnet(sizes) => Vision::Resnet(resnet(sizes, input, joint, connect)?),
        };
        Ok(Model {
            vision,
            text: self.text.check(CHECK, self.activation, joint)?,
            joint,
        })
    }

    fn vit(&self, sizes: &VitSizes, input: usize, joint: usize) -> Result<Vit> {
        let patch = CHECK.within("vision.patch", sizes.patch, MOST_PIXELS)?;
        for (name, pixels) in [
            ("vision.image_size", sizes.image_size),
            ("input_size", input),
        ] {
            CHECK.multiple(name, pixels, patch, "the patch")?;
        }
        let blocks = Blocks {
            tower: "vision",
            width: sizes.width,
            heads: sizes.heads,
            head_width: sizes.head_width,
            mlp: sizes.mlp,
            activation: self.activation,
            causal: false,
            eps: EPS,
        };
        Ok(Vit {
            layers: CHECK.within("vision.layers", sizes.layers, MOST_LAYERS)?,
            block: CHECK.blocks(blocks)?,
            channels: 3,
            patch,
            pixels: input,
            joint,
            ends: Ends::Class {
                norm_in: !sizes.no_norm_in,
                mean: sizes.pooling == Pooling::Mean,
                norm_pooled: sizes.norm_pooled,
            },
        })
    }
}

impl TextSizes {
    /// The text tower of the backbone that `check` names, whose joint space is `joint` wide, if
    /// its sizes fit together.
    pub(crate) fn check(&self, check: Check, activation: Activation, joint: usize) -> Result<Text> {
        let vocabulary = check.within("text.vocabulary", self.vocabulary, MOST_TOKENS)?;
        let blocks = Blocks {
            tower: "text",
            width: self.width,
            heads: self.heads,
            head_width: None,
            mlp: self.mlp,
            activation,
            causal: !self.no_causal_mask,
            eps: EPS,
        };
        Ok(Text {
            layers: check.within("text.layers", self.layers, MOST_LAYERS)?,
            block: check.blocks(blocks)?,
            context: check.within("text.context", self.context, MOST_TOKENS)?,
            vocabulary,
            joint,
            projection: Projected::With {
                bias: self.joint_bias,
            },
            reading: match (self.last, self.end) {
                (Some(_), Some(_)) => {
                    return Err(check.wrong(
                        "text.last and text.end say where a sentence is read: give one of them",
                    ));
                }
                (Some(LastToken { padding, end }), None) => Reading::Last {
                    padding: check.id("text.last.padding", padding, vocabulary)?,
                    end: check.id("text.last.end", end, vocabulary)?,
                },
                (None, Some(end)) => Reading::End(check.id("text.end", end, vocabulary)?),
                (None, None) => Reading::Highest,
            },
        })
    }
}

fn resnet(sizes: &ResnetSizes, input: usize, joint: usize, connect: bool) -> Result<Resnet> {
    let width = CHECK.within("vision.width", sizes.width, MOST_WIDTH / 32)?;
    CHECK.multiple("vision.width", width, 2, "2, for the stem begins with half")?;
    for (name, pixels) in [
        ("vision.image_size", sizes.image_size),
        ("input_size", input),
    ] {
        CHECK.multiple(name, pixels, resnet::STRIDE, "the ResNet's whole stride")?;
    }
    for &layer in &sizes.layers {
        CHECK.within("vision.layers", layer, MOST_LAYERS)?;
    }
    let head_width = sizes.head_width.unwrap_or(HEAD_WIDTH);
    CHECK.within("vision.head_width", head_width, MOST_WIDTH)?;
    CHECK.multiple(
        "32 x vision.width",
        32 * width,
        head_width,
        "vision.head_width",
    )?;
    Ok(Resnet {
        layers: sizes.layers,
        width,
        head_width,
        input,
        native: sizes.image_size,
        connect,
        joint,
    })
}
