//! Binary cross-entropy on logits.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

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
    replay(op, [logits, target], |[x, z]| {
        composed::bce_with_logits(x, z)
    })
}
