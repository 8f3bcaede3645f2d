//! Pooling.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

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
    replay(op, [x], move |[x]| composed::avg_pool2d(x, k))
}
