//! Visual prompt tuning (Jia et al., ECCV 2022, arXiv 2203.12119): learned tokens beside the
//! patches of a picture.
//!
//! ```text
//! shallow    x_0 = [class, P, patches]                     once, behind the positions
//! deep       x_i = block_i([class, P_i, patches_(i-1)])    P_i in place of what P_(i-1) became
//! ```
//!
//! P `[1, n, D]` starts uniform in ±√(6/(3p² + D)), p the side of a patch. Default sites: deep,
//! every block of the vision tower; with fewer blocks, the tokens come in at the first of them and
//! run on behind the last. A ResNet has no patches and is refused. It is not the identity at the
//! start. Owns the two kinds and their start; the arithmetic is [`prompt`](crate::prompt)'s.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Edge, EmbedStep, Moment, Projection, Sites, Tower};
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Result, register};

use crate::prompt::{Prompts, of_tokens};
use crate::setting::{check_count, check_dropout, flag, integer, number, wrong};

/// Learned tokens of the vision tower.
///
/// ```
/// use twinspan_adapters::vpt::Vpt;
/// use twinspan_sdk::adapter::{Adapter, Want};
/// use twinspan_sdk::site::{EmbedStep, Moment};
///
/// let shallow = Vpt { tokens: 50, deep: false, ..Default::default() };
/// let behind_positions = vec![Moment::Embed(EmbedStep::Positions)];
/// assert!(matches!(&shallow.wants()[0], Want::Streams { moments, .. } if *moments == behind_positions));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vpt {
    /// Tokens n.
    pub tokens: usize,
    /// New tokens before every block, in place of tokens put in once.
    pub deep: bool,
    /// Dropout on the tokens.
    pub dropout: f64,
    /// Before which blocks deep tokens are put in.
    pub sites: Sites,
}

impl Default for Vpt {
    fn default() -> Self {
        Self {
            tokens: 5,
            deep: true,
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Vpt {
    const NAME: &'static str = "vpt";
    const ABOUT: &'static str =
        "learned tokens beside the patches of a picture (VPT, Jia et al., 2022)";
    const OPTIONS: &'static [Opt] = &[
        integer("tokens", "learned tokens"),
        flag(
            "deep",
            "whether every block has tokens of its own; otherwise they go in once, behind the \
             positions",
        ),
        number("dropout", "on the tokens, while training"),
        Opt::sites("every block of the vision tower, for deep tokens"),
    ];
}

impl Adapter for Vpt {
    fn wants(&self) -> Vec<Want> {
        let tower = vec![Tower::Vision];
        let tokens = match self.deep {
            true => Want::Between {
                sites: Sites {
                    towers: tower.clone(),
                    ..self.sites.clone()
                },
                default: 0..usize::MAX,
                edge: Edge::Before,
            },
            false => Want::Streams {
                tower: Tower::Vision,
                moments: vec![Moment::Embed(EmbedStep::Positions)],
            },
        };
        // The start depends on the patches' size.
        let patches = Want::Look(Box::new(Want::Projections {
            sites: Sites {
                towers: tower,
                ..Default::default()
            },
            default: &[Projection::Patch],
        }));
        vec![tokens, patches]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let owner = params.owner().to_string();
        self.check(&owner)?;
        let patch = slots.iter().find_map(patch_values).unwrap_or(0);
        for slot in slots.iter().filter_map(Slot::stream) {
            of_tokens(slot, &owner)?;
            let width = slot.stream.width;
            let bound = (6.0 / (patch + width) as f64).sqrt();
            let place = format!("{}.{}", slot.tower, slot.moment.at());
            let shape = [1, self.tokens, width];
            let tokens = params
                .within(place)
                .trained("tokens", &shape, Init::Uniform(bound))?;
            let prompts = Prompts {
                tokens,
                owner: owner.clone(),
                dropout: self.dropout,
            };
            hooks.stream(slot, prompts);
        }
        Ok(Box::new(Idle))
    }
}

impl Vpt {
    fn check(&self, owner: &str) -> Result<()> {
        check_count(owner, "tokens", self.tokens)?;
        check_dropout(owner, self.dropout)?;
        let sites = &self.sites;
        let why = if sites.towers.contains(&Tower::Text) {
            "its tokens are the vision tower's: leave text out of `sites.towers`"
        } else if !sites.projections.is_empty() {
            "it acts on no projections: leave `sites.projections` out"
        } else if !self.deep && (!sites.blocks.is_empty() || sites.last > 0) {
            "shallow tokens go in once: set deep = true to choose blocks"
        } else {
            return Ok(());
        };
        Err(wrong(owner, why))
    }
}

/// Values of a patch, 3p² of a picture.
fn patch_values(slot: &Slot) -> Option<usize> {
    let patch = slot.projection()?;
    match patch.shape {
        Shape::Conv { kernel, .. } => Some(patch.input * kernel * kernel),
        Shape::Linear | Shape::Embedding => None,
    }
}

register!(adapter: Vpt);
