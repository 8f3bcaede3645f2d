//! The sizes of a CLIP: written in a recipe, or OpenAI's by name, and checked.
//!
//! Owns presets and every check of sizes: behind [`Architecture::check`] all of
//! them fit together and no product of them overflows. Builds nothing.

use serde::{Deserialize, Serialize};
use twinspan_sdk::{Error, Result};

use super::resnet::{self, Resnet};
use super::text::Text;
use super::vit::Vit;
use crate::block::{Activation, BlockShape};

/// The head width of every CLIP of OpenAI's.
const HEAD_WIDTH: usize = 64;
/// Sizes above these are mistakes; below them every product of sizes fits 64 bits.
const MOST_WIDTH: usize = 1 << 16;
const MOST_LAYERS: usize = 1 << 10;
const MOST_PIXELS: usize = 1 << 14;
const MOST_TOKENS: usize = 1 << 24;

/// One of OpenAI's models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// Vision transformer with patches of 32 pixels.
    #[serde(rename = "ViT-B/32")]
    VitB32,
    /// Vision transformer with patches of 16 pixels.
    #[default]
    #[serde(rename = "ViT-B/16")]
    VitB16,
    /// Large vision transformer with patches of 14 pixels.
    #[serde(rename = "ViT-L/14")]
    VitL14,
    /// The same, trained on at 336 pixels.
    #[serde(rename = "ViT-L/14@336px")]
    VitL14At336,
    /// ResNet-50.
    #[serde(rename = "RN50")]
    Rn50,
    /// ResNet-101.
    #[serde(rename = "RN101")]
    Rn101,
    /// Four times ResNet-50's compute.
    #[serde(rename = "RN50x4")]
    Rn50x4,
    /// Sixteen times ResNet-50's compute.
    #[serde(rename = "RN50x16")]
    Rn50x16,
    /// Sixty-four times ResNet-50's compute.
    #[serde(rename = "RN50x64")]
    Rn50x64,
}

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
}

fn clip_context() -> usize {
    77
}

fn clip_vocabulary() -> usize {
    49408
}

impl Preset {
    /// Its sizes.
    pub fn architecture(self) -> Architecture {
        use Preset::*;
        let vit = |layers, width, patch, image_size| {
            VisionSizes::Vit(VitSizes {
                layers,
                width,
                heads: None,
                head_width: None,
                patch,
                image_size,
                mlp: None,
            })
        };
        let resnet = |layers, width, image_size| {
            VisionSizes::Resnet(ResnetSizes {
                layers,
                width,
                head_width: None,
                image_size,
            })
        };
        let (embed_dim, text_width, vision) = match self {
            VitB32 => (512, 512, vit(12, 768, 32, 224)),
            VitB16 => (512, 512, vit(12, 768, 16, 224)),
            VitL14 => (768, 768, vit(24, 1024, 14, 224)),
            VitL14At336 => (768, 768, vit(24, 1024, 14, 336)),
            Rn50 => (1024, 512, resnet([3, 4, 6, 3], 64, 224)),
            Rn101 => (512, 512, resnet([3, 4, 23, 3], 64, 224)),
            Rn50x4 => (640, 640, resnet([4, 6, 10, 6], 80, 288)),
            Rn50x16 => (768, 768, resnet([6, 8, 18, 8], 96, 384)),
            Rn50x64 => (1024, 1024, resnet([3, 15, 36, 10], 128, 448)),
        };
        Architecture {
            embed_dim,
            activation: Activation::QuickGelu,
            vision,
            text: TextSizes {
                layers: 12,
                width: text_width,
                heads: None,
                context: clip_context(),
                vocabulary: clip_vocabulary(),
                mlp: None,
            },
        }
    }
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

    /// The sizes at an input of `input_size` pixels (0 is the native one), if they fit together.
    pub(super) fn check(&self, input_size: usize, connect: bool) -> Result<Model> {
        let joint = within("embed_dim", self.embed_dim, MOST_WIDTH)?;
        within("vision.image_size", self.image_size(), MOST_PIXELS)?;
        let input = match input_size {
            0 => self.image_size(),
            size => within("input_size", size, MOST_PIXELS)?,
        };
        let vision = match &self.vision {
            VisionSizes::Vit(_) if connect => {
                return Err(wrong(
                    "connect is the residual of a ResNet's attention pool; a ViT has none",
                ));
            }
            VisionSizes::Vit(sizes) => Vision::Vit(self.vit(sizes, input, joint)?),
            VisionSizes::Resnet(sizes) => Vision::Resnet(resnet(sizes, input, joint, connect)?),
        };
        let text = &self.text;
        Ok(Model {
            vision,
            text: Text {
                layers: within("text.layers", text.layers, MOST_LAYERS)?,
                block: BlockShape {
                    causal: true,
                    ..self.block("text", text.width, text.heads, None, text.mlp)?
                },
                context: within("text.context", text.context, MOST_TOKENS)?,
                vocabulary: within("text.vocabulary", text.vocabulary, MOST_TOKENS)?,
                joint,
            },
            joint,
        })
    }

    fn vit(&self, sizes: &VitSizes, input: usize, joint: usize) -> Result<Vit> {
        let patch = within("vision.patch", sizes.patch, MOST_PIXELS)?;
        for (name, pixels) in [
            ("vision.image_size", sizes.image_size),
            ("input_size", input),
        ] {
            multiple(name, pixels, patch, "the patch")?;
        }
        Ok(Vit {
            layers: within("vision.layers", sizes.layers, MOST_LAYERS)?,
            block: self.block(
                "vision",
                sizes.width,
                sizes.heads,
                sizes.head_width,
                sizes.mlp,
            )?,
            channels: 3,
            patch,
            side: input / patch,
            joint,
        })
    }

    fn block(
        &self,
        tower: &str,
        width: usize,
        heads: Option<usize>,
        head_width: Option<usize>,
        mlp: Option<usize>,
    ) -> Result<BlockShape> {
        let name = |field: &str| format!("{tower}.{field}");
        let width = within(&name("width"), width, MOST_WIDTH)?;
        let heads = match (heads, head_width) {
            (Some(_), Some(_)) => {
                return Err(wrong(format!(
                    "{} and {} say the same: give one of them",
                    name("heads"),
                    name("head_width")
                )));
            }
            (Some(heads), None) => heads,
            (None, head) => {
                let head = head.unwrap_or(HEAD_WIDTH);
                within(&name("head_width"), head, MOST_WIDTH)?;
                multiple(&name("width"), width, head, "the head width")?;
                width / head
            }
        };
        within(&name("heads"), heads, MOST_WIDTH)?;
        multiple(&name("width"), width, heads, "the number of heads")?;
        let mlp = mlp.unwrap_or(4 * width);
        Ok(BlockShape {
            width,
            heads,
            mlp: within(&name("mlp"), mlp, 4 * MOST_WIDTH)?,
            activation: self.activation,
            causal: false,
        })
    }
}

fn resnet(sizes: &ResnetSizes, input: usize, joint: usize, connect: bool) -> Result<Resnet> {
    let width = within("vision.width", sizes.width, MOST_WIDTH / 32)?;
    multiple("vision.width", width, 2, "2, for the stem begins with half")?;
    for (name, pixels) in [
        ("vision.image_size", sizes.image_size),
        ("input_size", input),
    ] {
        multiple(name, pixels, resnet::STRIDE, "the ResNet's whole stride")?;
    }
    for &layer in &sizes.layers {
        within("vision.layers", layer, MOST_LAYERS)?;
    }
    let head_width = sizes.head_width.unwrap_or(HEAD_WIDTH);
    within("vision.head_width", head_width, MOST_WIDTH)?;
    multiple(
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

fn within(name: &str, value: usize, most: usize) -> Result<usize> {
    match (1..=most).contains(&value) {
        true => Ok(value),
        false => Err(wrong(format!("{name} = {value}: give 1 to {most}"))),
    }
}

fn multiple(name: &str, value: usize, of: usize, what: &str) -> Result<()> {
    match value.is_multiple_of(of) {
        true => Ok(()),
        false => Err(wrong(format!(
            "{name} = {value} is not a multiple of {of} ({what})"
        ))),
    }
}

fn wrong(message: impl std::fmt::Display) -> Error {
    Error::wrong_use(format!("backbone `clip`: {message}"))
}
