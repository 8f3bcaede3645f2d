//! Softmax.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

/// Softmax over the last dimension. A row of negative infinities gives zeros.
///
/// # Errors
/// `x` has no last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    require(
        x.rank() > 0 && x.elem_count() > 0,
        "softmax",
        "x [..,D]",
        &[x],
    )?;
    replay("softmax", [x], |[x]| composed::softmax(x))
}
