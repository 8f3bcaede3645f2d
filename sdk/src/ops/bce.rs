//! Binary cross-entropy on logits.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::check::{choose, require};
use super::composed;
use super::parallel::{PIECE, map, map2, simd, sum2};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

fn kernel<T: Real>(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let (x, z) = (dense(logits)?, dense(target)?);
    let count = x.elem_count() as f64;
    let total: f64 = {
        let (xs, zs) = (view::<T>(&x)?, view::<T>(&z)?);
        let parts: Vec<f64> = xs
            .par_chunks(PIECE)
            .zip(zs.par_chunks(PIECE))
            .map(|(x, z)| {
                simd(
                    #[inline(always)]
                    || {
                        sum2(
                            x,
                            z,
                            #[inline(always)]
                            |x, z| {
                                let tail = (-x.magnitude()).exponential().log_one_plus();
                                x.at_least(T::ZERO) - x * z + tail
                            },
                        )
                        .wide()
                    },
                )
            })
            .collect();
        parts.iter().sum()
    };
    let loss = vec![T::of(total / count)];
    let inputs = [Some(logits), Some(target)];
    record("bce_with_logits", inputs, loss, (), move |b| {
        let share = T::of(view::<T>(b.grad)?[0].wide() / count);
        let (xs, zs) = (view::<T>(&x)?, view::<T>(&z)?);
        let [of_x, of_z] = b.needs;
        let dx = match of_x {
            false => None,
            true => {
                let dx = map2(
                    &xs,
                    &zs,
                    #[inline(always)]
                    move |x, z| share * (x.logistic() - z),
                );
                shaped(dx, &x)?
            }
        };
        let dz = match of_z {
            false => None,
            true => shaped(map(&xs, move |x| -share * x), &z)?,
        };
        Ok([dx, dz])
    })
}

/// The mean of `log(1 + eˣ) - x z` over logits `x` and targets `z` of the same shape; targets
/// may lie anywhere in `[0, 1]`. Stable for logits of any size.
///
/// # Errors
/// The shapes differ, or there are no elements.
pub fn bce_with_logits(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let op = "bce_with_logits";
    require(
        logits.dims() == target.dims() && logits.elem_count() > 0,
        op,
        "logits and targets of one shape",
        &[logits, target],
    )?;
    choose!(
        op,
        &[logits, target],
        kernel(logits, target),
        replay(op, [logits, target], |[x, z]| composed::bce_with_logits(
            x, z
        ))
    )
}
