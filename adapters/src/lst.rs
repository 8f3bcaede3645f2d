//! Ladder side-tuning (Sung et al., NeurIPS 2022, arXiv 2206.06522): a narrow network beside a
//! tower, which looks at what every block gives and is added at the end.
//!
//! ```text
//! s_0 = down_0(x_0)
//! s_i = block_i(μ_i s_(i-1) + (1 - μ_i) down_i(x_i))      μ_i = σ(a_i / T)
//! y   = x_L + up(s_L)
//! ```
//!
//! x_i is the stream after block i, detached: no operation of a tower's blocks is in the graph. The
//! side has width D/8, a_i starts 0, T is 0.1, and up starts 0, so training starts at the backbone.
//! Where a ResNet's grid or width changes, the side is averaged to the next grid and projected.
//! Class, register and start tokens take part, other adapters' prompts do not. Default sites: every
//! block of both towers; with fewer, the side is added after the last of them. The paper starts its
//! blocks from weights of the tower that it prunes; here they are drawn. Owns options and widths; a rung is
//! `rung`'s, the layers of the side are `side`'s.

mod rung;
mod side;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, StreamSlot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Edge, EmbedStep, Moment, Sites, Tower};
use twinspan_sdk::{Result, register};

use crate::setting::{IDENTITY, check_above_zero, check_count, integer, number, wrong};
use rung::{Rung, Start};

/// A side network beside each tower.
///
/// ```
/// use twinspan_adapters::lst::Lst;
/// use twinspan_sdk::adapter::Adapter;
///
/// let wide = Lst { reduction: 4, ..Default::default() };
/// assert!(wide.capabilities().identity_at_start);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lst {
    /// Width of the tower over that of the side.
    pub reduction: usize,
    /// Temperature T of the gates.
    pub temperature: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Lst {
    fn default() -> Self {
        Self {
            reduction: 8,
            temperature: 0.1,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Lst {
    const NAME: &'static str = "lst";
    const ABOUT: &'static str = "a narrow network beside each tower, no backward through it (ladder side-tuning, Sung et al., 2022)";
    const OPTIONS: &'static [Opt] = &[
        integer("reduction", "width of the tower over that of the side"),
        number("temperature", "of the gates between side and tower"),
        Opt::sites("after every block of both towers"),
    ];
}

impl Adapter for Lst {
    fn capabilities(&self) -> Capabilities {
        IDENTITY
    }

    fn wants(&self) -> Vec<Want> {
        let beside =
            |tower: &Tower| self.sites.towers.is_empty() || self.sites.towers.contains(tower);
        let start = |tower| Want::Streams {
            tower,
            moments: vec![Moment::Embed(EmbedStep::Norm)],
        };
        let starts = Tower::BOTH.into_iter().filter(beside).map(start);
        let rungs = Want::Between {
            sites: self.sites.clone(),
            default: 0..usize::MAX,
            edge: Edge::After,
        };
        starts.chain([rungs]).collect()
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        for tower in Tower::BOTH {
            let streams = slots.iter().filter_map(Slot::stream);
            let streams: Vec<_> = streams.filter(|s| s.tower == tower).collect();
            self.ladder(tower, &streams, params, hooks)?;
        }
        Ok(Box::new(Idle))
    }
}

impl Lst {
    fn check(&self, owner: &str) -> Result<()> {
        check_count(owner, "reduction", self.reduction)?;
        check_above_zero(owner, "temperature", self.temperature)
    }

    /// The ladder of one tower: its embedding, then the blocks with a rung.
    fn ladder(
        &self,
        tower: Tower,
        streams: &[&StreamSlot],
        params: &mut Params,
        hooks: &mut Hooks,
    ) -> Result<()> {
        let side = hooks.carry_along(tower);
        if let [start, _, ..] = streams {
            let here = &mut params.within(format!("{tower}.embed"));
            hooks.stream(start, Start::make(self, start, side, here)?);
        }
        let mut pairs = streams.windows(2).peekable();
        while let Some(pair) = pairs.next() {
            let [before, here] = pair else { continue };
            let (beside, last) = ((*before, *here), pairs.peek().is_none());
            let params = &mut params.within(format!("{tower}.{}", here.moment.at()));
            hooks.stream(here, Rung::make(self, beside, last, side, params)?);
        }
        Ok(())
    }

    /// Width of the side beside a stream.
    fn width(&self, slot: &StreamSlot, owner: &str) -> Result<usize> {
        let (reduction, width) = (self.reduction, slot.stream.width);
        if width < reduction {
            let message = format!("reduction = {reduction} leaves nothing of a width of {width}");
            return Err(wrong(owner, message));
        }
        Ok(width / reduction)
    }
}

register!(adapter: Lst);
