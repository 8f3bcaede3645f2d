//! Matrix products with a weight: trainable or frozen.

use candle_core::{Result, Tensor};

use super::check::require;
use super::record::replay;
use super::{add, composed};
use crate::frozen::Frozen;

fn expect(op: &str, x: &Tensor, w: &[usize], b: Option<&Tensor>) -> Result<()> {
    let fits = x.rank() >= 1 && w.len() == 2 && x.dims().last() == Some(&w[1]) && w[1] > 0;
    let wanted = format!("x [..,K] for w {w:?} as [N,K]");
    require(fits, op, &wanted, &[x])?;
    match b {
        Some(b) => require(
            b.dims() == [w[0]],
            op,
            &format!("b [N] for w {w:?} as [N,K]"),
            &[b],
        ),
        None => Ok(()),
    }
}

/// `x · Wᵀ + b` for `x [..,K]`, `w [N,K]`, `b [N]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    expect("linear", x, w.dims(), b)?;
    let y = replay("linear", [x, w], |[x, w]| composed::linear(x, w))?;
    match b {
        Some(b) => add(&y, b),
        None => Ok(y),
    }
}

/// [`linear`] with a weight that never gets a gradient.
///
/// # Errors
/// Shapes that do not fit, or a weight that cannot be had in the type of `x`.
pub fn linear_frozen(x: &Tensor, w: &Frozen, b: Option<&Tensor>) -> Result<Tensor> {
    expect("linear_frozen", x, w.shape().dims(), b)?;
    linear(x, &w.tensor(x.dtype(), x.device())?, b)
}
