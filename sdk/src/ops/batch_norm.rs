//! Batch normalisation, with given statistics and with those of the batch.
//!
//! Owns no running averages: the caller keeps them.

use candle_core::{Result, Tensor};

use rayon::prelude::*;

use super::check::{choose, require};
use super::composed;
use super::parallel::{PIECE, for_rows, fresh, simd, sum, sum2};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

/// What [`batch_norm_train`] saw: per channel, detached.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The mean, `[C]`.
    pub mean: Tensor,
    /// The variance with the divisor `count - 1`, `[C]`, for running averages.
    pub var_unbiased: Tensor,
    /// Elements per channel.
    pub count: usize,
}

fn expect(op: &str, x: &Tensor, per_channel: &[&Tensor]) -> Result<()> {
    require(x.rank() >= 2, op, "x [B,C,..]", &[x])?;
    for t in per_channel {
        require(
            t.dims() == [x.dims()[1]],
            op,
            "x [B,C,..] and [C] for each channel",
            &[x, t],
        )?;
    }
    Ok(())
}

/// How `x [B,C,..]` lies in memory: `planes` runs of `area` elements, channel after channel.
#[derive(Clone, Copy)]
struct Planes {
    channels: usize,
    area: usize,
    samples: usize,
}

impl Planes {
    fn of(x: &Tensor) -> Self {
        let dims = x.dims();
        Self {
            samples: dims[0],
            channels: dims[1],
            area: dims[2..].iter().product(),
        }
    }

    /// `f(channel)` for every channel, in parallel where there is enough to do.
    fn per_channel<R: Send>(self, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let share = (PIECE / (self.samples * self.area).max(1)).max(1);
        (0..self.channels)
            .into_par_iter()
            .with_min_len(share)
            .map(|c| {
                simd(
                    #[inline(always)]
                    || f(c),
                )
            })
            .collect()
    }

    /// The runs of one channel.
    #[inline(always)]
    fn runs<T>(self, x: &[T], channel: usize) -> impl Iterator<Item = &[T]> {
        let step = self.channels * self.area;
        (0..self.samples).map(move |b| &x[b * step + channel * self.area..][..self.area])
    }

    /// Mean and biased variance of a channel; the mean first.
    #[inline(always)]
    fn moments<T: Real>(self, x: &[T], channel: usize) -> (T, T) {
        let count = T::of((self.samples * self.area) as f64);
        let mut total = T::ZERO;
        for run in self.runs(x, channel) {
            total += sum(run);
        }
        let mean = total / count;
        let mut squares = T::ZERO;
        for run in self.runs(x, channel) {
            squares += sum2(run, run, |a, b| (a - mean) * (b - mean));
        }
        (mean, squares / count)
    }

    /// `f(channel, first index, run)` for every run of `to`, in parallel.
    fn fill<T: Real>(self, to: &mut [T], f: impl Fn(usize, usize, &mut [T]) + Sync) {
        for_rows(to, self.area, |first, runs| {
            simd(
                #[inline(always)]
                || {
                    for (i, run) in runs.chunks_exact_mut(self.area).enumerate() {
                        f((first + i) % self.channels, (first + i) * self.area, run);
                    }
                },
            );
        });
    }
}

/// `(x - mean) rate weight + bias`, and its backward; `through` says whether mean and rate are
/// those of `x` and are differentiated too.
fn apply<T: Real>(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    moments: Vec<(T, T)>,
    eps: f64,
    through: bool,
) -> Result<Tensor> {
    let (kept, w, b) = (dense(x)?, dense(weight)?, dense(bias)?);
    let planes = Planes::of(x);
    let scales: Vec<(T, T)> = moments
        .into_iter()
        .map(|(mean, var)| (mean, T::ONE / (var + T::of(eps)).root()))
        .collect();
    let y = {
        let (xs, ws, bs) = (view::<T>(&kept)?, view::<T>(&w)?, view::<T>(&b)?);
        fresh(xs.len(), |y| {
            planes.fill(
                y,
                #[inline(always)]
                |c, start, y| {
                    let (mean, rate) = scales[c];
                    let (factor, shift) = (rate * ws[c], bs[c]);
                    let x = &xs[start..start + y.len()];
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = (x - mean) * factor + shift;
                    }
                },
            );
        })
    };
    let inputs = [Some(x), Some(weight), Some(bias)];
    record(op, inputs, y, x.shape(), move |b| {
        let (xs, ws, gs) = (view::<T>(&kept)?, view::<T>(&w)?, view::<T>(b.grad)?);
        let [of_x, of_w, of_b] = b.needs;
        let sums: Vec<(T, T)> = match through || of_w || of_b {
            false => vec![(T::ZERO, T::ZERO); planes.channels],
            true => planes.per_channel(
                #[inline(always)]
                |c| {
                    let (mean, rate) = scales[c];
                    let (mut dw, mut db) = (T::ZERO, T::ZERO);
                    for (x, g) in planes.runs(&xs, c).zip(planes.runs(&gs, c)) {
                        dw += sum2(x, g, |x, g| g * (x - mean));
                        db += sum(g);
                    }
                    (dw * rate, db)
                },
            ),
        };
        let share = match through {
            true => T::ONE / T::of((planes.samples * planes.area) as f64),
            false => T::ZERO,
        };
        let dx = match of_x {
            false => None,
            true => shaped(
                fresh(xs.len(), |dx| {
                    planes.fill(
                        dx,
                        #[inline(always)]
                        |c, start, dx| {
                            let ((mean, rate), (odd, even)) = (scales[c], sums[c]);
                            let factor = rate * ws[c];
                            let (odd, even) = (odd * share * rate, even * share);
                            let g = &gs[start..start + dx.len()];
                            if share == T::ZERO {
                                for (dx, &g) in dx.iter_mut().zip(g) {
                                    *dx = g * factor;
                                }
                                return;
                            }
                            let x = &xs[start..start + dx.len()];
                            for ((dx, &g), &x) in dx.iter_mut().zip(g).zip(x) {
                                *dx = factor * (g - even - (x - mean) * odd);
                            }
                        },
                    );
                }),
                &kept,
            )?,
        };
        let dw = match of_w {
            true => shaped(sums.iter().map(|s| s.0).collect(), &w)?,
            false => None,
        };
        let db = match of_b {
            true => shaped(sums.iter().map(|s| s.1).collect(), &w)?,
            false => None,
        };
        Ok([dx, dw, db])
    })
}

fn given<T: Real>(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let (mean, var) = (dense(mean)?, dense(var)?);
    let (means, vars) = (view::<T>(&mean)?, view::<T>(&var)?);
    let moments = means.iter().copied().zip(vars.iter().copied()).collect();
    apply("batch_norm", x, weight, bias, moments, eps, false)
}

fn own<T: Real>(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let plain = dense(x)?;
    let planes = Planes::of(x);
    let moments = {
        let xs = view::<T>(&plain)?;
        planes.per_channel(
            #[inline(always)]
            |c| planes.moments(&xs, c),
        )
    };
    let mean: Vec<T> = moments.iter().map(|m| m.0).collect();
    let var: Vec<T> = moments.iter().map(|m| m.1).collect();
    let mean = Tensor::from_vec(mean, planes.channels, x.device())?;
    let var = Tensor::from_vec(var, planes.channels, x.device())?;
    let y = apply("batch_norm_train", x, weight, bias, moments, eps, true)?;
    Ok((y, mean, var))
}

fn own_composed(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (mean, var) = composed::batch_statistics(&x.detach())?;
    let y = replay("batch_norm_train", [x, weight, bias], move |[x, w, b]| {
        let (mean, var) = composed::batch_statistics(x)?;
        composed::batch_norm(x, &mean, &var, w, b, eps)
    })?;
    Ok((y, mean, var))
}

/// `(x - mean) / √(var + eps) · weight + bias` per channel of `x [B,C,..]`; all else is `[C]`.
/// The statistics are constants.
///
/// # Errors
/// Shapes that do not fit.
pub fn batch_norm(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let op = "batch_norm";
    expect(op, x, &[mean, var, weight, bias])?;
    let (mean, var) = (mean.detach(), var.detach());
    choose!(
        op,
        &[x, &mean, &var, weight, bias],
        given(x, &mean, &var, weight, bias, eps),
        replay(op, [x, weight, bias], move |[x, w, b]| {
            composed::batch_norm(x, &mean, &var, w, b, eps)
        })
    )
}

/// [`batch_norm`] with the statistics of `x` itself, differentiated through them (Ioffe and
/// Szegedy 2015). The variance that normalises has the divisor `count`.
///
/// # Errors
/// Shapes that do not fit; one element per channel, which has no variance.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Statistics)> {
    let op = "batch_norm_train";
    expect(op, x, &[weight, bias])?;
    let count = x.elem_count() / x.dims()[1].max(1);
    require(count > 1, op, "more than one element per channel", &[x])?;
    let (y, mean, var) = choose!(
        op,
        &[x, weight, bias],
        own(x, weight, bias, eps),
        own_composed(x, weight, bias, eps)
    )?;
    let var_unbiased = (var * (count as f64 / (count - 1) as f64))?;
    let statistics = Statistics {
        mean,
        var_unbiased,
        count,
    };
    Ok((y, statistics))
}
