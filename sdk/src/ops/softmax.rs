//! Softmax.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::composed;
use super::parallel::{LANES, fold, for_rows, fresh, maximum, simd, sum2};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

/// Replaces `x` by `e^(x - max)`, and returns the sum of that and the maximum. Where every element
/// is `-∞` the sum is 0.
#[inline(always)]
pub(super) fn exponentials<T: Real>(x: &mut [T]) -> (T, T) {
    let most = maximum(x);
    let shift = if most == T::NEGATIVE_INFINITY {
        T::ZERO
    } else {
        most
    };
    let mut lanes = [T::ZERO; LANES];
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (x, lane) in chunk.iter_mut().zip(lanes.iter_mut()) {
            let e = (*x - shift).exponential();
            *x = e;
            *lane += e;
        }
    }
    for (x, lane) in rest.iter_mut().zip(lanes.iter_mut()) {
        let e = (*x - shift).exponential();
        *x = e;
        *lane += e;
    }
    (fold(lanes), shift)
}

/// `1 / sum`, or 0 for a row that sees nothing.
#[inline(always)]
pub(super) fn inverse<T: Real>(sum: T) -> T {
    if sum == T::ZERO {
        T::ZERO
    } else {
        T::ONE / sum
    }
}

fn kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    let plain = dense(x)?;
    let xs = view::<T>(&plain)?;
    let width = x.dims()[x.rank() - 1];
    let y = fresh(xs.len(), |y| {
        for_rows(y, width, |first, rows| {
            rows.copy_from_slice(&xs[first * width..][..rows.len()]);
            simd(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(width) {
                        let (sum, _) = exponentials(row);
                        let share = inverse(sum);
                        for y in row {
                            *y *= share;
                        }
                    }
                },
            );
        });
    });
    record("softmax", [Some(x)], y, x.shape(), move |b| {
        let (y, g) = (view::<T>(b.output)?, view::<T>(b.grad)?);
        let dx = fresh(y.len(), |dx| {
            for_rows(dx, width, |first, rows| {
                simd(
                    #[inline(always)]
                    || {
                        let n = rows.len();
                        let y = y[first * width..][..n].chunks_exact(width);
                        let g = g[first * width..][..n].chunks_exact(width);
                        for ((dx, y), g) in rows.chunks_exact_mut(width).zip(y).zip(g) {
                            let mean = sum2(y, g, |y, g| y * g);
                            for ((dx, &y), &g) in dx.iter_mut().zip(y).zip(g) {
                                *dx = y * (g - mean);
                            }
                        }
                    },
                );
            });
        });
        Ok([shaped(dx, b.output)?])
    })
}

/// Softmax over the last dimension. A row of negative infinities gives zeros.
///
/// # Errors
/// `x` has no last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let op = "softmax";
    require(x.rank() > 0 && x.elem_count() > 0, op, "x [..,D]", &[x])?;
    choose!(
        op,
        &[x],
        kernel(x),
        replay(op, [x], |[x]| composed::softmax(x))
    )
}
