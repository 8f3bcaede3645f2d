//! A law of backbones: every place that a topology offers runs its hooks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use super::{By, Look, Scripted, ToyTask};
use crate::adapter::{Slot, Want};
use crate::backbone::Backbone;
use crate::error::Result;
use crate::hooks::{BranchView, Channels, Hooks};
use crate::pass::Pass;
use crate::recipe::{Recipe, TrainOptions, WeightsChoice};
use crate::registry::Configured;
use crate::site::{Branch, EmbedStep, Moment, Projection, Sites, Tower};
use crate::stream::Stream;
use crate::task::{Batch, Task};
use crate::topology::{Shape, Topology};
use crate::tuned::{Compute, Tuned};
use crate::weights;

/// The places that `backbone`'s topology offers but whose hooks do not run on `batch`, or see
/// another width than their slot says: an adapter there would train nothing, or not fit. None in
/// a sound backbone.
///
/// # Errors
/// The backbone or the batch is not sound.
pub fn silent_places(
    backbone: Configured<dyn Backbone>,
    batch: &Batch,
    compute: Compute,
) -> Result<Vec<String>> {
    let topology = backbone.plugin.topology()?;
    let looks = [
        Look::VisionFinal,
        Look::VisionPooled,
        Look::TextFinal,
        Look::TextPooled,
    ];
    let ran: Arc<Mutex<Vec<(String, Mark)>>> = Arc::default();
    let marks = ran.clone();
    let probe = Scripted::new("probe", everything(&topology), move |slots, _, hooks| {
        let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots {
            marks.extend(probe(slot, hooks));
        }
        Ok(())
    });
    let recipe = Recipe {
        backbone,
        weights: WeightsChoice::default(),
        adapters: vec![probe.configured()],
        task: Configured::<dyn Task>::of(ToyTask::of(&looks))?,
        train: TrainOptions::default(),
    };
    let model = Tuned::new(&recipe, weights::random(&topology, 0)?, compute)?;
    model.forward(batch, &mut Pass::predict())?;
    let ran = ran.lock().unwrap_or_else(PoisonError::into_inner);
    let silent = ran.iter().filter(|(_, mark)| !mark.load(Ordering::Relaxed));
    Ok(silent.map(|(name, _)| name.clone()).collect())
}

type Mark = Arc<AtomicBool>;

fn everything(topology: &Topology) -> Vec<Want> {
    let mut wants = vec![
        Want::Projections {
            sites: Sites::default(),
            default: Projection::ALL,
        },
        Want::Branches {
            sites: Sites::default(),
            default: Branch::ALL,
        },
        Want::Pooled { towers: Vec::new() },
    ];
    let mut attention = false;
    for tower in Tower::BOTH {
        let blocks = &topology.tower(tower).blocks;
        attention |= blocks.iter().any(|b| b.heads > 0);
        let steps = [EmbedStep::Tokens, EmbedStep::Positions, EmbedStep::Norm];
        let between = (0..blocks.len()).flat_map(|i| [Moment::Before(i), Moment::After(i)]);
        let moments = steps.into_iter().map(Moment::Embed).chain(between);
        wants.push(Want::Streams {
            tower,
            moments: moments.collect(),
        });
    }
    if attention {
        wants.push(Want::KeyValues {
            sites: Sites::default(),
        });
    }
    wants
}

/// Hangs hooks that change nothing into a slot; the mark of each says whether it ran.
fn probe(slot: &Slot, hooks: &mut Hooks) -> Vec<(String, Mark)> {
    let mut marks = Vec::new();
    let mut mark = |what: &str| {
        let mark = Mark::default();
        marks.push((format!("{}{what}", slot), mark.clone()));
        move |as_said: bool| mark.store(as_said, Ordering::Relaxed)
    };
    let channels = |x: &Tensor, map: bool, width: usize| match map {
        true => x.rank() == 4 && x.dims()[1] == width,
        false => x.dims().last() == Some(&width),
    };
    match slot {
        Slot::Projection(slot) => {
            let (ran, read) = (mark(""), mark(".input"));
            let (input, output) = (slot.input, slot.output);
            let map = slot.channels() == Channels::Map;
            let ids = slot.shape == Shape::Embedding;
            hooks.output(
                slot,
                By(move |x: &Tensor, _: &mut Pass| {
                    ran(channels(x, map, output));
                    Ok(x.clone())
                }),
            );
            hooks.input(
                slot,
                By(move |x: &Tensor, _: &mut Pass| {
                    read(ids || channels(x, map, input));
                    Ok(x.clone())
                }),
            );
        }
        Slot::Branch(slot) => {
            let (ran, normed) = (mark(""), mark(".norm"));
            let (map, input, output) = (slot.stream.map, slot.before.width, slot.width);
            hooks.branch(
                slot,
                By(move |view: BranchView, y: &Tensor, _: &mut Pass| {
                    ran(channels(y, map, output) && channels(view.input, map, input));
                    Ok(y.clone())
                }),
            );
            hooks.norm(
                slot,
                By(move |x: &Tensor, _: &mut Pass| {
                    normed(channels(x, map, input));
                    Ok(x.clone())
                }),
            );
        }
        Slot::Stream(slot) => {
            let ran = mark("");
            let info = slot.stream;
            hooks.stream(
                slot,
                By(move |stream: Stream, _: &mut Pass| {
                    let grid = match info.grid {
                        Some((h, w)) => stream.grid()?.dims()[2..] == [h, w],
                        None => true,
                    };
                    ran(grid && channels(&stream.data, info.map, info.width));
                    Ok(stream)
                }),
            );
        }
        Slot::KeyValue(slot) => {
            let ran = mark("");
            let width = slot.width;
            hooks.key_value(
                slot,
                By(move |k: Tensor, v: Tensor, _: &mut Pass| {
                    ran(channels(&k, false, width) && channels(&v, false, width));
                    Ok((k, v))
                }),
            );
        }
        Slot::Pooled(slot) => {
            let ran = mark("");
            let width = slot.width;
            hooks.pooled(
                slot,
                By(move |x: &Tensor, _: &mut Pass| {
                    ran(x.rank() == 2 && channels(x, false, width));
                    Ok(x.clone())
                }),
            );
        }
        Slot::Stage(_) | Slot::Logits(_) | Slot::Parameter(_) => {}
    }
    marks
}
