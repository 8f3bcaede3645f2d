//! Resizing pictures.
//!
//! Owns the weights of the neighbours. There is no antialiasing.

use candle_core::{Result, Tensor};

use rayon::prelude::*;

use super::check::{choose, require};
use super::composed;
use super::parallel::{PIECE, fresh, simd};
use super::real::Real;
use super::record::{dense, record, replay, view};

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

/// A direction's taps with weights in the element type; all have `count` of them.
struct Direction<T> {
    taps: Vec<[(usize, T); 4]>,
    count: usize,
}

impl<T: Real> Direction<T> {
    fn new(from: usize, to: usize, how: Interpolation, align_corners: bool) -> Self {
        let taps = taps(from, to, how, align_corners);
        Self {
            taps: taps.iter().map(|t| t.map(|(i, w)| (i, T::of(w)))).collect(),
            count: match how {
                Interpolation::Bilinear => 2,
                Interpolation::Bicubic => 4,
            },
        }
    }

    /// Along a row: every `y` from its neighbours in `x`.
    #[inline(always)]
    fn gather(&self, x: &[T], y: &mut [T]) {
        if self.count == 2 {
            for (y, t) in y.iter_mut().zip(&self.taps) {
                *y = x[t[0].0] * t[0].1 + x[t[1].0] * t[1].1;
            }
            return;
        }
        for (y, t) in y.iter_mut().zip(&self.taps) {
            *y = (x[t[0].0] * t[0].1 + x[t[1].0] * t[1].1)
                + (x[t[2].0] * t[2].1 + x[t[3].0] * t[3].1);
        }
    }

    /// The transpose of [`Self::gather`], onto zeros.
    #[inline(always)]
    fn scatter(&self, g: &[T], dx: &mut [T]) {
        dx.fill(T::ZERO);
        for (&g, t) in g.iter().zip(&self.taps) {
            for &(i, w) in &t[..self.count] {
                dx[i] += g * w;
            }
        }
    }
}

/// `to += from · w`.
#[inline(always)]
fn add_scaled<T: Real>(to: &mut [T], from: &[T], w: T) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from * w;
    }
}

/// Calls `f(plane, piece of the plane)` for all planes of `area` elements, in parallel.
fn for_planes<T: Real>(data: &mut [T], area: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let share = (PIECE / area).max(1);
    data.par_chunks_mut(area)
        .with_min_len(share)
        .enumerate()
        .for_each(|(plane, data)| {
            simd(
                #[inline(always)]
                || f(plane, data),
            )
        });
}

fn kernel<T: Real>(
    x: &Tensor,
    to: (usize, usize),
    how: Interpolation,
    align_corners: bool,
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (oh, ow) = to;
    let down = Direction::<T>::new(h, oh, how, align_corners);
    let along = Direction::<T>::new(w, ow, how, align_corners);
    let plain = dense(x)?;
    let y = {
        let xs = view::<T>(&plain)?;
        fresh(b * c * oh * ow, |y| {
            for_planes(
                y,
                oh * ow,
                #[inline(always)]
                |plane, y| {
                    let mut wide = vec![T::ZERO; h * ow];
                    let x = &xs[plane * h * w..][..h * w];
                    for (x, wide) in x.chunks_exact(w).zip(wide.chunks_exact_mut(ow)) {
                        along.gather(x, wide);
                    }
                    for (y, taps) in y.chunks_exact_mut(ow).zip(&down.taps) {
                        y.fill(T::ZERO);
                        for &(row, weight) in &taps[..down.count] {
                            add_scaled(y, &wide[row * ow..][..ow], weight);
                        }
                    }
                },
            );
        })
    };
    record("resize", [Some(x)], y, (b, c, oh, ow), move |back| {
        let gs = view::<T>(back.grad)?;
        let dx = fresh(b * c * h * w, |dx| {
            for_planes(
                dx,
                h * w,
                #[inline(always)]
                |plane, dx| {
                    let mut wide = vec![T::ZERO; h * ow];
                    let g = &gs[plane * oh * ow..][..oh * ow];
                    for (g, taps) in g.chunks_exact(ow).zip(&down.taps) {
                        for &(row, weight) in &taps[..down.count] {
                            add_scaled(&mut wide[row * ow..][..ow], g, weight);
                        }
                    }
                    for (wide, dx) in wide.chunks_exact(ow).zip(dx.chunks_exact_mut(w)) {
                        along.scatter(wide, dx);
                    }
                },
            );
        });
        Ok([Some(Tensor::from_vec(
            dx,
            (b, c, h, w),
            back.grad.device(),
        )?)])
    })
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
    choose!(
        op,
        &[x],
        kernel(x, to, how, align_corners),
        replay(op, [x], move |[x]| {
            composed::resize(x, to, how, align_corners)
        })
    )
}
