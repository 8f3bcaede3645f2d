//! The letterbox: a picture of any size on the model's square input, and the
//! model's answer back on the picture.
//!
//! Owns the affine map both ways and its three samplings (cubic for pictures
//! and answers, linear for masks), as ETRIS (arXiv 2307.11545) prepares its
//! data. Does not open files, and does not decide what a probability means
//! (see [`metrics`](crate::metrics)).

use image::RgbImage;
use rayon::prelude::*;

/// Why something does not fit a letterbox.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum LetterboxError {
    /// A side of the picture or of the input is zero.
    #[error(
        "a picture of {width} x {height} cannot be put on an input of {size} x {size}: no side may be 0"
    )]
    Empty {
        /// Side of the input.
        size: usize,
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
    },
    /// The picture is not of the size that the letterbox was made for.
    #[error("this letterbox is for {} x {} pixels, the picture has {} x {}", expected.0, expected.1, got.0, got.1)]
    Picture {
        /// Width and height it was made for.
        expected: (usize, usize),
        /// Width and height it got.
        got: (usize, usize),
    },
    /// A plane does not have one value for each pixel.
    #[error("{what} of {width} x {height} has {expected} values, got {got}")]
    Values {
        /// What the plane is.
        what: &'static str,
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
        /// Values it must have.
        expected: usize,
        /// Values it has.
        got: usize,
    },
}

/// How bytes become the numbers a tower was trained on: `(v/255 - mean)/std`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Mean of red, green and blue, in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, in 0..1.
    pub std: [f32; 3],
}

impl Normalisation {
    /// CLIP's, which open_clip and ETRIS share.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };

    /// The mean colour in bytes, which fills the border: (123, 117, 104) for
    /// CLIP. After normalisation it is nearly zero.
    pub fn border(&self) -> [u8; 3] {
        self.mean.map(|mean| byte(f64::from(mean) * 255.0))
    }

    /// Interleaved bytes `[N, N, 3]` as normalised planes `[3, N, N]`.
    pub(crate) fn planes(&self, bytes: &[u8]) -> Vec<f32> {
        let plane = bytes.len() / 3;
        let mut planes = vec![0.0; 3 * plane];
        for (channel, plane) in planes.chunks_exact_mut(plane.max(1)).enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            for (value, pixel) in plane.iter_mut().zip(bytes.chunks_exact(3)) {
                *value = (f32::from(pixel[channel]) / 255.0 - mean) / std;
            }
        }
        planes
    }
}

/// A picture of one size, scaled to fit a square and centred on it.
///
/// Coordinates are pixel indices, without a half-pixel shift: input pixel
/// `(u, v)` shows the picture at `inverse * (u, v, 1)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Letterbox {
    /// Side N of the square input.
    pub size: usize,
    /// Picture to input: `[[s, 0, (N - s·w)/2], [0, s, (N - s·h)/2]]` with
    /// `s = min(N/w, N/h)`.
    pub forward: [[f64; 3]; 2],
    /// Input to picture.
    pub inverse: [[f64; 3]; 2],
    width: usize,
    height: usize,
}

impl Letterbox {
    /// The letterbox for pictures of `width` x `height` on `size` x `size`.
    ///
    /// # Errors
    /// [`LetterboxError::Empty`] if any of them is 0.
    pub fn new(size: usize, width: usize, height: usize) -> Result<Self, LetterboxError> {
        if size == 0 || width == 0 || height == 0 {
            return Err(LetterboxError::Empty {
                size,
                width,
                height,
            });
        }
        let (n, w, h) = (size as f64, width as f64, height as f64);
        let s = (n / w).min(n / h);
        let (left, top) = ((n - s * w) / 2.0, (n - s * h) / 2.0);
        Ok(Self {
            size,
            forward: [[s, 0.0, left], [0.0, s, top]],
            inverse: [[1.0 / s, 0.0, -left / s], [0.0, 1.0 / s, -top / s]],
            width,
            height,
        })
    }

    /// The picture on the input: `[N, N, 3]` bytes, cubic (a = -0.75),
    /// `border` around it.
    ///
    /// # Errors
    /// [`LetterboxError::Picture`] if the picture is of another size.
    pub fn bytes(&self, picture: &RgbImage, border: [u8; 3]) -> Result<Vec<u8>, LetterboxError> {
        let got = (picture.width() as usize, picture.height() as usize);
        let expected = (self.width, self.height);
        if got != expected {
            return Err(LetterboxError::Picture { expected, got });
        }
        let columns = taps(self.size, self.inverse[0][0], self.inverse[0][2], cubic);
        let rows = taps(self.size, self.inverse[1][1], self.inverse[1][2], cubic);
        Ok(warp(picture.as_raw(), expected, &columns, &rows, border))
    }

    /// The picture as a tower takes it: `[3, N, N]`, normalised, from the
    /// rounded [`bytes`](Self::bytes) with the mean colour around it.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn picture(
        &self,
        picture: &RgbImage,
        normalisation: &Normalisation,
    ) -> Result<Vec<f32>, LetterboxError> {
        let bytes = self.bytes(picture, normalisation.border())?;
        Ok(normalisation.planes(&bytes))
    }

    /// A mask of the picture's size on the input: `[N, N]`, linear and left
    /// grey, 0 around it.
    ///
    /// # Errors
    /// [`LetterboxError::Values`] if the mask is of another size.
    pub fn mask(&self, mask: &[u8]) -> Result<Vec<u8>, LetterboxError> {
        check("a mask", (self.width, self.height), mask.len())?;
        let columns = taps(self.size, self.inverse[0][0], self.inverse[0][2], linear);
        let rows = taps(self.size, self.inverse[1][1], self.inverse[1][2], linear);
        let size = (self.width, self.height);
        Ok(warp(mask, size, &columns, &rows, [0]))
    }

    /// An answer `[N, N]` on the picture: `[height, width]`, cubic
    /// (a = -0.75), 0 around the input. Values overshoot; they are not clipped.
    ///
    /// # Errors
    /// [`LetterboxError::Values`] if `probability` is not N x N.
    pub fn back(&self, probability: &[f32]) -> Result<Vec<f32>, LetterboxError> {
        check("an answer", (self.size, self.size), probability.len())?;
        let columns = taps(self.width, self.forward[0][0], self.forward[0][2], cubic);
        let rows = taps(self.height, self.forward[1][1], self.forward[1][2], cubic);
        let outside = |_: isize| None;
        Ok(stretch(probability, self.size, &columns, &rows, outside))
    }
}

fn check(what: &'static str, size: (usize, usize), got: usize) -> Result<(), LetterboxError> {
    let (width, height) = size;
    let expected = width.saturating_mul(height);
    if expected == got {
        return Ok(());
    }
    Err(LetterboxError::Values {
        what,
        width,
        height,
        expected,
        got,
    })
}

/// Bicubic (a = -0.75) resize of one plane, row by row, from `(height, width)`
/// `from` to `to`; the corners' centres stay, the edge is repeated.
///
/// # Errors
/// [`LetterboxError::Values`] if `plane` is not of the size `from`, or `from`
/// is empty.
pub fn upsample_bicubic_aligned(
    plane: &[f32],
    from: (usize, usize),
    to: (usize, usize),
) -> Result<Vec<f32>, LetterboxError> {
    let (height, width) = from;
    check("a plane", (width, height), plane.len())?;
    if plane.is_empty() {
        return Err(LetterboxError::Empty {
            size: 0,
            width,
            height,
        });
    }
    let scale = |from: usize, to: usize| (from - 1) as f64 / to.saturating_sub(1).max(1) as f64;
    let columns = taps(to.1, scale(width, to.1), 0.0, cubic);
    let rows = taps(to.0, scale(height, to.0), 0.0, cubic);
    let edge = |place: isize| Some(if place < 0 { 0 } else { usize::MAX });
    Ok(stretch(plane, width, &columns, &rows, edge))
}

/// Where one output coordinate looks: K neighbours from `first` on.
struct Taps<const K: usize> {
    first: isize,
    weights: [f64; K],
}

fn taps<const K: usize>(
    count: usize,
    scale: f64,
    shift: f64,
    kernel: fn(f64) -> Taps<K>,
) -> Vec<Taps<K>> {
    (0..count)
        .map(|i| kernel(scale * i as f64 + shift))
        .collect()
}

fn linear(at: f64) -> Taps<2> {
    let floor = at.floor();
    let t = at - floor;
    Taps {
        first: floor as isize,
        weights: [1.0 - t, t],
    }
}

/// Keys' cubic convolution with a = -0.75, as OpenCV and PyTorch have it.
fn cubic(at: f64) -> Taps<4> {
    const A: f64 = -0.75;
    let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    let floor = at.floor();
    let t = at - floor;
    Taps {
        first: floor as isize - 1,
        weights: [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)],
    }
}

fn byte(value: f64) -> u8 {
    // The cast saturates, which is the clipping wanted here.
    value.round_ties_even() as u8
}

/// Samples interleaved bytes of `size` (width, height) at every pair of
/// `rows` and `columns`; neighbours outside have the colour `border`.
fn warp<const C: usize, const K: usize>(
    source: &[u8],
    size: (usize, usize),
    columns: &[Taps<K>],
    rows: &[Taps<K>],
    border: [u8; C],
) -> Vec<u8> {
    let (width, height) = size;
    let mut warped = vec![0; rows.len() * columns.len() * C];
    let out = warped.par_chunks_exact_mut((columns.len() * C).max(1));
    out.zip(rows).for_each(|(out, row)| {
        let lines: [Option<&[u8]>; K] = std::array::from_fn(|j| {
            let y = inside(row.first + j as isize, height)?;
            source.get(y * width * C..(y + 1) * width * C)
        });
        for (pixel, column) in out.chunks_exact_mut(C).zip(columns) {
            let places: [Option<usize>; K] =
                std::array::from_fn(|i| inside(column.first + i as isize, width));
            for (channel, value) in pixel.iter_mut().enumerate() {
                let mut sum = 0.0;
                for (line, wy) in lines.iter().zip(row.weights) {
                    let mut along = 0.0;
                    for (place, wx) in places.iter().zip(column.weights) {
                        let sample = match (line, place) {
                            (Some(line), Some(x)) => line[x * C + channel],
                            _ => border[channel],
                        };
                        along += wx * f64::from(sample);
                    }
                    sum += wy * along;
                }
                *value = byte(sum);
            }
        }
    });
    warped
}

fn inside(place: isize, length: usize) -> Option<usize> {
    usize::try_from(place).ok().filter(|&place| place < length)
}

/// Samples one plane of `width` columns at every pair of `rows` and `columns`,
/// first along its rows and then down its columns: the answer of a
/// 12,000-pixel picture has 144 million values, and so costs 4 products each
/// instead of 16.
///
/// `outside` says what stands for a neighbour outside: a place, which is
/// brought inside, or none for 0.
fn stretch(
    plane: &[f32],
    width: usize,
    columns: &[Taps<4>],
    rows: &[Taps<4>],
    outside: impl Fn(isize) -> Option<usize> + Sync,
) -> Vec<f32> {
    let height = plane.len() / width.max(1);
    let find = |place: isize, length: usize| {
        inside(place, length).or_else(|| Some(outside(place)?.min(length - 1)))
    };
    let across = columns.len().max(1);
    let columns: Vec<[(usize, f32); 4]> = columns
        .iter()
        .map(|taps| {
            std::array::from_fn(|i| match find(taps.first + i as isize, width) {
                Some(x) => (x, taps.weights[i] as f32),
                None => (0, 0.0),
            })
        })
        .collect();
    let mut wide = vec![0.0f32; height * columns.len()];
    let lines = wide.par_chunks_exact_mut(across);
    lines
        .zip(plane.par_chunks_exact(width.max(1)))
        .for_each(|(wide, line)| {
            for (value, taps) in wide.iter_mut().zip(&columns) {
                *value = taps.iter().map(|&(x, weight)| weight * line[x]).sum();
            }
        });

    let zeros = vec![0.0f32; across];
    let mut stretched = vec![0.0f32; rows.len() * columns.len()];
    let lines = stretched.par_chunks_exact_mut(across);
    lines.zip(rows).for_each(|(out, taps)| {
        let [a, b, c, d]: [&[f32]; 4] =
            std::array::from_fn(|j| match find(taps.first + j as isize, height) {
                Some(y) => &wide[y * across..(y + 1) * across],
                None => &zeros,
            });
        let [wa, wb, wc, wd] = taps.weights.map(|weight| weight as f32);
        for ((((value, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *value = wa * a + wb * b + wc * c + wd * d;
        }
    });
    stretched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_clip_s_mean_colour() {
        assert_eq!(Normalisation::CLIP.border(), [123, 117, 104]);
    }

    #[test]
    fn cubic_weights_sum_to_one_and_meet_the_samples() {
        for at in [-3.25, 0.0, 0.5, 7.9] {
            let sum: f64 = cubic(at).weights.iter().sum();
            assert!((sum - 1.0).abs() < 1e-12);
        }
        assert_eq!(cubic(5.0).weights, [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(cubic(5.0).first, 4);
    }

    #[test]
    fn a_square_picture_of_the_input_s_size_is_unchanged() {
        let picture = RgbImage::from_fn(5, 5, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let letterbox = Letterbox::new(5, 5, 5).unwrap();
        assert_eq!(
            letterbox.bytes(&picture, [0; 3]).unwrap(),
            picture.into_raw()
        );
    }

    #[test]
    fn forward_and_inverse_undo_each_other() {
        let Letterbox {
            forward: f,
            inverse: i,
            ..
        } = Letterbox::new(416, 640, 427).unwrap();
        let there = |m: [[f64; 3]; 2], p: [f64; 2]| [0, 1].map(|k| m[k][k] * p[k] + m[k][2]);
        let back = there(i, there(f, [100.0, 200.0]));
        assert!((back[0] - 100.0).abs() < 1e-9 && (back[1] - 200.0).abs() < 1e-9);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(
            Letterbox::new(416, 0, 3).unwrap_err().to_string(),
            "a picture of 0 x 3 cannot be put on an input of 416 x 416: no side may be 0"
        );
        let letterbox = Letterbox::new(4, 3, 2).unwrap();
        assert_eq!(
            letterbox.mask(&[0; 5]).unwrap_err().to_string(),
            "a mask of 3 x 2 has 6 values, got 5"
        );
        assert_eq!(
            letterbox.back(&[0.0; 5]).unwrap_err().to_string(),
            "an answer of 4 x 4 has 16 values, got 5"
        );
        assert_eq!(
            letterbox
                .bytes(&RgbImage::new(2, 3), [0; 3])
                .unwrap_err()
                .to_string(),
            "this letterbox is for 3 x 2 pixels, the picture has 2 x 3"
        );
        assert!(upsample_bicubic_aligned(&[], (0, 3), (4, 4)).is_err());
    }

    #[test]
    fn one_pixel_fills_the_plane_it_is_stretched_to() {
        let plane = upsample_bicubic_aligned(&[0.5], (1, 1), (3, 2)).unwrap();
        assert_eq!(plane, [0.5; 6]);
    }
}
