//! Models by name.
//!
//! Owns the sizes of what Google released; the names are those of its repositories.

use serde::{Deserialize, Serialize};

use twinspan_sdk::preparation::Resampling;

use super::architecture::{Architecture, TextSizes, VisionSizes};
use crate::block::Activation;

macro_rules! presets {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $sizes:expr,)*) => {
        /// A released model.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Preset {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Preset {
            /// Every model, in order.
            pub const ALL: &'static [Preset] = &[$(Preset::$variant),*];

            /// The name used in recipes: that of its repository.
            pub fn name(self) -> &'static str {
                match self { $(Preset::$variant => $name),* }
            }

            /// Its sizes.
            pub fn architecture(self) -> Architecture {
                match self { $(Preset::$variant => $sizes),* }
            }
        }
    };
}

presets! {
    /// Base, patches of 16, 224 pixels.
    #[default]
    Base16At224 = "siglip-base-patch16-224" => first(BASE, 16, 224),
    /// Base, patches of 16, 256 pixels.
    Base16At256 = "siglip-base-patch16-256" => first(BASE, 16, 256),
    /// Base, patches of 16, 384 pixels.
    Base16At384 = "siglip-base-patch16-384" => first(BASE, 16, 384),
    /// Base, patches of 16, 512 pixels.
    Base16At512 = "siglip-base-patch16-512" => first(BASE, 16, 512),
    /// Base, of many languages.
    Base16At256Multilingual = "siglip-base-patch16-256-multilingual" => vocabulary(first(BASE, 16, 256), 250_000),
    /// Large, patches of 16, 256 pixels.
    Large16At256 = "siglip-large-patch16-256" => first(LARGE, 16, 256),
    /// Large, patches of 16, 384 pixels.
    Large16At384 = "siglip-large-patch16-384" => first(LARGE, 16, 384),
    /// So400m, patches of 14, 224 pixels, short sentences.
    So400m14At224 = "siglip-so400m-patch14-224" => context(first(SO400M, 14, 224), 16),
    /// So400m, patches of 14, 384 pixels.
    So400m14At384 = "siglip-so400m-patch14-384" => first(SO400M, 14, 384),
    /// So400m, patches of 16, of many languages.
    So400m16At256I18n = "siglip-so400m-patch16-256-i18n" => vocabulary(first(SO400M, 16, 256), 250_000),
    /// SigLIP 2, base, patches of 32, 256 pixels.
    Second32At256 = "siglip2-base-patch32-256" => second(BASE, BASE, 32, 256),
    /// SigLIP 2, base, patches of 16, 224 pixels.
    Second16At224 = "siglip2-base-patch16-224" => second(BASE, BASE, 16, 224),
    /// SigLIP 2, base, patches of 16, 256 pixels.
    Second16At256 = "siglip2-base-patch16-256" => second(BASE, BASE, 16, 256),
    /// SigLIP 2, base, patches of 16, 384 pixels.
    Second16At384 = "siglip2-base-patch16-384" => second(BASE, BASE, 16, 384),
    /// SigLIP 2, base, patches of 16, 512 pixels.
    Second16At512 = "siglip2-base-patch16-512" => second(BASE, BASE, 16, 512),
    /// SigLIP 2, large, 256 pixels.
    SecondLarge16At256 = "siglip2-large-patch16-256" => second(LARGE, LARGE, 16, 256),
    /// SigLIP 2, large, 384 pixels.
    SecondLarge16At384 = "siglip2-large-patch16-384" => second(LARGE, LARGE, 16, 384),
    /// SigLIP 2, large, 512 pixels.
    SecondLarge16At512 = "siglip2-large-patch16-512" => second(LARGE, LARGE, 16, 512),
    /// SigLIP 2, so400m, patches of 14, 224 pixels.
    SecondSo400m14At224 = "siglip2-so400m-patch14-224" => second(SO400M, SO400M, 14, 224),
    /// SigLIP 2, so400m, patches of 14, 384 pixels.
    SecondSo400m14At384 = "siglip2-so400m-patch14-384" => second(SO400M, SO400M, 14, 384),
    /// SigLIP 2, so400m, patches of 16, 256 pixels.
    SecondSo400m16At256 = "siglip2-so400m-patch16-256" => second(SO400M, SO400M, 16, 256),
    /// SigLIP 2, so400m, patches of 16, 384 pixels.
    SecondSo400m16At384 = "siglip2-so400m-patch16-384" => second(SO400M, SO400M, 16, 384),
    /// SigLIP 2, so400m, patches of 16, 512 pixels.
    SecondSo400m16At512 = "siglip2-so400m-patch16-512" => second(SO400M, SO400M, 16, 512),
    /// SigLIP 2, giant beside so400m's text tower, 256 pixels.
    SecondGiant16At256 = "siglip2-giant-opt-patch16-256" => second(GIANT, SO400M, 16, 256),
    /// SigLIP 2, giant beside so400m's text tower, 384 pixels.
    SecondGiant16At384 = "siglip2-giant-opt-patch16-384" => second(GIANT, SO400M, 16, 384),
}

impl Preset {
    /// How its pictures are resampled: the second generation's by a triangle.
    pub(super) fn resampling(self) -> Resampling {
        match self.name().starts_with("siglip2") {
            true => Resampling::Bilinear,
            false => Resampling::Bicubic,
        }
    }
}

/// Layers, width, heads, width inside the MLPs of a tower.
type Tower = (usize, usize, usize, usize);

const BASE: Tower = (12, 768, 12, 3072);
const LARGE: Tower = (24, 1024, 16, 4096);
const SO400M: Tower = (27, 1152, 16, 4304);
const GIANT: Tower = (40, 1536, 16, 6144);

/// SigLIP: both towers of one size, 32000 words.
fn first(tower: Tower, patch: usize, image_size: usize) -> Architecture {
    model(tower, tower, patch, image_size)
}

/// SigLIP 2: Gemma's words, another id that pads.
fn second(vision: Tower, text: Tower, patch: usize, image_size: usize) -> Architecture {
    let mut second = vocabulary(model(vision, text, patch, image_size), 256_000);
    second.text.padding = 0;
    second
}

fn vocabulary(mut model: Architecture, vocabulary: usize) -> Architecture {
    model.text.vocabulary = vocabulary;
    model
}

fn context(mut model: Architecture, context: usize) -> Architecture {
    model.text.context = context;
    model
}

fn model(vision: Tower, text: Tower, patch: usize, image_size: usize) -> Architecture {
    let (layers, width, heads, mlp) = vision;
    let vision = VisionSizes {
        layers,
        width,
        heads,
        mlp: Some(mlp),
        activation: Activation::GeluTanh,
        patch,
        image_size,
    };
    let (layers, width, heads, mlp) = text;
    let text = TextSizes {
        layers,
        width,
        heads,
        mlp: Some(mlp),
        activation: Activation::GeluTanh,
        no_projection: false,
        context: 64,
        vocabulary: 32_000,
        padding: 1,
        end: 1,
    };
    Architecture { vision, text }
}
