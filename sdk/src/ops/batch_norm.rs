//! Batch normalisation, with given statistics and with those of the batch.
//!
//! Owns no running averages: the caller keeps them.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

/// What [`batch_norm_train`] saw: per channel, detached.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The mean, `[C]`.
    pub mean: Tensor,
    /// The variance with the divisor `count - 1`, `[C]`, for running averages.
    pub var_unbiased: Tensor,
    /// Elements per channel.
    pub count: usize,
}

fn expect(op: &str, x: &Tensor, per_channel: &[&Tensor]) -> Result<()> {
    require(x.rank() >= 2, op, "x [B,C,..]", &[x])?;
    for t in per_channel {
        require(
            t.dims() == [x.dims()[1]],
            op,
            "x [B,C,..] and [C] for each channel",
            &[x, t],
        )?;
    }
    Ok(())
}

/// `(x - mean) / √(var + eps) · weight + bias` per channel of `x [B,C,..]`; all else is `[C]`.
/// The statistics are constants.
///
/// # Errors
/// Shapes that do not fit.
pub fn batch_norm(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    expect("batch_norm", x, &[mean, var, weight, bias])?;
    let (mean, var) = (mean.detach(), var.detach());
    replay("batch_norm", [x, weight, bias], move |[x, w, b]| {
        composed::batch_norm(x, &mean, &var, w, b, eps)
    })
}

/// [`batch_norm`] with the statistics of `x` itself, differentiated through them (Ioffe and
/// Szegedy 2015). The variance that normalises has the divisor `count`.
///
/// # Errors
/// Shapes that do not fit; one element per channel, which has no variance.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Statistics)> {
    let op = "batch_norm_train";
    expect(op, x, &[weight, bias])?;
    let count = x.elem_count() / x.dims()[1].max(1);
    require(count > 1, op, "more than one element per channel", &[x])?;
    let (mean, var) = composed::batch_statistics(&x.detach())?;
    let y = replay(op, [x, weight, bias], move |[x, w, b]| {
        let (mean, var) = composed::batch_statistics(x)?;
        composed::batch_norm(x, &mean, &var, w, b, eps)
    })?;
    let var_unbiased = (var * (count as f64 / (count - 1) as f64))?;
    Ok((
        y,
        Statistics {
            mean,
            var_unbiased,
            count,
        },
    ))
}
