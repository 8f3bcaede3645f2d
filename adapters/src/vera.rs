//! VeRA (Kopiczko et al., 2024, arXiv 2310.11454): one pair of random matrices for all layers,
//! and two vectors for each.
//!
//! ```text
//! W' = W + diag(b)·B·diag(d)·A        A [r, in], B [out, r] random, frozen and shared; b, d train
//! ```
//!
//! Default sites: query and value of both towers; linear layers alone. A and B have the widths of
//! the widest site, and every other takes their first columns and rows. They start
//! Kaiming-uniform (±√(6/fan)); d starts at 0.1 everywhere and b at 0. Owns the shared matrices
//! and the vectors; the arithmetic is `low_rank`'s.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::Sites;
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Result, register};

use crate::low_rank::{self, LowRank, check};
use crate::setting::{FOLDS, integer, number, wrong};

/// Vectors around shared random matrices.
///
/// ```
/// use twinspan_adapters::vera::Vera;
///
/// assert_eq!(Vera::default().rank, 256);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vera {
    /// Rank r of the shared matrices.
    pub rank: usize,
    /// What every element of d starts as.
    pub start: f64,
    /// Dropout on what A reads.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Vera {
    fn default() -> Self {
        Self {
            rank: 256,
            start: 0.1,
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Vera {
    const NAME: &'static str = "vera";
    const ABOUT: &'static str =
        "vectors around one shared pair of random matrices (VeRA, Kopiczko et al., 2024)";
    const OPTIONS: &'static [Opt] = &[
        integer("rank", "rank of the shared matrices"),
        number("start", "what the inner vectors start as"),
        number("dropout", "on what A reads, while training"),
        Opt::sites("both towers, query and value; linear layers"),
    ];
}

impl Adapter for Vera {
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
            ("start", self.start),
            self.dropout,
        )?;
        let slots: Vec<&ProjectionSlot> = slots.iter().filter_map(Slot::projection).collect();
        if let Some(other) = slots.iter().find(|s| s.shape != Shape::Linear) {
            let name = &other.name;
            let why = "is not linear, and matrices that sites share fit linear layers alone";
            return Err(wrong(params.owner(), format!("{name} {why}")));
        }
        let widest = |of: fn(&ProjectionSlot) -> usize| slots.iter().map(|s| of(s)).max();
        let (r, input, output) = (
            self.rank,
            widest(|s| s.input).unwrap_or(0),
            widest(|s| s.output).unwrap_or(0),
        );
        let kaiming = |fan: usize| Init::Uniform((6.0 / fan.max(1) as f64).sqrt());
        let a = params.constant("a", &[r, input], kaiming(input))?;
        let b = params.constant("b", &[output, r], kaiming(r))?;
        for slot in slots {
            let params = &mut params.within(&slot.name);
            let update = LowRank {
                middle: Some(params.trained("d", &[r], Init::Constant(self.start))?),
                rows: Some(params.trained("b", &[slot.output], Init::Zeros)?),
                dropout: self.dropout,
                ..LowRank::new(slot, a.clone(), b.clone(), 1.0)
            };
            hooks.update(slot, update);
        }
        Ok(Box::new(Idle))
    }
}

register!(adapter: Vera);
