//! Resizing pictures.
//!
//! Owns the weights of the neighbours. There is no antialiasing.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

/// How a pixel is made from its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Two neighbours per direction.
    Bilinear,
    /// Four per direction, cubic convolution with `a = -0.75` (Keys 1981), as PyTorch has it.
    Bicubic,
}

/// One output pixel along one direction: source indices and their weights.
pub(super) type Tap = [(usize, f64); 4];

fn keys(distance: f64) -> f64 {
    const A: f64 = -0.75;
    let t = distance.abs();
    if t <= 1. {
        ((A + 2.) * t - (A + 3.)) * t * t + 1.
    } else {
        ((A * t - 5. * A) * t + 8. * A) * t - 4. * A
    }
}

/// The neighbours of every output pixel along one direction.
pub(super) fn taps(from: usize, to: usize, how: Interpolation, align_corners: bool) -> Vec<Tap> {
    let last = from - 1;
    let position = |i: usize| match (align_corners, to) {
        (true, 1) => 0.,
        (true, _) => i as f64 * last as f64 / (to - 1) as f64,
        (false, _) => (i as f64 + 0.5) * from as f64 / to as f64 - 0.5,
    };
    (0..to)
        .map(|i| match how {
            Interpolation::Bilinear => {
                let at = position(i).clamp(0., last as f64);
                let low = at as usize;
                let t = at - low as f64;
                let unused = (low, 0.);
                [(low, 1. - t), ((low + 1).min(last), t), unused, unused]
            }
            Interpolation::Bicubic => {
                let at = position(i);
                let low = at.floor();
                std::array::from_fn(|j| {
                    let source = low + j as f64 - 1.;
                    let inside = source.clamp(0., last as f64) as usize;
                    (inside, keys(at - source))
                })
            }
        })
        .collect()
}

/// [`taps`] as a matrix `[to, from]` in the type and on the device of `like`.
pub(super) fn matrix(
    from: usize,
    to: usize,
    how: Interpolation,
    align_corners: bool,
    like: &Tensor,
) -> Result<Tensor> {
    let mut dense = vec![0.; to * from];
    for (row, taps) in dense
        .chunks_mut(from)
        .zip(taps(from, to, how, align_corners))
    {
        for (i, w) in taps {
            row[i] += w;
        }
    }
    composed::constant(dense, (to, from), like)
}

/// `x [B,C,H,W]` resized to `to`, as PyTorch's `interpolate` without antialiasing.
///
/// # Errors
/// `x` is no picture, or either size is 0.
pub fn resize(
    x: &Tensor,
    to: (usize, usize),
    how: Interpolation,
    align_corners: bool,
) -> Result<Tensor> {
    let op = "resize";
    let fits = x.rank() == 4 && x.elem_count() > 0 && to.0 > 0 && to.1 > 0;
    require(
        fits,
        op,
        &format!("x [B,C,H,W] and a size, not {to:?}"),
        &[x],
    )?;
    replay(op, [x], move |[x]| {
        composed::resize(x, to, how, align_corners)
    })
}
