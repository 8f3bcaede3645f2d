//! LoRA (Hu et al., 2021, arXiv 2106.09685): a low-rank update beside a frozen weight.
//!
//! ```text
//! W' = W + s·B·A        A [r, in], B [out, r], s = α/r, or α/√r (rsLoRA, Kalajdzievski, 2023)
//! ```
//!
//! Default sites: query and value of both towers; linear layers, convolutions and embeddings
//! alike. A starts Kaiming-uniform (±√(1/in)) and B at 0; of an embedding A at 0 and B N(0, 1).
//! `rate_ratio` is LoRA+ (Hayou et al., 2024): B learns that many times as fast. `start =
//! "pissa"` is PiSSA (Meng et al., 2024, arXiv 2404.02948): A and B start as the largest singular
//! values and vectors of W, see [`pissa`]. Owns options; the arithmetic is `low_rank`'s.

pub mod pissa;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::Sites;
use twinspan_sdk::{Result, register};

use crate::by_site;
use crate::low_rank::{self, ALPHA, DROPOUT, LowRank, check};
use crate::setting::{FOLDS, check_above_zero, choice, flag, integer, number, wrong};
use pissa::Principal;
pub use pissa::Start;

/// Low-rank updates of projections.
///
/// ```
/// use twinspan_adapters::lora::Lora;
/// use twinspan_sdk::site::{Projection, Sites};
///
/// let sites = Sites { projections: vec![Projection::Query, Projection::Up], ..Default::default() };
/// let lora = Lora { rank: 16, alpha: 32.0, sites, ..Default::default() };
/// assert_eq!(lora.scale(lora.rank, lora.alpha), 2.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank r of the update.
    pub rank: usize,
    /// Its strength α.
    pub alpha: f64,
    /// Scale α/√r in place of α/r.
    pub rslora: bool,
    /// Dropout on what A reads.
    pub dropout: f64,
    /// Learning rate of B over that of A.
    pub rate_ratio: f64,
    /// How A and B start.
    pub start: Start,
    /// Other ranks, by parts of sites' names.
    pub ranks: BTreeMap<String, usize>,
    /// Other strengths, by parts of sites' names.
    pub alphas: BTreeMap<String, f64>,
    /// Where.
    pub sites: Sites,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            rslora: false,
            dropout: 0.0,
            rate_ratio: 1.0,
            start: Start::Zero,
            ranks: BTreeMap::new(),
            alphas: BTreeMap::new(),
            sites: Sites::default(),
        }
    }
}

impl Plugin for Lora {
    const NAME: &'static str = "lora";
    const ABOUT: &'static str = "low-rank updates of projections (LoRA, Hu et al., 2021)";
    const OPTIONS: &'static [Opt] = &[
        integer("rank", "rank of the update"),
        ALPHA,
        flag("rslora", "whether the update counts alpha/√rank instead"),
        DROPOUT,
        number(
            "rate_ratio",
            "learning rate of B over that of A (LoRA+: 16)",
        ),
        choice(
            "start",
            "zero; pissa: the largest singular values of the weight (Meng et al., 2024)",
        ),
        Opt::new(
            "ranks",
            "table of integers",
            "other ranks by parts of sites' names: { value = 16, \"vision.blocks.3\" = 4 }",
        ),
        Opt::new("alphas", "table of numbers", "other strengths, likewise"),
        Opt::sites("both towers, query and value"),
    ];
}

impl Adapter for Lora {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    fn wants(&self) -> Vec<Want> {
        low_rank::wants(&self.sites)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let owner = params.owner().to_string();
        self.check(&owner)?;
        by_site::all_fit("ranks", &self.ranks, slots, &owner)?;
        by_site::all_fit("alphas", &self.alphas, slots, &owner)?;
        let mut principal = Principal::default();
        for slot in slots.iter().filter_map(Slot::projection) {
            let rank = by_site::value("ranks", &self.ranks, slot, &owner)?.unwrap_or(self.rank);
            let alpha = by_site::value("alphas", &self.alphas, slot, &owner)?.unwrap_or(self.alpha);
            check(&owner, rank, ("alpha", alpha), self.dropout)?;
            if self.start == Start::Pissa {
                pissa::check(&owner, slot, rank)?;
            }
            let (scale, params) = (self.scale(rank, alpha), &mut params.within(&slot.name));
            let mut update = LowRank::drawn(slot, rank, scale, self.rate_ratio, params)?;
            update.dropout = self.dropout;
            hooks.update(slot, update.clone());
            if self.start == Start::Pissa {
                principal.add(slot, update, params, hooks)?;
            }
        }
        Ok(Box::new(principal))
    }
}

impl Lora {
    /// The factor s of an update of this rank and strength.
    pub fn scale(&self, rank: usize, alpha: f64) -> f64 {
        match self.rslora {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        }
    }

    fn check(&self, owner: &str) -> Result<()> {
        check(owner, self.rank, ("alpha", self.alpha), self.dropout)?;
        check_above_zero(owner, "rate_ratio", self.rate_ratio)?;
        let mut alphas = self.alphas.values().chain([&self.alpha]);
        match self.start == Start::Pissa && alphas.any(|alpha| *alpha <= 0.0) {
            true => Err(wrong(owner, "start = \"pissa\" asks for an alpha above 0")),
            false => Ok(()),
        }
    }
}

register!(adapter: Lora);
