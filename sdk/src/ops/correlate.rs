//! Cross-correlation where every sample brings its own kernel.
//!
//! A product with all taps of the kernel first, then the `kh·kw` planes it gives are shifted and
//! summed: the picture is read once, and never unfolded.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::check::{choose, require};
use super::composed;
use super::parallel::{fresh, simd, sum};
use super::product::{Matrix, Target, Threads, product};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

#[derive(Clone, Copy)]
struct Sizes {
    samples: usize,
    channels: usize,
    picture: (usize, usize),
    kernel: (usize, usize),
    result: (usize, usize),
    padding: usize,
}

impl Sizes {
    fn taps(self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    fn area(self) -> usize {
        self.picture.0 * self.picture.1
    }

    /// For the row `y` of the picture and a tap: the row of the result that sees it, the first
    /// pixel of the picture's row that it sees, the pixel of the result that does, how many.
    #[inline(always)]
    fn meet(self, tap: usize, y: usize) -> Option<(usize, usize, usize, usize)> {
        let (ky, kx) = (tap / self.kernel.1, tap % self.kernel.1);
        let row = (y + self.padding).checked_sub(ky)?;
        if row >= self.result.0 {
            return None;
        }
        let from = kx.saturating_sub(self.padding);
        let to = self.padding.saturating_sub(kx);
        let count = self
            .picture
            .1
            .saturating_sub(from)
            .min(self.result.1.saturating_sub(to));
        (count > 0).then_some((row, from, to, count))
    }

    /// One sample: `k [C, taps]` against `x [C, area]`.
    fn forward<T: Real>(self, x: &[T], k: &[T], bias: T, y: &mut [T]) {
        let (taps, area) = (self.taps(), self.area());
        let k = Matrix::new(k, self.channels, taps, taps).t();
        let x = Matrix::new(x, self.channels, area, area);
        let planes = fresh(taps * area, |to| {
            product(Target::overwrite(to, area), T::ONE, k, x, Threads::All);
        });
        y.fill(bias);
        simd(
            #[inline(always)]
            || {
                for tap in 0..taps {
                    for line in 0..self.picture.0 {
                        if let Some((row, from, to, n)) = self.meet(tap, line) {
                            let plane = &planes[tap * area + line * self.picture.1 + from..][..n];
                            let y = &mut y[row * self.result.1 + to..][..n];
                            for (y, &p) in y.iter_mut().zip(plane) {
                                *y += p;
                            }
                        }
                    }
                }
            },
        );
    }

    /// The gradient of the result, as every tap sees it: `[taps, area]`.
    fn shifted<T: Real>(self, g: &[T]) -> Vec<T> {
        let (taps, area) = (self.taps(), self.area());
        let mut planes = vec![T::ZERO; taps * area];
        for tap in 0..taps {
            for line in 0..self.picture.0 {
                if let Some((row, from, to, n)) = self.meet(tap, line) {
                    planes[tap * area + line * self.picture.1 + from..][..n]
                        .copy_from_slice(&g[row * self.result.1 + to..][..n]);
                }
            }
        }
        planes
    }
}

fn kernel<T: Real>(x: &Tensor, k: &Tensor, b: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let (kept_x, kept_k) = (dense(x)?, dense(k)?);
    let (taps, area, channels) = (sizes.taps(), sizes.area(), sizes.channels);
    let plane = sizes.result.0 * sizes.result.1;
    let y = {
        let bias = dense(b)?;
        let (xs, ks, bs) = (view::<T>(&kept_x)?, view::<T>(&kept_k)?, view::<T>(&bias)?);
        fresh(sizes.samples * plane, |y| {
            y.par_chunks_exact_mut(plane)
                .enumerate()
                .for_each(|(i, y)| {
                    let x = &xs[i * channels * area..][..channels * area];
                    let k = &ks[i * channels * taps..][..channels * taps];
                    sizes.forward(x, k, bs[i], y);
                });
        })
    };
    let dims = (sizes.samples, 1, sizes.result.0, sizes.result.1);
    let inputs = [Some(x), Some(k), Some(b)];
    record("correlate_per_sample", inputs, y, dims, move |back| {
        let (xs, ks, gs) = (
            view::<T>(&kept_x)?,
            view::<T>(&kept_k)?,
            view::<T>(back.grad)?,
        );
        let [of_x, of_k, of_b] = back.needs;
        let shifted: Vec<Vec<T>> = match of_x || of_k {
            false => vec![],
            true => gs.par_chunks(plane).map(|g| sizes.shifted(g)).collect(),
        };
        let seen = |i: usize| Matrix::new(&shifted[i], taps, area, area);
        let dx = match of_x {
            false => None,
            true => shaped(
                fresh(xs.len(), |dx| {
                    for (i, dx) in dx.chunks_exact_mut(channels * area).enumerate() {
                        let k = &ks[i * channels * taps..];
                        let k = Matrix::new(k, channels, taps, taps);
                        let dx = Target::overwrite(dx, area);
                        product(dx, T::ONE, k, seen(i), Threads::All);
                    }
                }),
                &kept_x,
            )?,
        };
        let dk = match of_k {
            false => None,
            true => shaped(
                fresh(ks.len(), |dk| {
                    for (i, dk) in dk.chunks_exact_mut(channels * taps).enumerate() {
                        let x = &xs[i * channels * area..];
                        let x = Matrix::new(x, channels, area, area);
                        let dk = Target::overwrite(dk, taps);
                        product(dk, T::ONE, x, seen(i).t(), Threads::All);
                    }
                }),
                &kept_k,
            )?,
        };
        let db = match of_b {
            false => None,
            true => {
                let db: Vec<T> = gs
                    .chunks_exact(plane)
                    .map(|g| {
                        simd(
                            #[inline(always)]
                            || sum(g),
                        )
                    })
                    .collect();
                Some(Tensor::from_vec(db, sizes.samples, back.grad.device())?)
            }
        };
        Ok([dx, dk, db])
    })
}

/// `x [B,C,H,W]` against `k [B,C,kh,kw]`, sample by sample over all channels, plus `b [B]`:
/// `[B,1,H+2·padding-kh+1,…]`. The head of CRIS (Wang et al. 2022) makes its kernels from text.
///
/// # Errors
/// Shapes that do not fit, or a kernel larger than the padded picture.
pub fn correlate_per_sample(x: &Tensor, k: &Tensor, b: &Tensor, padding: usize) -> Result<Tensor> {
    let op = "correlate_per_sample";
    let all = [x, k, b];
    let wanted = "x [B,C,H,W], k [B,C,kh,kw], b [B]";
    require(x.rank() == 4 && k.rank() == 4, op, wanted, &all)?;
    let (image, kernel_dims) = (x.dims(), k.dims());
    require(
        image[..2] == kernel_dims[..2]
            && b.dims() == [image[0]]
            && k.elem_count() > 0
            && x.elem_count() > 0,
        op,
        wanted,
        &all,
    )?;
    require(
        image[2] + 2 * padding >= kernel_dims[2] && image[3] + 2 * padding >= kernel_dims[3],
        op,
        &format!("a kernel no larger than the picture with padding {padding}"),
        &all,
    )?;
    let sizes = Sizes {
        samples: image[0],
        channels: image[1],
        picture: (image[2], image[3]),
        kernel: (kernel_dims[2], kernel_dims[3]),
        result: (
            image[2] + 2 * padding - kernel_dims[2] + 1,
            image[3] + 2 * padding - kernel_dims[3] + 1,
        ),
        padding,
    };
    choose!(
        op,
        &all,
        kernel(x, k, b, sizes),
        replay(op, all, move |[x, k, b]| {
            composed::correlate_per_sample(x, k, b, padding)
        })
    )
}
