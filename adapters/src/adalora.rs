//! AdaLoRA (Zhang et al., 2023, arXiv 2303.10512): ranks that move to where they matter.
//!
//! ```text
//! W' = W + s·P·diag(λ)·Q        Q [r, in], λ [r], P [out, r], s = α / start rank
//! loss += w · mean(‖PᵀP − I‖ + ‖QQᵀ − I‖)/2        so that P and Q stay near orthogonal
//! ```
//!
//! After every step each triplet (column of P, λ, row of Q) is scored by its sensitivity |θ·∂L/∂θ|
//! and that sensitivity's uncertainty, both averaged over steps; of all sites together as many
//! triplets keep their λ as the budget allows, which falls from the start rank to the rank by
//! (1 − t)³. λ starts at 0, P and Q N(0, 0.02). Default sites: query and value of both towers.
//! The averages are kept with the model, so that a run can go on. Unlike in PEFT the gradients that
//! count are those before clipping, and an average of the weights (`ema`) keeps a little of what
//! was struck out. Owns options and the
//! size of the budget; triplets and who keeps their λ are `budget`'s, the arithmetic of the
//! update is `low_rank`'s.

mod budget;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::Sites;
use twinspan_sdk::{Result, register};

use crate::low_rank::{self, check};
use crate::setting::{FOLDS, check_count, check_zero_or_above, integer, number, wrong};
use budget::{Budgeted, Triplets};

/// Low-rank updates that share a budget of ranks.
///
/// ```
/// use twinspan_adapters::adalora::Adalora;
///
/// // A third of the way from 12 to 8 ranks a site, over 10 sites.
/// assert_eq!(Adalora::default().budget(10, 1.0 / 3.0), 91);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adalora {
    /// Mean rank of a site at the end.
    pub rank: usize,
    /// Rank of every site at the start.
    pub start_rank: usize,
    /// Strength α of the updates.
    pub alpha: f64,
    /// Steps before ranks begin to fall.
    pub warmup: usize,
    /// Steps at the end during which they stand still.
    pub cooldown: usize,
    /// Steps from one choice of ranks to the next.
    pub interval: usize,
    /// How much of their past the averages of sensitivity and of its uncertainty keep.
    pub betas: (f64, f64),
    /// Weight of the penalty on what is not orthogonal.
    pub orthogonality: f64,
    /// Dropout on what Q reads.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Adalora {
    fn default() -> Self {
        Self {
            rank: 8,
            start_rank: 12,
            alpha: 8.0,
            warmup: 0,
            cooldown: 0,
            interval: 1,
            betas: (0.85, 0.85),
            orthogonality: 0.5,
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Adalora {
    const NAME: &'static str = "adalora";
    const ABOUT: &'static str =
        "low-rank updates that share a budget of ranks (AdaLoRA, Zhang et al., 2023)";
    const OPTIONS: &'static [Opt] = &[
        integer("rank", "mean rank of a site at the end"),
        integer("start_rank", "rank of every site at the start"),
        number("alpha", "strength: the update counts alpha/start_rank"),
        integer("warmup", "steps before ranks begin to fall"),
        integer("cooldown", "last steps, in which ranks stay"),
        integer("interval", "steps from one choice of ranks to the next"),
        Opt::new(
            "betas",
            "list of two numbers",
            "what averages of sensitivity and of uncertainty keep of their past",
        ),
        number("orthogonality", "weight of the penalty in the loss"),
        number("dropout", "on what Q reads, while training"),
        Opt::sites("both towers, query and value"),
    ];
}

impl Adapter for Adalora {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    fn wants(&self) -> Vec<Want> {
        low_rank::wants(&self.sites)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        let mut triplets = Vec::new();
        for slot in slots.iter().filter_map(Slot::projection) {
            let params = &mut params.within(&slot.name);
            let new = Triplets::make(slot, self.start_rank, params)?;
            let mut update = new.update(slot, self.alpha / self.start_rank as f64);
            update.dropout = self.dropout;
            hooks.update(slot, update);
            triplets.push(new);
        }
        Ok(Box::new(Budgeted {
            owner: params.owner().to_string(),
            options: self.clone(),
            triplets,
        }))
    }
}

impl Adalora {
    /// Triplets that `sites` sites keep when the part `done` of the time from warm-up to
    /// cool-down is over.
    pub fn budget(&self, sites: usize, done: f64) -> usize {
        let (start, end) = (sites * self.start_rank, sites * self.rank);
        let left = (1.0 - done.clamp(0.0, 1.0)).powi(3);
        end + ((start - end) as f64 * left) as usize
    }

    fn check(&self, owner: &str) -> Result<()> {
        check(owner, self.rank, ("alpha", self.alpha), self.dropout)?;
        let (rank, start_rank, (first, second)) = (self.rank, self.start_rank, self.betas);
        if start_rank < rank {
            let message = format!("start_rank = {start_rank} must be at least rank = {rank}");
            return Err(wrong(owner, message));
        }
        if ![first, second].iter().all(|beta| (0.0..1.0).contains(beta)) {
            let message = format!("betas = [{first}, {second}] must lie in [0, 1)");
            return Err(wrong(owner, message));
        }
        check_count(owner, "interval", self.interval)?;
        check_zero_or_above(owner, "orthogonality", self.orthogonality)
    }
}

register!(adapter: Adalora);
