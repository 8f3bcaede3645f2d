//! RepAdapter (Luo et al., 2023, arXiv 2302.08106): a linear bottleneck between a norm and what
//! reads it, gone once it is folded.
//!
//! ```text
//! x' = x + s·(B (A x + a) + b)        W x' + c = W (I + s·B·A) x + c + s·W (B a + b)
//! A [d, D] dense    B [D, d] of g blocks on its diagonal: input j of a group to outputs of it
//! ```
//!
//! Default sites: before attention and MLP of both towers; d 8, g 2, s 1, dropout 0.1 behind A.
//! A starts Xavier-uniform; B, a and b at 0. No nonlinearity, so it folds into every projection
//! that reads the norm, convolutions of kernel 1 among them. The bottleneck is
//! `linear`'s; which projections read a norm is the topology's.

mod linear;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, BranchSlot, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Branch, Sites};
use twinspan_sdk::{Result, register};

use crate::setting::{FOLDS, check_count, check_dropout, check_factor, integer, number, wrong};
use linear::Bottleneck;

/// Linear bottlenecks before branches.
///
/// ```
/// use twinspan_adapters::repadapter::RepAdapter;
/// use twinspan_sdk::adapter::Adapter;
///
/// let wide = RepAdapter { dim: 16, groups: 4, ..Default::default() };
/// assert!(wide.capabilities().mergeable);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepAdapter {
    /// Width d of the bottleneck.
    pub dim: usize,
    /// Groups g of B.
    pub groups: usize,
    /// Factor s.
    pub scale: f64,
    /// Dropout behind A.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for RepAdapter {
    fn default() -> Self {
        Self {
            dim: 8,
            groups: 2,
            scale: 1.0,
            dropout: 0.1,
            sites: Sites::default(),
        }
    }
}

impl Plugin for RepAdapter {
    const NAME: &'static str = "repadapter";
    const ABOUT: &'static str =
        "linear bottlenecks before attention and MLP, which fold (RepAdapter, Luo et al., 2023)";
    const OPTIONS: &'static [Opt] = &[
        integer("dim", "width of the bottleneck"),
        integer(
            "groups",
            "groups of the map back, each from its part of the bottleneck",
        ),
        number("scale", "factor on what is added"),
        number("dropout", "in the bottleneck, while training"),
        Opt::sites("both towers, attention and mlp"),
    ];
}

impl Adapter for RepAdapter {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Branches {
            sites: self.sites.clone(),
            default: &[Branch::Attention, Branch::Mlp],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots {
            let Some(branch) = slot.branch() else {
                continue;
            };
            self.check(params.owner(), slot, branch)?;
            let bottleneck = Bottleneck::make(self, branch, &mut params.within(slot))?;
            hooks.norm(branch, bottleneck);
        }
        Ok(Box::new(Idle))
    }
}

impl RepAdapter {
    fn check(&self, owner: &str, slot: &Slot, branch: &BranchSlot) -> Result<()> {
        let (dim, groups, width) = (self.dim, self.groups, branch.before.width);
        check_count(owner, "dim", dim)?;
        let parts = |whole: usize| groups > 0 && whole.is_multiple_of(groups);
        if !parts(dim) || !parts(width) {
            let message = format!(
                "groups = {groups} must divide dim = {dim} and {width}, the width before {slot}"
            );
            return Err(wrong(owner, message));
        }
        check_factor(owner, "scale", self.scale)?;
        check_dropout(owner, self.dropout)
    }
}

register!(adapter: RepAdapter);
