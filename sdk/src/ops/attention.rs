//! Scaled dot-product attention over heads that are column slices.
//!
//! Owns masks and the softmax inside; projections belong to the caller.

use candle_core::{DType, Result, Tensor};

use super::check::require;
use super::record::replay;
use super::{Dropout, composed};

/// Which keys a query may not see. The default hides nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mask<'a> {
    /// Query `i` of `N` sees keys up to `i + (M - N)`: keys put in front are seen by all.
    pub causal: bool,
    /// `u8 [B,M]`, 1 where a key is hidden from every query of that sample.
    pub padding: Option<&'a Tensor>,
}

/// `softmax(q kᵀ / √(D/heads)) v` for every head, `q [B,N,D]`, `k [B,M,D]`, `v [B,M,Dv]` to
/// `[B,N,Dv]`; head `h` is the `h`-th slice of the columns (Vaswani et al. 2017). `dropout` acts
/// on the probabilities. A query that sees no key gives zeros.
///
/// # Errors
/// Shapes that do not fit, columns that the heads do not divide, a causal mask with fewer keys
/// than queries.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask,
    dropout: Dropout,
) -> Result<Tensor> {
    let op = "attention";
    let all = [q, k, v];
    require(
        all.iter().all(|t| t.rank() == 3),
        op,
        "q [B,N,D], k [B,M,D], v [B,M,Dv]",
        &all,
    )?;
    let (b, n, d) = q.dims3()?;
    let (m, dv) = (k.dims()[1], v.dims()[2]);
    require(
        k.dims() == [b, m, d] && v.dims() == [b, m, dv],
        op,
        "q [B,N,D], k [B,M,D], v [B,M,Dv]",
        &all,
    )?;
    require(
        heads > 0 && d > 0 && d % heads == 0 && dv % heads == 0,
        op,
        &format!("columns in {heads} equal slices"),
        &all,
    )?;
    require(
        !mask.causal || m >= n,
        op,
        "as many keys as queries under a causal mask",
        &all,
    )?;
    if let Some(p) = mask.padding {
        require(
            p.dims() == [b, m] && p.dtype() == DType::U8,
            op,
            "a padding mask u8 [B,M]",
            &[p, k],
        )?;
    }
    dropout.validate(op)?;
    let (causal, padding) = (mask.causal, mask.padding.map(Tensor::detach));
    replay(op, all, move |[q, k, v]| {
        let padding = padding.as_ref();
        composed::attention(q, k, v, heads, Mask { causal, padding }, dropout)
    })
}
