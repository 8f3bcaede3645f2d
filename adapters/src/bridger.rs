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
//! changed. It is not the identity at the start. Owns options, one stage and what it hands to the
//! next; [`zoom`] and [`fusion`] own the layers between widths, grids and towers. Which blocks end
//! a stage, and in which order the towers run, is not decided here.

pub mod fusion;
pub mod zoom;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, StageSlot, Want};
use twinspan_sdk::hooks::{Bridge, Hooks};
use twinspan_sdk::layers::{LayerNorm, Linear};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::{CarryKey, Pass};
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::{Error, Result, ops, register};

use fusion::{Fusion, Mixer};
use zoom::{Ends, Lens, Zoom, pixels, to_grid};

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
        Opt::new("dim", "integer", "channels of the bridge"),
        Opt::new(
            "heads",
            "integer",
            "attention heads; 0 as released: 8 on tokens, 4 on maps",
        ),
        Opt::new(
            "stages",
            "list of integers",
            "stages, counted from 1; empty takes all",
        ),
        Opt::new(
            "fusion",
            "string",
            "auto as released (tokens gate, maps transformer), gate (x · attention to the other \
             tower), transformer (self-attention, cross-attention, FFN)",
        ),
        Opt::new(
            "zoom",
            "string",
            "conv-deconv as released; for any grids: linear, conv-interpolate, mlp",
        ),
        Opt::new(
            "dropout",
            "number",
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
            let stage = self.stage(slot, order > 0, last, params)?;
            hooks.bridge(slot, stage);
        }
        Ok(Box::new(Idle))
    }
}

impl Bridger {
    fn stage(
        &self,
        slot: &StageSlot,
        follows: bool,
        last: CarryKey<Last>,
        params: &mut Params,
    ) -> Result<Stage> {
        let ((_, vision), (_, text)) = (slot.vision, slot.text);
        let heads = self.heads_on(vision.map, params.owner())?;
        let ends = Ends::of(slot, self.dim, params.owner())?;
        let (d, i) = (self.dim, slot.stage - 1);
        let mut mixer = |name: &str| {
            let mut here = params.within(format!("{name}.{i}"));
            let fusion = self.fusion.on(vision.map);
            Mixer::make(&mut here, fusion, d, heads, self.dropout)
        };
        Ok(Stage {
            fusion_vision: mixer("fusion_vision")?,
            fusion_text: mixer("fusion_text")?,
            zoom_in: self
                .zoom
                .zoom_in(&ends, &mut params.within(format!("zoom_in.{i}")))?,
            zoom_out: self
                .zoom
                .zoom_out(&ends, &mut params.within(format!("zoom_out.{i}")))?,
            linear_in: Linear::make(
                &mut params.within(format!("linear_in.{i}")),
                text.width,
                d,
                START,
            )?,
            linear_out: Linear::make(
                &mut params.within(format!("linear_out.{i}")),
                d,
                text.width,
                START,
            )?,
            norms: match follows {
                true => Some((
                    LayerNorm::make(&mut params.within(format!("norm_vision.{i}")), d)?,
                    LayerNorm::make(&mut params.within(format!("norm_text.{i}")), d)?,
                )),
                false => None,
            },
            last,
        })
    }

    /// The number of heads, which is no part of a checkpoint's shapes.
    fn heads_on(&self, map: bool, owner: &str) -> Result<usize> {
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {} must lie in [0, 1)", self.dropout));
        }
        if !(1..=MOST_WIDTH).contains(&self.dim) {
            return wrong(format!("dim must lie between 1 and {MOST_WIDTH}"));
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
            return wrong(format!(
                "{heads} heads do not divide dim = {dim}; heads may be {fit}"
            ));
        }
        Ok(heads)
    }
}

/// v and t of a stage before their fusion, handed to the next stage.
type Last = (Tensor, Tensor);

/// The bridge at one stage.
struct Stage {
    zoom_in: Lens,
    zoom_out: Lens,
    linear_in: Linear,
    linear_out: Linear,
    /// Of v and t; none at the first stage in use, which follows nothing.
    norms: Option<(LayerNorm, LayerNorm)>,
    fusion_vision: Mixer,
    fusion_text: Mixer,
    last: CarryKey<Last>,
}

impl Bridge for Stage {
    fn forward(&self, vision: Stream, text: Stream, pass: &mut Pass) -> Result<(Stream, Stream)> {
        let zoomed = self.zoom_in.forward(&vision.grid()?, pass)?;
        let (_, _, rows, columns) = zoomed.dims4()?;
        let mut v = pixels(&zoomed)?;
        let mut t = self.linear_in.forward(&text.content()?, pass)?;
        if let Some((norm_v, norm_t)) = &self.norms {
            let Some((last_v, last_t)) = pass.take(self.last) else {
                return Err(Error::plugin("a bridge ran before the stage it follows"));
            };
            v = norm_v.forward(&ops::add(&v, &last_v)?, pass)?;
            t = norm_t.forward(&ops::add(&t, &last_t)?, pass)?;
        }
        pass.carry(self.last, (v.clone(), t.clone()));
        let seen_v = self.fusion_vision.forward(&v, &t, pass)?;
        let seen_t = self.fusion_text.forward(&t, &v, pass)?;
        let seen_v = to_grid(&seen_v, (rows, columns))?;
        let vision = vision.add_on_grid(&self.zoom_out.forward(&seen_v, pass)?)?;
        let text = text.add_to_content(&self.linear_out.forward(&seen_t, pass)?)?;
        Ok((vision, text))
    }
}

register!(adapter: Bridger);
