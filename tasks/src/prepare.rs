//! A picture of any size as the vision tower takes it.
//!
//! Owns the ways of bringing a picture to a square ([`Fit`]) and the
//! normalisation of its bytes. The letterbox itself is
//! [`letterbox`](crate::letterbox)'s; segmentation uses that whatever a
//! backbone says, because its answers lie on the picture.

use image::RgbImage;
use twinspan_sdk::preparation::{Fit, Preparation};

use crate::letterbox::{Letterbox, LetterboxError, Normalisation};
use crate::resample::{Side, resample};

impl From<&Preparation> for Normalisation {
    fn from(preparation: &Preparation) -> Self {
        Self {
            mean: preparation.mean,
            std: preparation.std,
        }
    }
}

/// The planes of `picture`, `[3, S, S]` with S the size of `preparation`,
/// normalised.
///
/// [`Fit::Crop`] is torchvision's `Resize(S)` and `CenterCrop(S)` on a Pillow
/// picture, as CLIP and open_clip prepare theirs: the longer side becomes
/// `int(S * long / short)`, and half a pixel of the cut goes to the even side;
/// with [`Fit::CropFirst`] to the first, as in transformers.
/// [`Fit::Squash`] is `Resize((S, S))`. Both give Pillow's bytes.
/// [`Fit::Letterbox`] samples as ETRIS does, whatever the resampling.
///
/// # Errors
/// [`LetterboxError::Empty`] if a side of the picture or S is 0.
pub fn prepare(preparation: &Preparation, picture: &RgbImage) -> Result<Vec<f32>, LetterboxError> {
    let size = preparation.size;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let normalisation = Normalisation::from(preparation);
    let letterbox = Letterbox::new(size, width, height)?;
    let (columns, rows) = match preparation.fit {
        Fit::Letterbox => return letterbox.picture(picture, &normalisation),
        Fit::Crop | Fit::CropFirst => {
            let short = width.min(height);
            let half: fn(f64) -> f64 = match preparation.fit {
                Fit::CropFirst => f64::floor,
                _ => f64::round_ties_even,
            };
            (
                middle(size, width, short, half),
                middle(size, height, short, half),
            )
        }
        Fit::Squash => (whole(size), whole(size)),
    };
    let bytes = resample(picture, preparation.resampling, columns, rows);
    Ok(normalisation.planes(&bytes))
}

fn whole(size: usize) -> Side {
    Side {
        to: size as u64,
        first: 0,
        kept: size,
    }
}

/// A side of `length` pixels, resized so that `short` pixels become `size`, and the `size` of
/// these in its middle, by `half` of what is left.
fn middle(size: usize, length: usize, short: usize, half: fn(f64) -> f64) -> Side {
    let to = size as u64 * length as u64;
    let to = (to as f64 / short as f64) as u64;
    let spare = to.saturating_sub(size as u64);
    Side {
        to,
        first: half(spare as f64 / 2.0) as u64,
        kept: size,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twinspan_sdk::preparation::Resampling;

    use super::*;

    proptest! {
        /// What is computed of the middle alone is what the whole resized picture has there.
        #[test]
        fn the_middle_is_that_of_the_whole(width in 1u32..40, height in 1u32..40, size in 1usize..12) {
            let picture = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([(x * 37) as u8, (y * 91) as u8, (x * y) as u8])
            });
            let short = width.min(height) as usize;
            let sides = [width, height].map(|length| middle(size, length as usize, short, f64::floor));
            let all = sides.map(|side| Side { first: 0, kept: side.to as usize, ..side });
            let part = resample(&picture, Resampling::Bicubic, sides[0], sides[1]);
            let whole = resample(&picture, Resampling::Bicubic, all[0], all[1]);
            let [left, top] = sides.map(|side| side.first as usize);
            for (row, line) in part.chunks_exact(3 * size).enumerate() {
                let start = 3 * ((top + row) * all[0].kept + left);
                prop_assert_eq!(line, &whole[start..start + 3 * size]);
            }
        }
    }
}
