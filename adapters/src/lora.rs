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
//! values and vectors of W and, since the base never changes, W' = W + s·(B·A − B₀·A₀).
//! Owns options and starts; the arithmetic is `low_rank`'s.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Life, ProjectionSlot, Slot, Source, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Error, Result, register};

use crate::by_site;
use crate::low_rank::{LowRank, check, fan};
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

/// Low-rank updates of projections.
///
/// ```
/// use twinspan_adapters::lora::Lora;
/// use twinspan_sdk::site::{Projection, Sites, Tower};
///
/// let lora = Lora {
///     rank: 16,
///     alpha: 32.0,
///     sites: Sites {
///         towers: vec![Tower::Text],
///         projections: vec![Projection::Query, Projection::Up],
///         ..Default::default()
///     },
///     ..Default::default()
/// };
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
        Opt::new("rank", "integer", "rank of the update"),
        Opt::new("alpha", "number", "strength: the update counts alpha/rank"),
        Opt::new(
            "rslora",
            "boolean",
            "whether the update counts alpha/√rank instead",
        ),
        Opt::new(
            "dropout",
            "number",
            "on what A reads, while training; none on embeddings",
        ),
        Opt::new(
            "rate_ratio",
            "number",
            "learning rate of B over that of A (LoRA+: 16)",
        ),
        Opt::new(
            "start",
            "string",
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
        Capabilities {
            identity_at_start: true,
            mergeable: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Projection::Query, Projection::Value],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let owner = params.owner().to_string();
        self.check(&owner)?;
        by_site::all_fit("ranks", &self.ranks, slots, &owner)?;
        by_site::all_fit("alphas", &self.alphas, slots, &owner)?;
        let mut starting = Vec::new();
        for slot in slots.iter().filter_map(Slot::projection) {
            let rank = by_site::value("ranks", &self.ranks, slot, &owner)?.unwrap_or(self.rank);
            let alpha = by_site::value("alphas", &self.alphas, slot, &owner)?.unwrap_or(self.alpha);
            check(&owner, rank, alpha, self.dropout)?;
            let params = &mut params.within(&slot.name);
            let update = self.update(slot, rank, self.scale(rank, alpha), params)?;
            hooks.update(slot, update.clone());
            if self.start == Start::Pissa {
                let gone = taken_back(slot, &update, params)?;
                hooks.update(slot, gone.clone());
                starting.push((slot.clone(), update, gone));
            }
        }
        match starting.is_empty() {
            true => Ok(Box::new(Idle)),
            false => Ok(Box::new(Principal(starting))),
        }
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
        check(owner, self.rank, self.alpha, self.dropout)?;
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        if !(self.rate_ratio.is_finite() && self.rate_ratio > 0.0) {
            return wrong(format!("rate_ratio = {} must be above 0", self.rate_ratio));
        }
        let alphas = || self.alphas.values().chain([&self.alpha]);
        if self.start == Start::Pissa && alphas().any(|alpha| *alpha <= 0.0) {
            return wrong("start = \"pissa\" asks for an alpha above 0".into());
        }
        Ok(())
    }

    fn update(
        &self,
        slot: &ProjectionSlot,
        rank: usize,
        scale: f64,
        params: &mut Params,
    ) -> Result<LowRank> {
        let most = slot.output.min(fan(slot));
        if self.start == Start::Pissa && rank > most {
            return Err(Error::wrong_use(format!(
                "{}: start = \"pissa\": rank {rank} is above the {most} singular values of {}",
                params.owner(),
                slot.name
            )));
        }
        let (a, b) = LowRank::shapes(slot, rank);
        let starts = match slot.shape {
            Shape::Embedding => (Init::Zeros, Init::Normal(1.0)),
            Shape::Linear | Shape::Conv { .. } => {
                (Init::KaimingUniform { fan: fan(slot) }, Init::Zeros)
            }
        };
        let a = params.trained("a", &a, starts.0)?;
        let b = params.rate(self.rate_ratio).trained("b", &b, starts.1)?;
        Ok(LowRank {
            dropout: self.dropout,
            ..LowRank::new(slot, a, b, scale)
        })
    }
}

/// −s·B₀·A₀ beside an update: what PiSSA takes from the weight.
fn taken_back(slot: &ProjectionSlot, update: &LowRank, params: &mut Params) -> Result<LowRank> {
    let a = params.constant("a0", update.a.dims(), Init::Zeros)?;
    let b = params.constant("b0", update.b.dims(), Init::Zeros)?;
    Ok(LowRank::new(slot, a, b, -update.scale))
}

/// Starts updates, and what is taken back for each, as the principal part of their weights.
struct Principal(Vec<(ProjectionSlot, LowRank, LowRank)>);

impl Life for Principal {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        for (slot, update, gone) in &self.0 {
            let weight = source.weight(slot)?.flatten_from(1)?;
            let rank = update.a.dims()[0];
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

register!(adapter: Lora);
