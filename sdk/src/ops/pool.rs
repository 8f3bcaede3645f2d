//! Pooling.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::composed;
use super::parallel::{for_rows, fresh, simd};
use super::real::Real;
use super::record::{dense, record, replay, view};

fn kernel<T: Real>(x: &Tensor, k: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (oh, ow) = (h / k, w / k);
    let share = T::ONE / T::of((k * k) as f64);
    let plain = dense(x)?;
    let y = {
        let xs = view::<T>(&plain)?;
        fresh(b * c * oh * ow, |y| {
            for_rows(y, ow, |first, rows| {
                simd(
                    #[inline(always)]
                    || {
                        for (i, y) in rows.chunks_exact_mut(ow).enumerate() {
                            let (plane, row) = ((first + i) / oh, (first + i) % oh);
                            y.fill(T::ZERO);
                            for line in 0..k {
                                let x = &xs[(plane * h + row * k + line) * w..][..ow * k];
                                add_groups(y, x, k);
                            }
                            for y in y {
                                *y *= share;
                            }
                        }
                    },
                );
            });
        })
    };
    let dims = x.dims().to_vec();
    record("avg_pool2d", [Some(x)], y, (b, c, oh, ow), move |back| {
        let gs = view::<T>(back.grad)?;
        let dx = fresh(b * c * h * w, |dx| {
            for_rows(dx, w, |first, rows| {
                simd(
                    #[inline(always)]
                    || {
                        for (i, dx) in rows.chunks_exact_mut(w).enumerate() {
                            let (plane, row) = ((first + i) / h, (first + i) % h / k);
                            if row >= oh {
                                dx.fill(T::ZERO);
                                continue;
                            }
                            let g = &gs[(plane * oh + row) * ow..][..ow];
                            let (whole, rest) = dx.split_at_mut(ow * k);
                            rest.fill(T::ZERO);
                            for (dx, &g) in whole.chunks_exact_mut(k).zip(g) {
                                dx.fill(g * share);
                            }
                        }
                    },
                );
            });
        });
        Ok([Some(Tensor::from_vec(dx, &dims[..], back.grad.device())?)])
    })
}

/// Adds to each `y` its `k` neighbours in `x`.
#[inline(always)]
fn add_groups<T: Real>(y: &mut [T], x: &[T], k: usize) {
    if k == 2 {
        // The size that the towers use; known, it becomes vector code.
        for (y, x) in y.iter_mut().zip(x.as_chunks::<2>().0) {
            *y += x[0] + x[1];
        }
        return;
    }
    for (y, x) in y.iter_mut().zip(x.chunks_exact(k)) {
        for &x in x {
            *y += x;
        }
    }
}

/// Means of `k` by `k` squares of `x [B,C,H,W]`; rows and columns that fill no square are left
/// out, as PyTorch does.
///
/// # Errors
/// `x` is no picture, or `k` is 0 or larger than it.
pub fn avg_pool2d(x: &Tensor, k: usize) -> Result<Tensor> {
    let op = "avg_pool2d";
    let fits = x.rank() == 4 && k > 0 && x.dims()[2] >= k && x.dims()[3] >= k;
    require(
        fits,
        op,
        &format!("x [B,C,H,W] of at least {k} by {k}"),
        &[x],
    )?;
    choose!(
        op,
        &[x],
        kernel(x, k),
        replay(op, [x], move |[x]| composed::avg_pool2d(x, k))
    )
}
