//! Models by name.
//!
//! Owns the sizes of what OpenAI and open_clip released. Weights say which activation they were
//! trained with: OpenAI's names mean QuickGELU, open_clip's GELU unless they end in `-quickgelu`.
//!
//! Sources: <https://github.com/openai/CLIP>, <https://github.com/mlfoundations/open_clip>
//! (`model_configs`).

use serde::{Deserialize, Serialize};

use super::architecture::{
    Architecture, Pooling, ResnetSizes, TextSizes, VisionSizes, VitSizes, clip_context,
    clip_vocabulary,
};
use crate::block::Activation;

macro_rules! presets {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(| $alias:literal)* => $sizes:expr,)*) => {
        /// A released model.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Preset {
            $($(#[$doc])* #[serde(rename = $name $(, alias = $alias)*)] $variant,)*
        }

        impl Preset {
            /// Every model, in order.
            pub const ALL: &'static [Preset] = &[$(Preset::$variant),*];

            /// The name used in recipes.
            pub fn name(self) -> &'static str {
                match self { $(Preset::$variant => $name),* }
            }

            fn sizes(self) -> Sizes {
                match self { $(Preset::$variant => $sizes),* }
            }
        }
    };
}

use Activation::{Gelu, QuickGelu};

presets! {
    /// Vision transformer with patches of 32 pixels.
    VitB32 = "ViT-B/32" | "ViT-B-32-quickgelu" => base(QuickGelu, 32, 224),
    /// Vision transformer with patches of 16 pixels.
    #[default]
    VitB16 = "ViT-B/16" | "ViT-B-16-quickgelu" => base(QuickGelu, 16, 224),
    /// Large vision transformer with patches of 14 pixels.
    VitL14 = "ViT-L/14" | "ViT-L-14-quickgelu" => large(QuickGelu, 224),
    /// The same, trained on at 336 pixels.
    VitL14At336 = "ViT-L/14@336px" | "ViT-L-14-336-quickgelu" => large(QuickGelu, 336),
    /// ResNet-50.
    Rn50 = "RN50" | "RN50-quickgelu" => resnet((1024, 512), [3, 4, 6, 3], 64, 224),
    /// ResNet-101.
    Rn101 = "RN101" | "RN101-quickgelu" => resnet((512, 512), [3, 4, 23, 3], 64, 224),
    /// Four times ResNet-50's compute.
    Rn50x4 = "RN50x4" | "RN50x4-quickgelu" => resnet((640, 640), [4, 6, 10, 6], 80, 288),
    /// Sixteen times ResNet-50's compute.
    Rn50x16 = "RN50x16" | "RN50x16-quickgelu" => resnet((768, 768), [6, 8, 18, 8], 96, 384),
    /// Sixty-four times ResNet-50's compute.
    Rn50x64 = "RN50x64" | "RN50x64-quickgelu" => resnet((1024, 1024), [3, 15, 36, 10], 128, 448),
    /// open_clip's ViT-B/32, GELU.
    VitB32Gelu = "ViT-B-32" => base(Gelu, 32, 224),
    /// The same at 256 pixels.
    VitB32At256 = "ViT-B-32-256" => base(Gelu, 32, 256),
    /// open_clip's ViT-B/16, GELU.
    VitB16Gelu = "ViT-B-16" => base(Gelu, 16, 224),
    /// A wider ViT-B/16 at 240 pixels.
    VitB16Plus240 = "ViT-B-16-plus-240" => Sizes {
        embed_dim: 640,
        activation: Gelu,
        vision: VisionSizes::Vit(vit(12, 896, 16, 240)),
        text: (640, 12),
    },
    /// open_clip's ViT-L/14, GELU.
    VitL14Gelu = "ViT-L-14" => large(Gelu, 224),
    /// The same at 336 pixels.
    VitL14At336Gelu = "ViT-L-14-336" => large(Gelu, 336),
    /// Huge vision transformer, GELU.
    VitH14 = "ViT-H-14" => huge(Gelu, 224),
    /// The same with QuickGELU (DFN, MetaCLIP).
    VitH14Quick = "ViT-H-14-quickgelu" => huge(QuickGelu, 224),
    /// Huge, at 378 pixels.
    VitH14At378 = "ViT-H-14-378" => huge(Gelu, 378),
    /// The same with QuickGELU.
    VitH14At378Quick = "ViT-H-14-378-quickgelu" => huge(QuickGelu, 378),
    /// Giant vision transformer, GELU.
    VitG14 = "ViT-g-14" => Sizes {
        embed_dim: 1024,
        activation: Gelu,
        vision: headed(40, 1408, 88, 6144, 224),
        text: (1024, 24),
    },
    /// The largest one, GELU.
    VitBigG14 = "ViT-bigG-14" => largest(Gelu),
    /// The same with QuickGELU (MetaCLIP).
    VitBigG14Quick = "ViT-bigG-14-quickgelu" => largest(QuickGelu),
}

/// What tells one model from another.
struct Sizes {
    embed_dim: usize,
    activation: Activation,
    vision: VisionSizes,
    /// Width and layers; heads are 64 wide.
    text: (usize, usize),
}

fn vit(layers: usize, width: usize, patch: usize, image_size: usize) -> VitSizes {
    VitSizes {
        layers,
        width,
        heads: None,
        head_width: None,
        patch,
        image_size,
        mlp: None,
        pooling: Pooling::Class,
        no_norm_in: false,
        norm_pooled: false,
    }
}

/// Patches of 14 pixels, heads and MLPs of given widths.
fn headed(
    layers: usize,
    width: usize,
    head_width: usize,
    mlp: usize,
    image_size: usize,
) -> VisionSizes {
    VisionSizes::Vit(VitSizes {
        head_width: Some(head_width),
        mlp: Some(mlp),
        ..vit(layers, width, 14, image_size)
    })
}

fn base(activation: Activation, patch: usize, image_size: usize) -> Sizes {
    Sizes {
        embed_dim: 512,
        activation,
        vision: VisionSizes::Vit(vit(12, 768, patch, image_size)),
        text: (512, 12),
    }
}

fn large(activation: Activation, image_size: usize) -> Sizes {
    Sizes {
        embed_dim: 768,
        activation,
        vision: VisionSizes::Vit(vit(24, 1024, 14, image_size)),
        text: (768, 12),
    }
}

fn huge(activation: Activation, image_size: usize) -> Sizes {
    Sizes {
        embed_dim: 1024,
        activation,
        vision: headed(32, 1280, 80, 5120, image_size),
        text: (1024, 24),
    }
}

fn largest(activation: Activation) -> Sizes {
    Sizes {
        embed_dim: 1280,
        activation,
        vision: headed(48, 1664, 104, 8192, 224),
        text: (1280, 32),
    }
}

fn resnet(
    (embed_dim, text_width): (usize, usize),
    layers: [usize; 4],
    width: usize,
    image_size: usize,
) -> Sizes {
    Sizes {
        embed_dim,
        activation: QuickGelu,
        vision: VisionSizes::Resnet(ResnetSizes {
            layers,
            width,
            head_width: None,
            image_size,
        }),
        text: (text_width, 12),
    }
}

impl Preset {
    /// Its sizes.
    pub fn architecture(self) -> Architecture {
        let Sizes {
            embed_dim,
            activation,
            vision,
            text: (width, layers),
        } = self.sizes();
        Architecture {
            embed_dim,
            activation,
            vision,
            text: TextSizes {
                layers,
                width,
                heads: None,
                context: clip_context(),
                vocabulary: clip_vocabulary(),
                mlp: None,
                last: None,
                end: None,
                no_causal_mask: false,
                joint_bias: false,
            },
        }
    }
}
