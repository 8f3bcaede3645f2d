//! Layer normalisation.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

/// `(x - mean) / √(var + eps) · weight + bias` over the last dimension of `x [..,D]`, with
/// `weight` and `bias` `[D]` (Ba et al. 2016). The mean is taken first, so a large one costs no
/// accuracy.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = "layer_norm";
    let all = [x, weight, bias];
    let d = x.dims().last().copied().unwrap_or(0);
    require(
        d > 0 && weight.dims() == [d] && bias.dims() == [d],
        op,
        "x [..,D], weight [D], bias [D]",
        &all,
    )?;
    replay(op, all, move |[x, w, b]| composed::layer_norm(x, w, b, eps))
}
