//! DoRA (Liu et al., 2024, arXiv 2402.09353): length and direction of a weight's rows apart.
//!
//! ```text
//! W' = diag(m / ‖W + s·B·A‖) · (W + s·B·A)        norms by row, m [out], s = α/r
//! ```
//!
//! Default sites: query and value of both towers. The lengths m start as those of W's rows, so
//! that nothing changes at the start; no gradient goes through the norm (the paper's section
//! 4.3). A and B start as LoRA's. A projection takes one such reparametrisation at most; the
//! weight that it sees includes the updates of other adapters. Owns lengths and options; the
//! arithmetic of A and B is `low_rank`'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Installed, Life, ProjectionSlot, Slot, Source, Want};
use twinspan_sdk::hooks::{Hooks, Reparametrise};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::Sites;
use twinspan_sdk::{Result, ops, register};

use crate::low_rank::{self, ALPHA, DROPOUT, LowRank, check};
use crate::setting::{FOLDS, integer};

/// Low-rank updates of the directions of weights, and their lengths.
///
/// ```
/// use twinspan_adapters::dora::Dora;
/// use twinspan_sdk::adapter::Adapter;
///
/// assert!(Dora { rank: 16, ..Default::default() }.capabilities().mergeable);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dora {
    /// Rank r of the update.
    pub rank: usize,
    /// Its strength α.
    pub alpha: f64,
    /// Dropout on what A reads.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Dora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Dora {
    const NAME: &'static str = "dora";
    const ABOUT: &'static str =
        "low-rank updates of directions, and lengths, of weights (DoRA, Liu et al., 2024)";
    const OPTIONS: &'static [Opt] = &[
        integer("rank", "rank of the update"),
        ALPHA,
        DROPOUT,
        Opt::sites("both towers, query and value"),
    ];
}

impl Adapter for Dora {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    fn wants(&self) -> Vec<Want> {
        low_rank::wants(&self.sites)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        check(
            params.owner(),
            self.rank,
            ("alpha", self.alpha),
            self.dropout,
        )?;
        let mut lengths = Vec::new();
        for slot in slots.iter().filter_map(Slot::projection) {
            let params = &mut params.within(&slot.name);
            let scale = self.alpha / self.rank as f64;
            let mut update = LowRank::drawn(slot, self.rank, scale, 1.0, params)?;
            update.dropout = self.dropout;
            hooks.update(slot, update);
            let length = params.trained("length", &[slot.output], Init::Ones)?;
            hooks.reparametrise(slot, Lengths(length.clone()));
            lengths.push((slot.clone(), length));
        }
        Ok(Box::new(Measured(lengths)))
    }
}

/// The lengths m of a weight's rows.
struct Lengths(Parameter);

impl Reparametrise for Lengths {
    fn rows(&self, updated: &Tensor, pass: &Pass) -> Result<Tensor> {
        let norms = norms(&updated.detach())?;
        // A row of zeros, which no length can stretch, stays one.
        let none = norms.eq(0.0)?.to_dtype(norms.dtype())?;
        let inverse = (norms + none)?.recip()?;
        Ok(ops::mul(&self.0.tensor(pass)?, &inverse)?)
    }
}

/// The 2-norm of each row of `[out, ..]`.
fn norms(weight: &Tensor) -> Result<Tensor> {
    Ok(weight.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?)
}

/// Lengths that start as those of the frozen weights.
struct Measured(Vec<(ProjectionSlot, Parameter)>);

impl Life for Measured {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        for (slot, length) in &self.0 {
            length.set(&norms(&source.weight(slot)?)?)?;
        }
        Ok(())
    }
}

register!(adapter: Dora);
