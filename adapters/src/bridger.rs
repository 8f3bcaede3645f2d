//! The Bridger of ETRIS (Xu et al., ICCV 2023, arXiv 2307.11545): at the end of each stage both
//! towers are brought to one small width and one grid, look at each other, and are changed by
//! what they saw.
//!
//! With v the patch map (class token left out) and t the words, at stage i:
//!
//! ```text
//! v, t   = zoom_in(v), linear_in(t)                      to `dim` channels, on the middle grid
//! v, t   = LN(v + v of the stage before), LN(t + t of the stage before)    from the second on
//! v', t' = fusion(v, t), fusion(t, v)                    no padding mask
//! stream += zoom_out(v'), linear_out(t')
//! ```
//!
//! Default sites: every stage of the backbone. Prompts of other adapters are neither read nor
//! changed. It is not the identity at the start. Owns options and heads; one stage is
//! `stage`'s, [`zoom`] and [`fusion`] own the layers between widths, grids and towers. Which blocks end
//! a stage, and in which order the towers run, is not decided here.

pub mod fusion;
mod stage;
pub mod zoom;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::{Result, register};

use crate::setting::{check_dropout, choice, integer, number, wrong};
use fusion::Fusion;
use stage::Stage;
use zoom::Zoom;

/// Wider bridges are slips of the pen.
const MOST_WIDTH: usize = 1 << 16;

/// The start of every linear layer, those behind attentions included.
const START: Init = Init::Normal(0.02);

/// Bridges between both towers at the ends of stages.
///
/// ```
/// use twinspan_adapters::bridger::{Bridger, fusion::Fusion};
/// use twinspan_sdk::adapter::{Adapter, Want};
///
/// let bridger = Bridger { dim: 128, fusion: Fusion::Gate, ..Default::default() };
/// assert_eq!(bridger.wants(), [Want::Stages { stages: vec![] }]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bridger {
    /// Channels of the bridge, d.
    pub dim: usize,
    /// Attention heads; 0 takes the released number.
    pub heads: usize,
    /// Stages counted from 1; empty takes all.
    pub stages: Vec<usize>,
    /// How a tower looks at the other.
    pub fusion: Fusion,
    /// How the vision stream comes to `dim` channels on the middle grid and back.
    pub zoom: Zoom,
    /// Dropout of the transformer fusion.
    pub dropout: f64,
}

impl Default for Bridger {
    fn default() -> Self {
        Self {
            dim: 64,
            heads: 0,
            stages: Vec::new(),
            fusion: Fusion::Auto,
            zoom: Zoom::ConvDeconv,
            dropout: 0.1,
        }
    }
}

impl Plugin for Bridger {
    const NAME: &'static str = "bridger";
    const ABOUT: &'static str =
        "bridges between both towers at the ends of stages (ETRIS, Xu et al., 2023)";
    const OPTIONS: &'static [Opt] = &[
        integer("dim", "channels of the bridge"),
        integer(
            "heads",
            "attention heads; 0 as released: 8 on tokens, 4 on maps",
        ),
        Opt::new(
            "stages",
            "list of integers",
            "stages, counted from 1; empty takes all",
        ),
        choice(
            "fusion",
            "auto as released (tokens gate, maps transformer), gate (x · attention to the other \
             tower), transformer (self-attention, cross-attention, FFN)",
        ),
        choice(
            "zoom",
            "conv-deconv as released; for any grids: linear, conv-interpolate, mlp",
        ),
        number(
            "dropout",
            "of the transformer fusion: probabilities, inside the FFN, every branch",
        ),
    ];
}

impl Adapter for Bridger {
    fn wants(&self) -> Vec<Want> {
        vec![Want::Stages {
            stages: self.stages.clone(),
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let last = hooks.carry();
        for (order, slot) in slots.iter().filter_map(Slot::stage).enumerate() {
            let stage = Stage::make(self, slot, order > 0, last, params)?;
            hooks.bridge(slot, stage);
        }
        Ok(Box::new(Idle))
    }
}

impl Bridger {
    /// The number of heads, which is no part of a checkpoint's shapes.
    fn heads_on(&self, map: bool, owner: &str) -> Result<usize> {
        check_dropout(owner, self.dropout)?;
        if !(1..=MOST_WIDTH).contains(&self.dim) {
            return Err(wrong(
                owner,
                format!("dim must lie between 1 and {MOST_WIDTH}"),
            ));
        }
        let heads = match (self.heads, map) {
            (0, true) => 4,
            (0, false) => 8,
            (heads, _) => heads,
        };
        if !self.dim.is_multiple_of(heads) {
            let fit = (1..=self.dim).filter(|h| self.dim.is_multiple_of(*h));
            let fit: Vec<String> = fit.map(|h| h.to_string()).collect();
            let (dim, fit) = (self.dim, fit.join(", "));
            let message = format!("{heads} heads do not divide dim = {dim}; heads may be {fit}");
            return Err(wrong(owner, message));
        }
        Ok(heads)
    }
}

register!(adapter: Bridger);
