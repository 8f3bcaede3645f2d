//! Layer normalisation.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::check::{choose, require};
use super::composed;
use super::parallel::{accumulate, for_rows, fresh, rows_per_piece, simd, sum, sum2};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

/// Mean and inverse deviation of a row.
#[inline(always)]
fn moments<T: Real>(row: &[T], eps: T) -> (T, T) {
    let count = T::of(row.len() as f64);
    let mean = sum(row) / count;
    let variance = sum2(row, row, |a, b| (a - mean) * (b - mean)) / count;
    (mean, T::ONE / (variance + eps).root())
}

fn kernel<T: Real>(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (kept, w, b) = (dense(x)?, dense(weight)?, dense(bias)?);
    let width = w.elem_count();
    let eps = T::of(eps);
    let y = {
        let (xs, ws, bs) = (view::<T>(&kept)?, view::<T>(&w)?, view::<T>(&b)?);
        fresh(xs.len(), |y| {
            for_rows(y, width, |first, rows| {
                simd(
                    #[inline(always)]
                    || {
                        let (ws, bs) = (&ws[..width], &bs[..width]);
                        let xs = xs[first * width..][..rows.len()].chunks_exact(width);
                        for (y, x) in rows.chunks_exact_mut(width).zip(xs) {
                            let (mean, rate) = moments(x, eps);
                            for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(ws).zip(bs) {
                                *y = (x - mean) * rate * w + b;
                            }
                        }
                    },
                );
            });
        })
    };
    let inputs = [Some(x), Some(weight), Some(bias)];
    record("layer_norm", inputs, y, x.shape(), move |b| {
        let (xs, ws, gs) = (view::<T>(&kept)?, view::<T>(&w)?, view::<T>(b.grad)?);
        let rows = xs.len() / width;
        let [of_x, of_w, of_b] = b.needs;
        // Taken again instead of kept: x has to be read anyway. Frozen weights do without.
        let scales: Vec<(T, T)> = if !(of_w || of_b) {
            Vec::new()
        } else {
            let mut all = vec![(T::ZERO, T::ZERO); rows];
            let share = rows_per_piece(width);
            all.par_chunks_mut(share).enumerate().for_each(|(i, all)| {
                simd(
                    #[inline(always)]
                    || {
                        let xs = xs[i * share * width..].chunks_exact(width);
                        for (m, x) in all.iter_mut().zip(xs) {
                            *m = moments(x, eps);
                        }
                    },
                );
            });
            all
        };
        let dx = match of_x {
            false => None,
            true => shaped(
                fresh(xs.len(), |dx| {
                    for_rows(dx, width, |first, rows| {
                        simd(
                            #[inline(always)]
                            || {
                                let ws = &ws[..width];
                                let n = rows.len();
                                let xs = xs[first * width..][..n].chunks_exact(width);
                                let gs = gs[first * width..][..n].chunks_exact(width);
                                let share = T::ONE / T::of(width as f64);
                                let lines = rows.chunks_exact_mut(width).zip(xs).zip(gs);
                                for ((dx, x), g) in lines {
                                    let (mean, rate) = moments(x, eps);
                                    for ((dx, &g), &w) in dx.iter_mut().zip(g).zip(ws) {
                                        *dx = g * w;
                                    }
                                    let even = sum(dx) * share;
                                    let odd = sum2(dx, x, |d, x| d * ((x - mean) * rate)) * share;
                                    for (dx, &x) in dx.iter_mut().zip(x) {
                                        *dx = rate * (*dx - even - (x - mean) * rate * odd);
                                    }
                                }
                            },
                        );
                    });
                }),
                &kept,
            )?,
        };
        let (mut dw, mut db) = (None, None);
        if of_w || of_b {
            let both = accumulate(
                rows,
                2 * width,
                #[inline(always)]
                |rows, total: &mut [T]| {
                    let (dw, db) = total.split_at_mut(width);
                    for i in rows {
                        let (mean, rate) = scales[i];
                        let x = &xs[i * width..][..width];
                        let g = &gs[i * width..][..width];
                        for (((dw, db), &x), &g) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(g) {
                            *dw += g * ((x - mean) * rate);
                            *db += g;
                        }
                    }
                },
            );
            if of_w {
                dw = shaped(both[..width].to_vec(), &w)?;
            }
            if of_b {
                db = shaped(both[width..].to_vec(), &w)?;
            }
        }
        Ok([dx, dw, db])
    })
}

/// `(x - mean) / √(var + eps) · weight + bias` over the last dimension of `x [..,D]`, with
/// `weight` and `bias` `[D]` (Ba et al. 2016). The mean is taken first, so a large one costs no
/// accuracy.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = "layer_norm";
    let all = [x, weight, bias];
    let d = x.dims().last().copied().unwrap_or(0);
    require(
        d > 0 && weight.dims() == [d] && bias.dims() == [d],
        op,
        "x [..,D], weight [D], bias [D]",
        &all,
    )?;
    choose!(
        op,
        &all,
        kernel(x, weight, bias, eps),
        replay(op, all, move |[x, w, b]| composed::layer_norm(x, w, b, eps))
    )
}
