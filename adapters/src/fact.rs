//! FacT (Jie & Deng, 2023, arXiv 2212.03145), tensor-train form: the updates of all layers as one
//! tensor of low rank.
//!
//! ```text
//! W_l' x = W_l x + s·V·drop(Σ_l·U·x)        U [r, d] and V [d, r] of all layers, Σ_l [r, r] of each
//! ```
//!
//! A weight k times as long or wide as d (those of an MLP) is k such squares with a Σ each, as in
//! the paper. U and V are shared by all sites of one width d, so that each tower has its own where
//! the widths differ. Default sites: query, key, value, output, up and down of both towers. U and
//! Σ start as PyTorch's linear layers and V at 0, so that nothing changes at the start; dropout
//! .1. Owns options, sharing and starts; the product is `train`'s.

mod train;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Result, register};

use crate::low_rank::check;
use crate::setting::{FOLDS, integer, number, wrong};
use train::Train;

/// One low-rank tensor of updates.
///
/// ```
/// use twinspan_adapters::fact::Fact;
///
/// assert_eq!(Fact::default().rank, 16);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fact {
    /// Rank r.
    pub rank: usize,
    /// Factor s of every update.
    pub scale: f64,
    /// Dropout on what V reads.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Fact {
    fn default() -> Self {
        Self {
            rank: 16,
            scale: 1.0,
            dropout: 0.1,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Fact {
    const NAME: &'static str = "fact";
    const ABOUT: &'static str =
        "the updates of all layers as one tensor of low rank (FacT, Jie & Deng, 2023)";
    const OPTIONS: &'static [Opt] = &[
        integer("rank", "rank of the tensor"),
        number("scale", "factor of every update"),
        number("dropout", "on what V reads, while training"),
        Opt::sites("both towers, every linear layer of blocks"),
    ];
}

impl Adapter for Fact {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    fn wants(&self) -> Vec<Want> {
        use Projection::{Down, Key, Output, Query, Up, Value};
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Query, Key, Value, Output, Up, Down],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        check(
            params.owner(),
            self.rank,
            ("scale", self.scale),
            self.dropout,
        )?;
        let r = self.rank;
        let mut shared: BTreeMap<usize, (Parameter, Parameter)> = BTreeMap::new();
        for slot in slots.iter().filter_map(Slot::projection) {
            let d = squares(slot, params.owner())?;
            let (u, v) = match shared.get(&d) {
                Some(pair) => pair.clone(),
                None => {
                    let mut here = params.within(d);
                    let u = here.trained("u", &[r, d], Init::KaimingUniform { fan: d })?;
                    let pair = (u, here.trained("v", &[d, r], Init::Zeros)?);
                    shared.entry(d).or_insert(pair).clone()
                }
            };
            let (down, across) = (slot.output / d, slot.input / d);
            let fan = Init::KaimingUniform { fan: across * r };
            let sigma = params
                .within(&slot.name)
                .trained("sigma", &[down * r, across * r], fan)?;
            let (scale, dropout) = (self.scale, self.dropout);
            hooks.update(
                slot,
                Train {
                    u,
                    sigma,
                    v,
                    scale,
                    dropout,
                },
            );
        }
        Ok(Box::new(Idle))
    }
}

/// The width d of the squares that a weight is made of.
fn squares(slot: &ProjectionSlot, owner: &str) -> Result<usize> {
    let d = slot.input.min(slot.output);
    match slot.shape == Shape::Linear && (slot.input + slot.output).is_multiple_of(d) {
        true => Ok(d),
        false => Err(wrong(
            owner,
            format!(
                "{} [{}, {}] is not made of squares: choose linear layers of which one width is \
                 a multiple of the other",
                slot.name, slot.output, slot.input
            ),
        )),
    }
}

register!(adapter: Fact);
