//! Which steps lead to what is asked for, and nothing more.
//!
//! Owns the way to the task's features and to any other streams that a user asks for; sorting is
//! [`crate::order`]'s, and walking [`Tuned::forward`]'s.

use candle_core::Tensor;

use super::Tuned;
use crate::error::{Error, Result};
use crate::hooks::{Hooks, Reader, Reading};
use crate::order::{self, Order, Step};
use crate::pass::{Pass, TapKey};
use crate::site::{At, Tap, Tower};
use crate::stream::Stream;
use crate::task::Batch;
use crate::topology::Topology;

/// What a walk over the towers starts from: either tower may be given nothing.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `[I, 3, H, W]`, prepared.
    pub images: Option<Tensor>,
    /// `u32 [S, L]`.
    pub tokens: Option<Tensor>,
    /// (picture, sentence) of each pair; none where no tower looks at the other.
    pub pairs: Vec<(u32, u32)>,
}

impl From<&Batch> for Inputs {
    fn from(batch: &Batch) -> Self {
        Self {
            images: Some(batch.images.clone()),
            tokens: Some(batch.tokens.clone()),
            pairs: batch.pairs.clone(),
        }
    }
}

/// The way to some taps through a model; it borrows the model, so that no adapter is enabled,
/// disabled or scaled while it is in use.
pub struct Route<'a> {
    tuned: &'a Tuned,
    way: Way,
}

impl Tuned {
    /// The way to `taps`, whatever the task reads: only the steps that lead there, so a tower
    /// that none of them needs does not run.
    ///
    /// # Errors
    /// The backbone does not have a tap.
    pub fn route(&self, taps: &[Tap]) -> Result<Route<'_>> {
        let way = Way::of(&self.topology, &self.hooks, |label| self.acts(label), taps)?;
        Ok(Route { tuned: self, way })
    }

    /// The way to what the task reads, laid anew after an adapter went on or off.
    pub(super) fn lay_way(&mut self) -> Result<()> {
        let acts = |label: &str| self.acts(label);
        self.way = Way::of(&self.topology, &self.hooks, acts, &self.reads.0)?;
        Ok(())
    }
}

impl Route<'_> {
    /// The labels of the adapters that on this way look from one tower into the other: where
    /// there are any, what it gives has a row for each pair, not for each item.
    pub fn crossing(&self) -> Vec<String> {
        let expands = |step: Step| matches!(step, Step::Expand(_));
        match self.way.steps().any(expands) {
            true => crossing(&self.tuned.hooks, |label| self.tuned.acts(label)),
            false => Vec::new(),
        }
    }

    /// The streams at the taps, in their order: a row for each item of the tap's tower, or for
    /// each pair where an adapter makes the towers look at each other
    /// ([`crossing`](Self::crossing)). At [`At::Logits`], `[pictures, sentences]`.
    ///
    /// # Errors
    /// A tower that is needed was given nothing, the inputs do not fit the backbone, or an
    /// operation failed.
    pub fn walk(&self, inputs: &Inputs, pass: &mut Pass) -> Result<Vec<Stream>> {
        let given = |tower| match tower {
            Tower::Vision => inputs.images.is_some(),
            Tower::Text => inputs.tokens.is_some(),
        };
        let missing = |step: &Step| matches!(step, Step::Embed(tower) if !given(*tower));
        let crossing = self.crossing();
        if let Some(Step::Embed(tower)) = self.way.steps().find(missing) {
            let other = self.way.taps.iter().find(|t| t.tower != tower);
            return Err(match other {
                Some(tap) if !crossing.is_empty() => Error::OtherTower {
                    tap: *tap,
                    adapters: crossing,
                },
                _ => Error::NothingGiven { tower },
            });
        }
        let per_pair = !crossing.is_empty();
        self.tuned.walk(&self.way, per_pair, inputs, pass)
    }
}

/// Steps in order, and what is taken after each.
pub(super) struct Way {
    pub stops: Vec<Stop>,
    /// What lies at the end.
    pub taps: Vec<Tap>,
}

/// A step, and the streams that are complete after it.
pub(super) struct Stop {
    pub step: Step,
    /// Those that hooks read later.
    pub kept: Vec<TapKey>,
    /// Those that are asked for, by their places in the way's taps.
    pub given: Vec<usize>,
}

impl Way {
    /// The way to `taps` where only the adapters that `acts` accepts are there.
    pub fn of(
        topology: &Topology,
        hooks: &Hooks,
        acts: impl Fn(&str) -> bool + Copy,
        taps: &[Tap],
    ) -> Result<Self> {
        let order = order(topology, hooks, acts, taps)?;
        // What hooks beside the way read is not kept: they do not run.
        let runs = |reader: Reader| match reader {
            Reader::Place(tower, at) => order.reaches(tower, at),
            Reader::Bridge(vision, text) => order.steps.iter().any(|step| {
                matches!(step, Step::Bridge(k) if hooks.bridges.get(*k)
                    .is_some_and(|b| (b.vision, b.text) == (vision, text)))
            }),
            Reader::Head => false,
        };
        let stop = |step: &Step| {
            let after = |tap: Tap| step_of(hooks, acts, tap) == *step;
            let read = hooks.readings.iter().enumerate();
            Stop {
                step: *step,
                kept: read
                    .filter(|(_, r)| acts(&r.owner) && runs(r.reader) && after(r.tap))
                    .map(|(i, _)| TapKey(i))
                    .collect(),
                given: (0..taps.len()).filter(|i| after(taps[*i])).collect(),
            }
        };
        Ok(Self {
            stops: order.steps.iter().map(stop).collect(),
            taps: taps.to_vec(),
        })
    }

    pub fn steps(&self) -> impl Iterator<Item = Step> {
        self.stops.iter().map(|stop| stop.step)
    }
}

/// The order of the steps to `taps` where only the adapters that `acts` accepts are there.
pub(super) fn order(
    topology: &Topology,
    hooks: &Hooks,
    acts: impl Fn(&str) -> bool,
    taps: &[Tap],
) -> Result<Order> {
    let hung = hooks.bridges.iter().enumerate();
    let (places, bridges): (Vec<usize>, Vec<_>) = hung
        .filter(|(_, b)| acts(&b.owner))
        .map(|(k, b)| (k, (b.vision, b.text, b.owner.clone())))
        .unzip();
    let read = hooks.readings.iter().filter(|r| acts(&r.owner)).cloned();
    let asked = taps.iter().map(|tap| Reading::of_head(*tap));
    let readings: Vec<Reading> = read.chain(asked).collect();
    let mut order = order::order(topology, &bridges, &readings)?;
    for step in &mut order.steps {
        if let Step::Bridge(k) = step {
            *k = places[*k];
        }
    }
    Ok(order)
}

/// The labels of the acting adapters that look from one tower into the other.
pub(super) fn crossing(hooks: &Hooks, acts: impl Fn(&str) -> bool) -> Vec<String> {
    let reading = hooks.readings.iter().filter(|r| r.reader.crosses(r.tap));
    let owners = reading.map(|r| &r.owner);
    let mut adapters: Vec<String> = Vec::new();
    for owner in owners.chain(hooks.bridges.iter().map(|b| &b.owner)) {
        if acts(owner) && !adapters.contains(owner) {
            adapters.push(owner.clone());
        }
    }
    adapters
}

/// The step after which the stream at a tap is complete.
pub(super) fn step_of(hooks: &Hooks, acts: impl Fn(&str) -> bool, tap: Tap) -> Step {
    let last_bridge = |tower: Tower, block: usize| {
        hooks.bridges.iter().rposition(|b| {
            let here = match tower {
                Tower::Vision => b.vision,
                Tower::Text => b.text,
            };
            here == block && acts(&b.owner)
        })
    };
    match tap.at {
        At::Embed => Step::Embed(tap.tower),
        At::Block(i) => match last_bridge(tap.tower, i) {
            Some(k) => Step::Bridge(k),
            None => Step::Block(tap.tower, i),
        },
        At::Final => Step::Features(tap.tower),
        At::Pooled => Step::Pooled(tap.tower),
        At::Logits => Step::Logits,
    }
}
