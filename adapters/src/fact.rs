//! FacT (Jie & Deng, 2023, arXiv 2212.03145), tensor-train form: the updates of all layers as one
//! tensor of low rank.
//!
//! ```text
//! W_l' = W_l + s·U·Σ_l·V        U [d, r] and V [r, d] of all layers, Σ_l [r, r] of each
//! ```
//!
//! A weight k times as long or wide as d (those of an MLP) is k such squares with a Σ each, as in
//! the paper. U and V are shared by all sites of one width d, so that each tower has its own where
//! the widths differ. Default sites: query, key, value, output, up and down of both towers. U and
//! Σ start in PyTorch's way and V at 0, so that nothing changes at the start. Owns the factors;
//! where ΔW is added, and folding, are the projection hooks' business.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::{Hooks, Update};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Error, Result, ops, register};

use crate::low_rank::check;

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
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Fact {
    const NAME: &'static str = "fact";
    const ABOUT: &'static str =
        "the updates of all layers as one tensor of low rank (FacT, Jie & Deng, 2023)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("rank", "integer", "rank of the tensor"),
        Opt::new("scale", "number", "factor of every update"),
        Opt::new(
            "dropout",
            "number",
            "on what the updates read, while training",
        ),
        Opt::sites("both towers, every linear layer of blocks"),
    ];
}

impl Adapter for Fact {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            mergeable: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        use Projection::{Down, Key, Output, Query, Up, Value};
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Query, Key, Value, Output, Up, Down],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        check(params.owner(), self.rank, self.scale, self.dropout)?;
        let r = self.rank;
        let mut shared: BTreeMap<usize, (Parameter, Parameter)> = BTreeMap::new();
        for slot in slots.iter().filter_map(Slot::projection) {
            let d = squares(slot, params.owner())?;
            let (u, v) = match shared.get(&d) {
                Some(pair) => pair.clone(),
                None => {
                    let mut here = params.within(d);
                    let u = here.trained("u", &[d, r], Init::KaimingUniform { fan: r })?;
                    let pair = (u, here.trained("v", &[r, d], Init::Zeros)?);
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
        false => Err(Error::wrong_use(format!(
            "{owner}: {} [{}, {}] is not made of squares: choose linear layers of which one width \
             is a multiple of the other",
            slot.name, slot.output, slot.input
        ))),
    }
}

/// s·U·Σ·V for every square of a weight.
struct Train {
    u: Parameter,
    sigma: Parameter,
    v: Parameter,
    scale: f64,
    dropout: f64,
}

impl Update for Train {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (u, sigma, v) = (
            self.u.tensor(pass)?,
            self.sigma.tensor(pass)?,
            self.v.tensor(pass)?,
        );
        let x = ops::dropout(x, pass.dropout(self.dropout))?;
        let narrow = ops::linear(&cut(&x, v.dim(1)?)?, &v, None)?;
        let mixed = ops::linear(&whole(&narrow)?, &sigma, None)?;
        let wide = ops::linear(&cut(&(mixed * self.scale)?, v.dim(0)?)?, &u, None)?;
        whole(&wide)
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        let (u, sigma, v) = (
            self.u.tensor(pass)?,
            self.sigma.tensor(pass)?,
            self.v.tensor(pass)?,
        );
        let r = v.dim(0)?;
        // Columns of Σ through U, then its rows through V.
        let columns = ops::linear(&cut(&sigma.t()?.contiguous()?, r)?, &u, None)?;
        let rows = whole(&columns)?.t()?.contiguous()?;
        let delta = whole(&ops::linear(&cut(&rows, r)?, &v.t()?.contiguous()?, None)?)?;
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

register!(adapter: Fact);
