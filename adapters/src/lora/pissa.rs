//! PiSSA (Meng et al., 2024, arXiv 2404.02948): A and B start as the principal part of a weight.
//!
//! ```text
//! W = U·diag(σ)·Vᵀ        B₀ = U_r·√(σ_r/s)   A₀ = √(σ_r/s)·V_rᵀ        the r largest σ
//! W' = W + s·(B·A − B₀·A₀)
//! ```
//!
//! The base never changes, so what A and B start as is taken back beside it. Owns that start; the
//! decomposition is `singular`'s, the update `low_rank`'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{Life, ProjectionSlot, Source};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Init, Parameter, Params};

use crate::low_rank::{LowRank, fan};
use crate::setting::wrong;
use crate::singular::Singular;

/// How A and B start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// B·A = 0: A is drawn, B is 0.
    #[default]
    Zero,
    /// B·A is the part of the weight with the largest singular values.
    Pissa,
}

/// Refuses a rank above the number of singular values.
pub(super) fn check(owner: &str, slot: &ProjectionSlot, rank: usize) -> Result<()> {
    let most = slot.output.min(fan(slot));
    if rank <= most {
        return Ok(());
    }
    let name = &slot.name;
    let message =
        format!("start = \"pissa\": rank {rank} is above the {most} singular values of {name}");
    Err(wrong(owner, message))
}

/// Starts updates, and what is taken back for each, as the principal part of their weights.
#[derive(Default)]
pub(super) struct Principal(Vec<(ProjectionSlot, LowRank, LowRank)>);

impl Principal {
    /// Hangs −s·B₀·A₀ beside an update, and remembers to start both.
    pub fn add(
        &mut self,
        slot: &ProjectionSlot,
        update: LowRank,
        params: &mut Params,
        hooks: &mut Hooks,
    ) -> Result<()> {
        let a = params.constant("a0", update.a.dims(), Init::Zeros)?;
        let b = params.constant("b0", update.b.dims(), Init::Zeros)?;
        let gone = LowRank::new(slot, a, b, -update.scale);
        hooks.update(slot, gone.clone());
        self.0.push((slot.clone(), update, gone));
        Ok(())
    }
}

impl Life for Principal {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        for (slot, update, gone) in &self.0 {
            let weight = source.weight(slot)?.flatten_from(1)?;
            let rank = update.rank();
            let Singular {
                left,
                values,
                right,
            } = Singular::of(&weight, rank)?;
            // Half of each singular value goes into either factor, with the scale taken out.
            let root = (values / update.scale)?.sqrt()?;
            let a = right.broadcast_mul(&root.reshape((rank, 1))?)?;
            let b = left.broadcast_mul(&root)?;
            let set = |parameter: &Parameter, value: &Tensor| {
                parameter.set(&value.reshape(parameter.dims())?)
            };
            for of in [update, gone] {
                set(&of.a, &a)?;
                set(&of.b, &b)?;
            }
        }
        Ok(())
    }
}
