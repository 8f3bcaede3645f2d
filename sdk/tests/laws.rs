//! Every law can be broken: plugins with one fault each, and the law that catches it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Life, Progress, Slot, Want};
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::hooks::{Hooks, PlaceHooks, Update};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::registry::{AdapterEntry, Configured};
use twinspan_sdk::site::{Projection, Sites, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::testkit::laws::{Law, Outcome, Verdict, of_adapter, of_backbone, round_trips};
use twinspan_sdk::testkit::{By, Scripted, Toy};
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Result, register};

/// ΔW, begun at zero, on every query and value of the toy, or on what `place` names.
struct Delta {
    delta: Parameter,
    /// What `delta` tells of itself is this many times what `forward` adds.
    told: f64,
    /// Steps so far count in `forward`.
    steps: Arc<AtomicUsize>,
}

impl Update for Delta {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let y = ops::linear(x, &self.delta.tensor(pass)?, None)?;
        Ok((y * (1.0 + self.steps.load(Ordering::Relaxed) as f64))?)
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        Ok((self.delta.tensor(pass)? * self.told)?)
    }
}

const ALL: Capabilities = Capabilities {
    identity_at_start: true,
    mergeable: true,
    trainable: true,
    by_class: false,
    interchange: &[],
};

fn values() -> Want {
    Want::Projections {
        sites: Sites::default(),
        default: &[Projection::Value],
    }
}

/// A sound update but for what is asked for.
fn updates(start: Init, told: f64) -> Scripted {
    Scripted::new("delta", vec![values()], move |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            let shape = [slot.output, slot.input];
            let delta = params.within(&slot.name).trained("delta", &shape, start)?;
            let steps = Arc::default();
            hooks.update(slot, Delta { delta, told, steps });
        }
        Ok(())
    })
    .promising(ALL)
}

/// A change of the pooled vectors by a trained vector.
fn pooled(
    change: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Clone + Send + Sync + 'static,
) -> Scripted {
    let want = Want::Pooled { towers: vec![] };
    Scripted::new("pooled", vec![want], move |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::pooled) {
            let name = slot.tower.to_string();
            let by = params
                .within(name)
                .trained("by", &[slot.width], Init::Zeros)?;
            let change = change.clone();
            let hook = move |x: &Tensor, pass: &mut Pass| change(x, &by.tensor(pass)?);
            hooks.pooled(slot, By(hook));
        }
        Ok(())
    })
}

fn verdicts(adapter: Scripted) -> Vec<Verdict> {
    let toy = Configured::<dyn Backbone>::of(Toy::default()).unwrap();
    of_adapter(&adapter.configured(), &toy)
}

/// The laws that are broken, and how.
fn broken(verdicts: &[Verdict]) -> Vec<(Law, &str)> {
    verdicts
        .iter()
        .filter_map(|v| match &v.outcome {
            Outcome::Broken(what) => Some((v.law, what.as_str())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_sound_adapter_keeps_every_law() {
    let verdicts = verdicts(updates(Init::Zeros, 1.0));
    let held: Vec<Law> = verdicts
        .iter()
        .filter(|v| v.outcome == Outcome::Held)
        .map(|v| v.law)
        .collect();
    let all = [
        Law::Start,
        Law::Gradients,
        Law::Saved,
        Law::Permutation,
        Law::Merge,
        Law::Learning,
    ];
    assert_eq!(held, all, "{verdicts:?}");
}

#[test]
fn an_adapter_that_is_no_identity_breaks_the_start_alone() {
    let verdicts = verdicts(updates(Init::Normal(0.01), 1.0));
    let broken = broken(&verdicts);
    assert!(matches!(&broken[..], [(Law::Start, _)]), "{broken:?}");
}

#[test]
fn a_fold_that_disagrees_breaks_merging_alone() {
    let verdicts = verdicts(updates(Init::Zeros, 0.999));
    let broken = broken(&verdicts);
    assert!(matches!(&broken[..], [(Law::Merge, _)]), "{broken:?}");
}

#[test]
fn a_change_outside_of_weights_is_not_mergeable() {
    let adapter = pooled(|x, by| Ok(ops::add(x, by)?)).promising(ALL);
    let verdicts = verdicts(adapter);
    let broken = broken(&verdicts);
    assert!(matches!(&broken[..], [(Law::Merge, _)]), "{broken:?}");
}

#[test]
fn a_parameter_that_nothing_reads_breaks_the_gradients() {
    let adapter = pooled(|x, by| Ok(ops::add(x, &by.detach())?));
    let verdicts = verdicts(adapter);
    let broken = broken(&verdicts);
    assert_eq!(
        broken[0],
        (Law::Gradients, "`pooled.text.by` gets no gradient")
    );
}

#[test]
fn a_gradient_of_what_does_not_train_is_seen() {
    let want = Want::Pooled {
        towers: vec![Tower::Text],
    };
    let adapter = Scripted::new("leak", vec![want], |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::pooled) {
            let by = params.trained("by", &[slot.width], Init::Zeros)?;
            let own = candle_core::Var::from_tensor(&by.tensor(&Pass::predict())?)?;
            hooks.pooled(
                slot,
                By(move |x: &Tensor, pass: &mut Pass| {
                    let by = ops::add(&by.tensor(pass)?, own.as_tensor())?;
                    Ok(ops::add(x, &by)?)
                }),
            );
        }
        Ok(())
    });
    let verdicts = verdicts(adapter);
    let broken = broken(&verdicts);
    let what = "1 tensors that do not train get a gradient";
    assert_eq!(broken, [(Law::Gradients, what)]);
}

#[test]
fn a_head_that_mixes_items_breaks_the_permutation() {
    // Each item is moved by the first of the batch.
    let adapter = pooled(|x, by| {
        let first = x.narrow(0, 0, 1)?;
        Ok(ops::add(x, &ops::mul(&first, by)?)?)
    });
    let verdicts = verdicts(adapter);
    let broken = broken(&verdicts);
    assert!(matches!(&broken[..], [(Law::Permutation, _)]), "{broken:?}");
}

struct Counting(Arc<AtomicUsize>);

impl Life for Counting {
    fn after_step(&mut self, _progress: Progress, _gradients: &GradStore) -> Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn state_that_is_not_saved_breaks_saving_alone() {
    let adapter = Scripted::living("counting", vec![values()], |slots, params, hooks| {
        let steps = Arc::new(AtomicUsize::new(0));
        for slot in slots.iter().filter_map(Slot::projection) {
            let shape = [slot.output, slot.input];
            let mut here = params.within(&slot.name);
            let update = Delta {
                delta: here.trained("delta", &shape, Init::Zeros)?,
                told: 1.0,
                steps: steps.clone(),
            };
            hooks.update(slot, update);
        }
        Ok(Box::new(Counting(steps)))
    });
    let verdicts = verdicts(adapter.promising(ALL));
    let broken = broken(&verdicts);
    assert!(matches!(&broken[..], [(Law::Saved, _)]), "{broken:?}");
}

#[test]
fn a_gradient_of_the_wrong_sign_breaks_the_learning() {
    // by for its value, -by for its gradient.
    let adapter = pooled(|x, by| {
        let turned = ops::add(&(by.detach() * 2.0)?, &by.neg()?)?;
        Ok(ops::add(x, &turned)?)
    });
    let verdicts = verdicts(adapter);
    let broken = broken(&verdicts);
    assert!(matches!(&broken[..], [(Law::Learning, _)]), "{broken:?}");
}

#[test]
fn what_is_not_promised_or_has_no_place_is_skipped_with_the_reason() {
    let nothing = Capabilities {
        trainable: false,
        ..Capabilities::default()
    };
    let idle = || {
        let want = Want::Pooled { towers: vec![] };
        Scripted::new("idle", vec![want], |_, _, _| Ok(()))
    };
    let lines: Vec<String> = verdicts(idle().promising(nothing))
        .iter()
        .map(Verdict::to_string)
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    adapter idle on toy, identity at the start: skipped, it declares no identity at the start
    adapter idle on toy, gradients: skipped, it declares no trainable parameters
    adapter idle on toy, saved and loaded: held
    adapter idle on toy, permutation: held
    adapter idle on toy, merged: skipped, it does not declare to be mergeable
    adapter idle on toy, learning: skipped, it declares no trainable parameters
    ");
    // What says that it trains, and does not, is not skipped.
    let trains = verdicts(idle());
    let what = "`idle` declares to train, and has no parameter";
    assert_eq!(broken(&trains)[0], (Law::Gradients, what));

    let nowhere = Scripted::new(
        "nowhere",
        vec![Want::Projections {
            sites: Sites::default(),
            default: &[Projection::Conv2],
        }],
        |_, _, _| Ok(()),
    );
    let lines = verdicts(nowhere);
    let reasons = lines
        .iter()
        .filter(|v| matches!(&v.outcome, Outcome::Skipped(why) if why.contains("matches no site")));
    assert_eq!(
        reasons.map(|v| v.law).collect::<Vec<_>>(),
        [Law::Gradients, Law::Saved, Law::Permutation, Law::Learning]
    );
}

/// Writes its rank as one less than it is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Forgetful {
    #[serde(serialize_with = "one_less")]
    rank: usize,
}

fn one_less<S: serde::Serializer>(rank: &usize, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_u64(*rank as u64 - 1)
}

impl Default for Forgetful {
    fn default() -> Self {
        Self { rank: 8 }
    }
}

impl Plugin for Forgetful {
    const NAME: &'static str = "forgetful";
    const ABOUT: &'static str = "options that are not written as they are";
    const OPTIONS: &'static [Opt] = &[Opt::new("rank", "integer", "one more than it says")];
}

impl Adapter for Forgetful {
    fn wants(&self) -> Vec<Want> {
        vec![values()]
    }

    fn install(&self, _: &[Slot], _: &mut Params, _: &mut Hooks) -> Result<Installed> {
        Ok(Box::new(Idle))
    }
}

register!(adapter: Forgetful);

#[test]
fn options_that_are_written_otherwise_break_the_round_trip() {
    let verdicts = round_trips::<AdapterEntry>().unwrap();
    assert_eq!(
        broken(&verdicts),
        [(Law::RoundTrip, "`rank` is written as it is not read")]
    );
}

#[test]
fn the_toy_keeps_the_laws_of_backbones() {
    let verdicts = of_backbone(&Configured::<dyn Backbone>::of(Toy::default()).unwrap());
    assert_eq!(verdicts.len(), 4);
    assert_eq!(broken(&verdicts), []);
}

/// The toy, but that the blocks of its vision tower call no hook.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Deaf {}

impl Plugin for Deaf {
    const NAME: &'static str = "deaf";
    const ABOUT: &'static str = "declares places at which nothing is called";
    const OPTIONS: &'static [Opt] = &[];
}

impl Backbone for Deaf {
    fn topology(&self) -> Result<Topology> {
        Toy::default().topology()
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let toy = Toy::default().load(weights)?;
        let vision = Box::new(DeafTower(toy.vision));
        Ok(Encoders { vision, ..toy })
    }

    fn preparation(&self) -> Preparation {
        Toy::default().preparation()
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        Toy::default().tokenizer(path)
    }
}

struct DeafTower(Box<dyn Encoder>);

impl Encoder for DeafTower {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        self.0.tokens(input, hooks, pass)
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        self.0.positions(stream, pass)
    }

    fn norm(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        self.0.norm(stream, pass)
    }

    fn block(
        &self,
        index: usize,
        stream: Stream,
        _: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        self.0.block(index, stream, &PlaceHooks::default(), pass)
    }

    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        self.0.features(stream, hooks, pass)
    }

    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        self.0.pooled(stream, hooks, pass)
    }
}

#[test]
fn a_tower_that_calls_no_hook_breaks_the_places() {
    let verdicts = of_backbone(&Configured::<dyn Backbone>::of(Deaf {}).unwrap());
    let broken = broken(&verdicts);
    let [(Law::Places, what)] = &broken[..] else {
        panic!("{broken:?}");
    };
    assert!(what.contains("query") && what.contains("vision"), "{what}");
}
