//! One rung of the ladder: what the side sees of the tower beside it, and how both are mixed.
//!
//! ```text
//! s' = block(μ s + (1 - μ) down(x))      μ = σ(a / T), and at the last rung y = x + up(s')
//! ```
//!
//! Owns the start, the rungs and what is carried between them; the layers that know widths and
//! grids are [`side`](super::side)'s.

use candle_core::Tensor;
use twinspan_sdk::adapter::StreamSlot;
use twinspan_sdk::hooks::StreamHook;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::{CarryKey, Pass};
use twinspan_sdk::stream::{Form, Stream};
use twinspan_sdk::{Error, Result, ops};

use super::Lst;
use super::side::{Block, Passage, channels};
use crate::bottleneck::Pointwise;
use crate::prompt::{bare, with_prompts_of};

/// What the side sees of a stream: no prompts, and no way back.
fn seen(stream: &Stream) -> Result<Stream> {
    bare(&stream.with(stream.data.detach()))
}

/// Where the side starts.
pub(super) struct Start {
    down: Pointwise,
    side: CarryKey<Tensor>,
}

impl Start {
    /// Beside the embedding of a tower.
    pub fn make(
        options: &Lst,
        slot: &StreamSlot,
        side: CarryKey<Tensor>,
        params: &mut Params,
    ) -> Result<Self> {
        let down = down(options, slot, params)?;
        Ok(Self { down, side })
    }
}

impl StreamHook for Start {
    fn keeps_tokens(&self) -> bool {
        true
    }

    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let side = self.down.forward(&seen(&stream)?.data, pass)?;
        pass.carry(self.side, side);
        Ok(stream)
    }
}

/// One step of the side beside one block.
pub(super) struct Rung {
    passage: Passage,
    down: Pointwise,
    /// a, `[1]`.
    gate: Parameter,
    /// T.
    temperature: f64,
    block: Block,
    /// At the last rung alone.
    up: Option<Pointwise>,
    side: CarryKey<Tensor>,
}

impl Rung {
    /// From beside one stream to beside the next; the last adds the side to the tower.
    pub fn make(
        options: &Lst,
        (before, here): (&StreamSlot, &StreamSlot),
        last: bool,
        side: CarryKey<Tensor>,
        params: &mut Params,
    ) -> Result<Self> {
        let owner = params.owner();
        let widths = (options.width(before, owner)?, options.width(here, owner)?);
        let (out, channels) = ((widths.1, here.stream.width), channels(here));
        let up = &mut params.within("up");
        let up = match last {
            true => Some(Pointwise::make(up, out, channels, Init::Zeros)?),
            false => None,
        };
        Ok(Self {
            passage: Passage::make(params, before, here, widths)?,
            down: down(options, here, params)?,
            gate: params.trained("gate", &[1], Init::Zeros)?,
            temperature: options.temperature,
            block: Block::make(params, widths.1, channels)?,
            up,
            side,
        })
    }

    /// μ · side + (1 - μ) · tower.
    fn mixed(&self, side: &Tensor, tower: &Tensor, pass: &Pass) -> Result<Tensor> {
        let gate = ops::sigmoid(&(self.gate.tensor(pass)? / self.temperature)?)?;
        let apart = ops::add(side, &tower.neg()?)?;
        Ok(ops::add(tower, &ops::mul(&apart, &gate)?)?)
    }
}

impl StreamHook for Rung {
    fn keeps_tokens(&self) -> bool {
        true
    }

    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let Some(side) = pass.take(self.side) else {
            return Err(Error::plugin("a rung ran before the one it follows"));
        };
        let seen = seen(&stream)?;
        let side = self.passage.forward(&side, pass)?;
        let tower = self.down.forward(&seen.data, pass)?;
        let mixed = self.mixed(&side, &tower, pass)?;
        let padding = match &seen.form {
            Form::Tokens { padding, .. } => padding.as_ref(),
            Form::Map | Form::Pooled => None,
        };
        let side = self.block.forward(&mixed, padding, pass)?;
        let Some(up) = &self.up else {
            pass.carry(self.side, side);
            return Ok(stream);
        };
        let own = bare(&stream)?;
        let sum = ops::add(&own.data, &up.forward(&side, pass)?)?;
        with_prompts_of(&stream, own.with(sum))
    }
}

/// From a tower's width to that of its side.
fn down(options: &Lst, slot: &StreamSlot, params: &mut Params) -> Result<Pointwise> {
    let ends = (slot.stream.width, options.width(slot, params.owner())?);
    let start = Init::KaimingUniform { fan: ends.0 };
    Pointwise::make(&mut params.within("down"), ends, channels(slot), start)
}
