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
//! blocks from weights of the tower that it prunes; here they are drawn. Owns options, rungs and
//! what is carried between them; the layers of the side are [`side`]'s.

pub mod side;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, StreamSlot, Want};
use twinspan_sdk::hooks::{Hooks, StreamHook};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::{CarryKey, Pass};
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Edge, EmbedStep, Moment, Sites, Tower};
use twinspan_sdk::stream::{Form, Stream};
use twinspan_sdk::{Error, Result, ops, register};

use crate::bottleneck::Pointwise;
use crate::prompt::{bare, with_prompts_of};
use side::{Block, Passage, channels};

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
        Opt::new(
            "reduction",
            "integer",
            "width of the tower over that of the side",
        ),
        Opt::new(
            "temperature",
            "number",
            "of the gates between side and tower",
        ),
        Opt::sites("after every block of both towers"),
    ];
}

impl Adapter for Lst {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            ..Default::default()
        }
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
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        if self.reduction == 0 {
            return wrong("reduction must be above 0".into());
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong(format!(
                "temperature = {} must be above 0",
                self.temperature
            ));
        }
        Ok(())
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
            let down = self.down(start, &mut params.within(format!("{tower}.embed")))?;
            hooks.stream(start, Start { down, side });
        }
        let mut pairs = streams.windows(2).peekable();
        while let Some(pair) = pairs.next() {
            let [before, here] = pair else { continue };
            let mut params = params.within(format!("{tower}.{}", here.moment.at()));
            let widths = (self.width(before, &params)?, self.width(here, &params)?);
            let rung = Rung {
                passage: Passage::make(&mut params, before, here, widths)?,
                down: self.down(here, &mut params)?,
                gate: params.trained("gate", &[1], Init::Zeros)?,
                temperature: self.temperature,
                block: Block::make(&mut params, widths.1, channels(here))?,
                up: match pairs.peek() {
                    Some(_) => None,
                    None => Some(self.up(here, &mut params)?),
                },
                side,
            };
            hooks.stream(here, rung);
        }
        Ok(())
    }

    fn down(&self, slot: &StreamSlot, params: &mut Params) -> Result<Pointwise> {
        let ends = (slot.stream.width, self.width(slot, params)?);
        let start = Init::KaimingUniform { fan: ends.0 };
        Pointwise::make(&mut params.within("down"), ends, channels(slot), start)
    }

    fn up(&self, slot: &StreamSlot, params: &mut Params) -> Result<Pointwise> {
        let ends = (self.width(slot, params)?, slot.stream.width);
        Pointwise::make(&mut params.within("up"), ends, channels(slot), Init::Zeros)
    }

    /// Width of the side beside a stream.
    fn width(&self, slot: &StreamSlot, params: &Params) -> Result<usize> {
        match slot.stream.width / self.reduction {
            0 => Err(Error::wrong_use(format!(
                "{}: reduction = {} leaves nothing of a width of {}",
                params.owner(),
                self.reduction,
                slot.stream.width
            ))),
            width => Ok(width),
        }
    }
}

/// What the side sees of a stream: no prompts, and no way back.
fn seen(stream: &Stream) -> Result<Stream> {
    bare(&stream.with(stream.data.detach()))
}

/// Where the side starts.
struct Start {
    down: Pointwise,
    side: CarryKey<Tensor>,
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
struct Rung {
    passage: Passage,
    down: Pointwise,
    /// a, `[1]`.
    gate: Parameter,
    temperature: f64,
    block: Block,
    /// At the last rung alone.
    up: Option<Pointwise>,
    side: CarryKey<Tensor>,
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

impl Rung {
    /// μ · side + (1 - μ) · tower.
    fn mixed(&self, side: &Tensor, tower: &Tensor, pass: &Pass) -> Result<Tensor> {
        let gate = ops::sigmoid(&(self.gate.tensor(pass)? / self.temperature)?)?;
        let apart = ops::add(side, &tower.neg()?)?;
        Ok(ops::add(tower, &ops::mul(&apart, &gate)?)?)
    }
}

register!(adapter: Lst);
