//! The product of FacT's factors in the place of a weight. Owns the forward pass and ΔW; what the
//! factors start as, and who shares them, is [`super`]'s.

use candle_core::Tensor;
use twinspan_sdk::hooks::Update;
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::{Result, ops};

/// s·V·Σ·U for every square of a weight.
pub(super) struct Train {
    /// `[r, d]`.
    pub u: Parameter,
    /// `[k·r, l·r]`.
    pub sigma: Parameter,
    /// `[d, r]`.
    pub v: Parameter,
    pub scale: f64,
    pub dropout: f64,
}

impl Update for Train {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (u, v) = (self.u.tensor(pass)?, self.v.tensor(pass)?);
        let (r, d) = u.dims2()?;
        let narrow = whole(&ops::linear(&cut(x, d)?, &u, None)?)?;
        let mixed = ops::linear(&narrow, &self.sigma.tensor(pass)?, None)?;
        let mixed = ops::dropout(&(mixed * self.scale)?, pass.dropout(self.dropout))?;
        whole(&ops::linear(&cut(&mixed, r)?, &v, None)?)
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        let (u, v) = (self.u.tensor(pass)?, self.v.tensor(pass)?);
        let (r, _) = u.dims2()?;
        // Columns of Σ through V, then its rows through U.
        let columns = self.sigma.tensor(pass)?.t()?.contiguous()?;
        let columns = whole(&ops::linear(&cut(&columns, r)?, &v, None)?)?;
        let rows = cut(&columns.t()?.contiguous()?, r)?;
        let delta = whole(&ops::linear(&rows, &u.t()?.contiguous()?, None)?)?;
        Ok((delta * self.scale)?)
    }
}

/// `[.., k·n]` as `[.., k, n]`.
fn cut(x: &Tensor, n: usize) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let last = dims.pop().unwrap_or(0);
    dims.extend([last / n, n]);
    Ok(x.reshape(dims)?)
}

/// `[.., k, n]` as `[.., k·n]`.
fn whole(x: &Tensor) -> Result<Tensor> {
    Ok(x.flatten_from(x.rank().saturating_sub(2))?)
}
