//! Sums and products of a tensor with one that may be repeated along some dimensions.

use candle_core::{Result, Tensor};

use super::check::require;
use super::record::replay;

fn expect(op: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    let fits = b.rank() <= a.rank()
        && b.dims()
            .iter()
            .rev()
            .zip(a.dims().iter().rev())
            .all(|(&b, &a)| b == a || b == 1);
    require(fits, op, "b of the shape of a, or repeated to it", &[a, b])
}

/// `a + b`, where `b` has the shape of `a` or is repeated to it as numpy does.
///
/// # Errors
/// `b` cannot be repeated to the shape of `a`.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect("add", a, b)?;
    replay("add", [a, b], |[a, b]| a.broadcast_add(b))
}

/// `a · b` element by element, where `b` has the shape of `a` or is repeated to it as numpy does.
///
/// # Errors
/// `b` cannot be repeated to the shape of `a`.
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect("mul", a, b)?;
    replay("mul", [a, b], |[a, b]| a.broadcast_mul(b))
}
