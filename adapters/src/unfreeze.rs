//! Training what is there: BitFit (Ben Zaken et al., 2022, arXiv 2106.10199), norm tuning,
//! positions, last blocks, or the whole backbone.
//!
//! ```text
//! θ' = θ + Δθ        for the parameters θ of some roles
//! ```
//!
//! | what is meant | options |
//! |---|---|
//! | BitFit, the default | `roles = ["bias"]`: every bias of both towers, those of norms too |
//! | norm tuning | `roles = ["norm"]` |
//! | tables of positions; the class token or the probe of a pool | `["position"]`; `["class"]` |
//! | the last n blocks, the final norm and the projection behind them | `["all"]`, `sites.last = n` |
//! | full fine-tuning | `roles = ["all"]` |
//!
//! Roles and `sites` cut each other: norms of the last block are `["norm"]` with `sites.last = 1`.
//! The logit scale lies outside of towers and trains with `all` alone, without sites. Starts from
//! the backbone's own values. Owns the choice of roles; the copies live in the overlay, and the
//! backbone's layers use them in place of the base's. What the task cannot reach is left out by the
//! plan; running statistics are a choice of the recipe, not of an adapter.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Role, Sites};
use twinspan_sdk::{Result, register};

use crate::setting::{FOLDS, wrong};

/// A group of existing parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Biases, of norms too.
    Bias,
    /// Weights and biases of norms.
    Norm,
    /// Tables of positions.
    Position,
    /// Class tokens, and the probe of an attention pool.
    Class,
    /// Everything that trains by gradient.
    All,
}

impl Group {
    fn roles(self) -> &'static [Role] {
        match self {
            Group::Bias => &[Role::Bias, Role::NormBias],
            Group::Norm => &[Role::NormWeight, Role::NormBias],
            Group::Position => &[Role::Position],
            Group::Class => &[Role::Class],
            Group::All => &[],
        }
    }
}

/// Existing parameters that train.
///
/// ```
/// use twinspan_adapters::unfreeze::{Group, Unfreeze};
/// use twinspan_sdk::adapter::{Adapter, Want};
///
/// let norms = Unfreeze { roles: vec![Group::Norm], ..Default::default() };
/// assert!(matches!(&norms.wants()[..], [Want::Parameters { roles, .. }] if roles.len() == 2));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unfreeze {
    /// What trains.
    pub roles: Vec<Group>,
    /// Where.
    pub sites: Sites,
}

impl Default for Unfreeze {
    fn default() -> Self {
        Self {
            roles: vec![Group::Bias],
            sites: Sites::default(),
        }
    }
}

impl Plugin for Unfreeze {
    const NAME: &'static str = "unfreeze";
    const ABOUT: &'static str = "trains existing parameters: BitFit (Ben Zaken et al., 2022), norms, positions, last blocks, all";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "roles",
            "list of strings",
            "what trains: bias, norm, position, class, all",
        ),
        Opt::sites("both towers"),
    ];
}

impl Adapter for Unfreeze {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    /// One wish per group, so that a group the backbone lacks is an error of its own.
    fn wants(&self) -> Vec<Want> {
        let groups: BTreeSet<Group> = match self.roles.contains(&Group::All) {
            true => [Group::All].into(),
            false => self.roles.iter().copied().collect(),
        };
        groups
            .into_iter()
            .map(|group| Want::Parameters {
                roles: group.roles().to_vec(),
                sites: self.sites.clone(),
            })
            .collect()
    }

    fn install(
        &self,
        slots: &[Slot],
        params: &mut Params,
        _hooks: &mut Hooks,
    ) -> Result<Installed> {
        if self.roles.is_empty() {
            let why = "roles is empty; name what trains: bias, norm, position, class, all";
            return Err(wrong(params.owner(), why));
        }
        let mut seen = BTreeSet::new();
        for slot in slots.iter().filter_map(Slot::parameter) {
            // A norm's bias belongs to two groups.
            if seen.insert(&slot.name) {
                params.existing(slot)?;
            }
        }
        Ok(Box::new(Idle))
    }
}

register!(adapter: Unfreeze);
