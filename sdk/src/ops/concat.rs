//! Two tensors one behind the other.

use candle_core::{Result, Tensor};

use super::check::require;
use super::record::replay;

/// `a` and `b` joined along `dim`; all other dimensions agree.
///
/// # Errors
/// Shapes that do not fit, or no such dimension.
pub fn concat(a: &Tensor, b: &Tensor, dim: usize) -> Result<Tensor> {
    let fits = a.rank() == b.rank()
        && dim < a.rank()
        && (0..a.rank()).all(|i| i == dim || a.dims()[i] == b.dims()[i]);
    require(
        fits,
        "concat",
        &format!("shapes that differ in dimension {dim} only"),
        &[a, b],
    )?;
    replay("concat", [a, b], move |[a, b]| Tensor::cat(&[a, b], dim))
}
