//! The bridge at one stage: its layers in the order in which both streams go through them.
//!
//! Owns the stage and what it hands to the next. The layers between widths and grids are
//! [`zoom`](super::zoom)'s, those between towers [`fusion`](super::fusion)'s.

use candle_core::Tensor;
use twinspan_sdk::adapter::StageSlot;
use twinspan_sdk::hooks::Bridge;
use twinspan_sdk::layers::{LayerNorm, Linear};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::{CarryKey, Pass};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::{Error, Result, ops};

use super::fusion::Mixer;
use super::zoom::{Ends, Lens};
use super::{Bridger, START};
use crate::pixels::{pixels, to_grid};

/// v and t of a stage before their fusion, handed to the next stage.
pub(super) type Last = (Tensor, Tensor);

/// The bridge at one stage.
pub(super) struct Stage {
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

impl Stage {
    /// At the end of one stage; `follows` where the bridge of an earlier one hands it `last`.
    pub fn make(
        options: &Bridger,
        slot: &StageSlot,
        follows: bool,
        last: CarryKey<Last>,
        params: &mut Params,
    ) -> Result<Self> {
        let ((_, vision), (_, text)) = (slot.vision, slot.text);
        let heads = options.heads_on(vision.map, params.owner())?;
        let ends = Ends::of(slot, options.dim, params.owner())?;
        let (d, zoom) = (options.dim, options.zoom);
        let at = |name: &str| format!("{name}.{}", slot.stage - 1);
        let mut mixer = |name: &str| {
            let fusion = options.fusion.on(vision.map);
            Mixer::make(
                &mut params.within(at(name)),
                fusion,
                d,
                heads,
                options.dropout,
            )
        };
        let (fusion_vision, fusion_text) = (mixer("fusion_vision")?, mixer("fusion_text")?);
        let mut norm = |name: &str| LayerNorm::make(&mut params.within(at(name)), d);
        let norms = match follows {
            true => Some((norm("norm_vision")?, norm("norm_text")?)),
            false => None,
        };
        Ok(Self {
            zoom_in: zoom.zoom_in(&ends, &mut params.within(at("zoom_in")))?,
            zoom_out: zoom.zoom_out(&ends, &mut params.within(at("zoom_out")))?,
            linear_in: Linear::make(&mut params.within(at("linear_in")), text.width, d, START)?,
            linear_out: Linear::make(&mut params.within(at("linear_out")), d, text.width, START)?,
            norms,
            fusion_vision,
            fusion_text,
            last,
        })
    }
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
