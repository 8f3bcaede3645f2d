//! How a backbone wants its pictures: size, colours, and what becomes of a picture that is not
//! square.
//!
//! Owns the description only, which a recipe holds as a table; pixels are moved by who holds
//! pictures. Tasks that answer on the picture itself (segmentation) fit it whole whatever is said
//! here.

use serde::{Deserialize, Serialize};

/// How pictures are prepared for a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// Side of the square input, in pixels.
    pub size: usize,
    /// Mean of each channel of values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// How pixels are resampled.
    #[serde(default)]
    pub resampling: Resampling,
    /// How a picture is brought to the square.
    #[serde(default)]
    pub fit: Fit,
}

/// How pixels are resampled, as Pillow does: wider kernels where a picture shrinks, bytes in
/// between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resampling {
    /// Cubic convolution, a = -0.5.
    #[default]
    Bicubic,
    /// A triangle.
    Bilinear,
}

/// How a picture is brought to a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// The whole picture in the middle of a square of the mean colour, as ETRIS does.
    #[default]
    Letterbox,
    /// The shorter side resized to the square's, the middle cut out, half a pixel going to the
    /// even side: OpenAI's code and open_clip, by torchvision.
    Crop,
    /// The same with half a pixel going to the first side: transformers. One pixel of shift where
    /// the rest is 3 of 4.
    CropFirst,
    /// Both sides resized to the square's: SigLIP.
    Squash,
}

impl Default for Preparation {
    /// 224 pixels, colours in [-1, 1], bicubic, the whole picture.
    fn default() -> Self {
        Self {
            size: 224,
            mean: [0.5; 3],
            std: [0.5; 3],
            resampling: Resampling::default(),
            fit: Fit::default(),
        }
    }
}
