//! Two tensors one behind the other.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::parallel::{for_rows, fresh};
use super::real::Real;
use super::record::{dense, record, replay, view};

fn kernel<T: Real>(a: &Tensor, b: &Tensor, dim: usize) -> Result<Tensor> {
    // Seen as matrices: what lies before the dimension are rows.
    let widths = [a, b].map(|t| t.dims()[dim..].iter().product::<usize>());
    let width = widths[0] + widths[1];
    let rows: usize = a.dims()[..dim].iter().product();
    let mut dims = a.dims().to_vec();
    dims[dim] += b.dims()[dim];
    let y = {
        let (a, b) = (dense(a)?, dense(b)?);
        let (xs, ys) = (view::<T>(&a)?, view::<T>(&b)?);
        fresh(rows * width, |out| {
            for_rows(out, width, |first, out| {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    let (left, right) = out.split_at_mut(widths[0]);
                    left.copy_from_slice(&xs[(first + i) * widths[0]..][..widths[0]]);
                    right.copy_from_slice(&ys[(first + i) * widths[1]..][..widths[1]]);
                }
            });
        })
    };
    let shapes = [a.shape().clone(), b.shape().clone()];
    record("concat", [Some(a), Some(b)], y, dims, move |back| {
        let gs = view::<T>(back.grad)?;
        let part = |side: usize| -> Result<Option<Tensor>> {
            if !back.needs[side] {
                return Ok(None);
            }
            let (own, skip) = (widths[side], side * widths[0]);
            let d = fresh(rows * own, |d| {
                for_rows(d, own, |first, d| {
                    for (i, d) in d.chunks_exact_mut(own).enumerate() {
                        d.copy_from_slice(&gs[(first + i) * width + skip..][..own]);
                    }
                });
            });
            Tensor::from_vec(d, &shapes[side], back.grad.device()).map(Some)
        };
        Ok([part(0)?, part(1)?])
    })
}

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
    choose!(
        "concat",
        &[a, b],
        kernel(a, b, dim),
        replay("concat", [a, b], move |[a, b]| Tensor::cat(&[a, b], dim))
    )
}
