//! Cross-entropy of rows of logits with one right column each.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::composed;
use super::parallel::fresh;
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};
use super::softmax::{exponentials, inverse};

fn kernel<T: Real>(logits: &Tensor, right: &[u32]) -> Result<Tensor> {
    let x = dense(logits)?;
    let (rows, width) = x.dims2()?;
    let mut total = 0.0;
    // The shares of softmax, which the backward is made of.
    let mut shares = view::<T>(&x)?.to_vec();
    for (row, &right) in shares.chunks_exact_mut(width).zip(right) {
        let target = row[right as usize];
        let (sum, most) = exponentials(row);
        // log Σ e^(x - most) and the target's distance, each small beside the logits.
        total += sum.wide().ln() + (most.wide() - target.wide());
        let share = inverse(sum);
        for e in row {
            *e *= share;
        }
    }
    let loss = vec![T::of(total / rows as f64)];
    let right = right.to_vec();
    record("cross_entropy", [Some(logits)], loss, (), move |b| {
        let share = T::of(view::<T>(b.grad)?[0].wide() / rows as f64);
        let dx = fresh(shares.len(), |dx: &mut [T]| {
            for (dx, &y) in dx.iter_mut().zip(&shares) {
                *dx = share * y;
            }
            for (row, &right) in dx.chunks_exact_mut(width).zip(&right) {
                row[right as usize] -= share;
            }
        });
        Ok([shaped(dx, &x)?])
    })
}

/// The mean over rows of `log Σ eˣ - x[right]` for logits `[N, C]`, one right column a row.
/// Stable for logits of any size.
///
/// # Errors
/// There are not as many right columns as rows, one is outside, or there are no elements.
pub fn cross_entropy(logits: &Tensor, right: &[u32]) -> Result<Tensor> {
    let op = "cross_entropy";
    let fits = |(rows, width): (usize, usize)| {
        rows == right.len() && right.iter().all(|&right| (right as usize) < width)
    };
    require(
        logits.elem_count() > 0 && logits.dims2().is_ok_and(fits),
        op,
        "logits [N,C] and N columns below C",
        &[logits],
    )?;
    choose!(op, &[logits], kernel(logits, right), {
        let right = right.to_vec();
        replay(op, [logits], move |[x]| composed::cross_entropy(x, &right))
    })
}
