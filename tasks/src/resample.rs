//! Resampling of 8-bit pictures as Pillow does it, to the last byte: what
//! published encoders saw in training. Always across before down, as in Pillow
//! before 13, which turns the order for pictures that lose more in height.
//!
//! Owns the two passes over a part of the resized picture, so that no more is
//! computed and held than what is kept. Which part that is, and what the bytes
//! become, is [`prepare`](crate::prepare)'s.

use image::RgbImage;
use twinspan_sdk::preparation::Resampling;

/// Bits behind the point of a weight, as Pillow has it for bytes: 32 less 8
/// for the byte and 2 for sums that overshoot.
const BITS: u32 = 32 - 8 - 2;

/// One side of a picture that is resized, and the part of it that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// Pixels it is resized to.
    pub to: u64,
    /// The first of these that is kept.
    pub first: u64,
    /// How many are kept.
    pub kept: usize,
}

/// The kept part of `picture`, resized: `[rows.kept, columns.kept, 3]` bytes.
///
/// Across first, rounded to bytes, then down. A wider kernel where a side
/// shrinks. Lines are taken one by one, so that what is held beside the result
/// does not grow with the picture but for its weights.
pub(crate) fn resample(
    picture: &RgbImage,
    resampling: Resampling,
    columns: Side,
    rows: Side,
) -> Vec<u8> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let columns = taps(width, columns, resampling);
    let rows = taps(height, rows, resampling);
    let across = 3 * columns.len();
    let mut sums = vec![1i32 << (BITS - 1); across * rows.len()];
    let mut line = vec![0; across];
    let from = rows.iter().map(|taps| taps.first).min().unwrap_or(0);
    let to = rows.iter().map(Taps::end).max().unwrap_or(0);
    let pixels = picture.as_raw().chunks_exact(3 * width.max(1));
    for (y, pixels) in pixels.enumerate().take(to).skip(from) {
        resample_line(pixels, &columns, &mut line);
        for (sums, taps) in sums.chunks_exact_mut(across.max(1)).zip(&rows) {
            let Some(&weight) = y.checked_sub(taps.first).and_then(|i| taps.weights.get(i)) else {
                continue;
            };
            for (sum, &value) in sums.iter_mut().zip(&line) {
                *sum += weight * i32::from(value);
            }
        }
    }
    sums.into_iter().map(byte).collect()
}

/// A line of RGB pixels at every one of `columns`.
fn resample_line(pixels: &[u8], columns: &[Taps], line: &mut [u8]) {
    for (out, taps) in line.chunks_exact_mut(3).zip(columns) {
        let mut sums = [1i32 << (BITS - 1); 3];
        let seen = pixels.chunks_exact(3).skip(taps.first);
        for (pixel, &weight) in seen.zip(&taps.weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(value);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = byte(sum);
        }
    }
}

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Where one pixel of the resized picture looks, and how much each counts.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn end(&self) -> usize {
        self.first + self.weights.len()
    }
}

/// The taps of the kept pixels of a side that has `from` pixels.
fn taps(from: usize, side: Side, resampling: Resampling) -> Vec<Taps> {
    let (kernel, reach): (fn(f64) -> f64, f64) = match resampling {
        Resampling::Bicubic => (cubic, 2.0),
        Resampling::Bilinear => (triangle, 1.0),
    };
    let scale = from as f64 / side.to as f64;
    let wide = scale.max(1.0);
    let place = |at: f64| (at + 0.5).clamp(0.0, from as f64) as usize;
    let taps = |i: usize| {
        let centre = ((side.first + i as u64) as f64 + 0.5) * scale;
        let first = place(centre - reach * wide);
        let end = place(centre + reach * wide);
        let weigh = |x: usize| kernel((x as f64 - centre + 0.5) * (1.0 / wide));
        let weights: Vec<f64> = (first..end).map(weigh).collect();
        let sum: f64 = weights.iter().sum();
        Taps {
            first,
            weights: weights.into_iter().map(|w| fixed(w / sum)).collect(),
        }
    };
    (0..side.kept).map(taps).collect()
}

/// Rounded half away from zero.
fn fixed(weight: f64) -> i32 {
    (weight * f64::from(1 << BITS)).round() as i32
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic convolution with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}
