//! Rows of a batch, in any order and number.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

/// The rows `rows` of the first dimension of `x`; a row may come many times, and its gradients
/// are then summed in the order of `rows`.
///
/// # Errors
/// A row that `x` does not have.
pub fn select(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let op = "select";
    let count = x.dims().first().copied().unwrap_or(0);
    let worst = rows.iter().max().map_or(0, |&r| r as usize + 1);
    require(
        x.rank() > 0 && worst <= count && !rows.is_empty(),
        op,
        &format!("{worst} rows"),
        &[x],
    )?;
    let rows = rows.to_vec();
    replay(op, [x], move |[x]| composed::select(x, &rows))
}
