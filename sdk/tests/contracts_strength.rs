//! Adapters on, off and in part: what a model gives with an adapter disabled, scaled or gone.

mod contracts;

use candle_core::{DType, Device, Tensor};
use contracts::{REORDERED, aligned, distance, features, model, values};
use twinspan_sdk::adapter::{Slot, Want};
use twinspan_sdk::hooks::{Affine, BranchView, Channels, Update};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::recipe::GroupOptions;
use twinspan_sdk::site::{At, Branch, EmbedStep, Moment, Projection, Role, Sites, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::testkit::{self, By, Look, Scripted, ToyTask};
use twinspan_sdk::tuned::{Inputs, Tuned};
use twinspan_sdk::{Error, Result, Step};

const START: Init = Init::Normal(0.5);

/// y ⊙ scale behind every query.
fn gain() -> Scripted {
    let want = Want::Projections {
        sites: Sites::default(),
        default: &[Projection::Query],
    };
    Scripted::new("gain", vec![want], |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            let mut here = params.within(&slot.name);
            let scale = Some(here.trained("scale", &[slot.output], START)?);
            let shift = Some(here.trained("shift", &[slot.output], START)?);
            let channels = Channels::Last;
            hooks.output(
                slot,
                Affine {
                    scale,
                    shift,
                    channels,
                },
            );
        }
        Ok(())
    })
}

/// A dense update of every value.
struct Dense(Parameter);

impl Update for Dense {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Ok(ops::linear(x, &self.0.tensor(pass)?, None)?)
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        self.0.tensor(pass)
    }
}

fn dense() -> Scripted {
    let want = Want::Projections {
        sites: Sites::default(),
        default: &[Projection::Value],
    };
    Scripted::new("dense", vec![want], |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            let shape = [slot.output, slot.input];
            let delta = params.within(&slot.name).trained("delta", &shape, START)?;
            hooks.update(slot, Dense(delta));
        }
        Ok(())
    })
}

/// Half of the MLP's output again.
fn branch() -> Scripted {
    let want = Want::Branches {
        sites: Sites::default(),
        default: &[Branch::Mlp],
    };
    Scripted::new("branch", vec![want], |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::branch) {
            hooks.branch(
                slot,
                By(|_: BranchView, y: &Tensor, _: &mut Pass| Ok((y * 1.5)?)),
            );
        }
        Ok(())
    })
}

/// Each tower's stream moved by the other's mean.
fn bridge() -> Scripted {
    let want = Want::Stages { stages: vec![2] };
    Scripted::new("bridge", vec![want], |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::stage) {
            hooks.bridge(
                slot,
                By(|v: Stream, t: Stream, _: &mut Pass| {
                    let by = |s: &Stream| s.data.mean_keepdim(1);
                    let vision = v.with(ops::add(&v.data, &by(&t)?)?);
                    Ok((vision, t.with(ops::add(&t.data, &by(&v)?)?)))
                }),
            );
        }
        Ok(())
    })
}

/// A prompt before the positions of the text.
fn prompt() -> Scripted {
    let want = Want::Streams {
        tower: Tower::Text,
        moments: vec![Moment::Embed(EmbedStep::Tokens)],
    };
    Scripted::new("prompt", vec![want], |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::stream) {
            let words = params.trained("words", &[2, slot.stream.width], START)?;
            hooks.stream(
                slot,
                By(move |s: Stream, pass: &mut Pass| {
                    let words = words.tensor(pass)?.unsqueeze(0)?;
                    let words = words.repeat((s.batch()?, 1, 1))?;
                    Ok(s.insert(1, &words, "prompt")?)
                }),
            );
        }
        Ok(())
    })
}

fn biases() -> Scripted {
    let want = Want::Parameters {
        roles: vec![Role::Bias],
        sites: Sites::default(),
    };
    Scripted::new("biases", vec![want], |slots, params, _| {
        for slot in slots.iter().filter_map(Slot::parameter) {
            params.existing(slot)?;
        }
        Ok(())
    })
}

fn bits(model: &Tuned) -> Vec<Vec<u64>> {
    let outputs = features(model, &aligned(2));
    let bits = |t: &Tensor| values(t).into_iter().map(f64::to_bits).collect();
    outputs.iter().map(bits).collect()
}

/// Moves what trains away from its start.
fn stir(model: &Tuned) {
    for (name, trained) in &model.overlay.trained {
        let shape = trained.var.dims();
        let noise = START.tensor(5, name, shape, DType::F64, &Device::Cpu);
        let moved = trained.var.as_detached_tensor().add(&noise.unwrap());
        trained.var.set(&moved.unwrap()).unwrap();
    }
}

#[test]
fn a_disabled_adapter_leaves_the_bits_of_a_model_without_it() {
    let adapters: [fn() -> Scripted; 6] = [gain, dense, branch, bridge, prompt, biases];
    for adapter in adapters {
        let without = model(ToyTask::default(), vec![gain().configured()]);
        let mut with = model(
            ToyTask::default(),
            vec![gain().configured(), adapter().configured()],
        );
        let label = with.labels().nth(1).unwrap().to_string();
        for (name, trained) in &with.overlay.trained {
            if trained.owner == label {
                let noise = START.tensor(5, name, trained.var.dims(), DType::F64, &Device::Cpu);
                trained.var.set(&noise.unwrap()).unwrap();
            }
        }
        let before = bits(&with);
        assert!(before != bits(&without), "{label}");
        with.disable(&label).unwrap();
        assert_eq!(with.strength(&label).unwrap(), 0.0);
        assert!(bits(&with) == bits(&without), "{label}");
        assert!(with.steps().eq(without.steps()), "{label}");
        with.enable(&label).unwrap();
        assert!(bits(&with) == before, "{label}");
        with.scale(&label, 0.0).unwrap();
        assert!(bits(&with) == bits(&without), "{label}");
    }
}

#[test]
fn a_scale_is_a_part_of_the_change() {
    // One branch, so that the pooled text is linear in what the adapter changes.
    let want = Want::Pooled {
        towers: vec![Tower::Text],
    };
    let shift = || {
        Scripted::new("shift", vec![want.clone()], |slots, _, hooks| {
            let slot = slots[0].pooled().ok_or_else(|| Error::plugin("no slot"))?;
            hooks.pooled(
                slot,
                By(|x: &Tensor, _: &mut Pass| Ok(ops::add(x, &x.sqr()?)?)),
            );
            Ok(())
        })
    };
    let task = ToyTask::of(&[Look::TextPooled]);
    let bare = features(&model(task.clone(), Vec::new()), &aligned(2)).remove(0);
    let mut tuned = model(task, vec![shift().configured()]);
    tuned.scale("shift", 0.25).unwrap();
    let quarter = features(&tuned, &aligned(2)).remove(0);
    let expected = (&bare + (bare.sqr().unwrap() * 0.25).unwrap()).unwrap();
    assert!(distance(&quarter, &expected) < REORDERED);
    tuned.disable("shift").unwrap();
    tuned.enable("shift").unwrap();
    assert_eq!(tuned.strength("shift").unwrap(), 0.25);
}

#[test]
fn existing_parameters_scale_between_base_and_overlay() {
    let mut tuned = model(ToyTask::default(), vec![biases().configured()]);
    stir(&tuned);
    let halved = model(ToyTask::default(), vec![biases().configured()]);
    for (name, trained) in &halved.overlay.trained {
        let start = trained.var.as_detached_tensor();
        let end = tuned.overlay.trained[name].var.as_detached_tensor();
        // The head is no adapter and is not scaled.
        let part = if trained.owner == "biases" { 0.5 } else { 1.0 };
        let moved = start.add(&(end.sub(&start).unwrap() * part).unwrap());
        trained.var.set(&moved.unwrap()).unwrap();
    }
    tuned.scale("biases", 0.5).unwrap();
    assert!(bits(&tuned) == bits(&halved));
}

#[test]
fn what_has_no_half_says_so() {
    let mut tuned = model(
        ToyTask::default(),
        vec![prompt().configured(), gain().configured()],
    );
    let message = |result: Result<()>| result.unwrap_err().to_string();
    insta::assert_snapshot!(message(tuned.scale("prompt", 0.5)), @"`prompt` cannot be scaled by 0.5: it puts tokens into a stream or takes them out; it can be enabled and disabled");
    insta::assert_snapshot!(message(tuned.scale("gain", f64::NAN)), @"`gain` cannot be scaled by NaN: a scale is a finite number; it can be enabled and disabled");
    insta::assert_snapshot!(message(tuned.disable("gian")), @"no adapter is labelled `gian` (did you mean `gain`?); there are: prompt, gain");
}

#[test]
fn an_adapter_that_is_gone_leaves_the_others_as_they_are() {
    let adapters = || {
        vec![
            gain().configured(),
            biases().configured(),
            gain().configured(),
        ]
    };
    let mut recipe = testkit::recipe(ToyTask::default(), adapters()).unwrap();
    recipe.train.groups = ["gain", "gain-2"]
        .map(|label| {
            let rate = Some(label.len() as f64);
            let group = GroupOptions {
                rate,
                ..Default::default()
            };
            (label.to_string(), group)
        })
        .into();
    let mut tuned = testkit::tuned(&recipe).unwrap();
    stir(&tuned);
    for (lost, left) in [("gain", ["biases", "gain"]), ("biases", ["gain", "gain-2"])] {
        let (smaller, without) = tuned.without(&recipe, lost).unwrap();
        assert_eq!(smaller.labels(), left);
        tuned.disable(lost).unwrap();
        assert!(bits(&without) == bits(&tuned), "{lost}");
        tuned.enable(lost).unwrap();
        let names: Vec<_> = without.overlay.tensors().into_keys().collect();
        let planned = twinspan_sdk::tuned::planned_overlay(&smaller).unwrap();
        assert_eq!(names, planned.tensors().into_keys().collect::<Vec<_>>());
    }
    let (smaller, _) = tuned.without(&recipe, "gain").unwrap();
    assert_eq!(smaller.train.groups["gain"].rate, Some(6.0));
    assert_eq!(smaller.train.groups.len(), 1);
}

#[test]
fn a_way_runs_the_towers_it_needs_and_no_other() {
    let mut tuned = model(
        ToyTask::default(),
        vec![gain().configured(), bridge().configured()],
    );
    let batch = aligned(3);
    let alone = Inputs {
        tokens: Some(batch.tokens.clone()),
        ..Inputs::default()
    };
    let pooled = [Tap::text(At::Pooled)];
    let early = [Tap::text(At::Block(0))];
    let walk = |tuned: &Tuned, taps: &[Tap]| -> Result<Tensor> {
        let mut found = tuned.route(taps)?.walk(&alone, &mut Pass::predict())?;
        Ok(found.remove(0).data)
    };
    // Before the bridge the text runs alone, behind it cannot.
    assert_eq!(walk(&tuned, &early).unwrap().dims(), [3, 6, 8]);
    insta::assert_snapshot!(walk(&tuned, &pooled).unwrap_err().to_string(), @"text.pooled cannot be had without pictures: `bridge` looks from one tower into the other; give both, or disable it");
    assert_eq!(tuned.route(&pooled).unwrap().crossing(), ["bridge"]);

    tuned.disable("bridge").unwrap();
    let bare = model(ToyTask::default(), vec![gain().configured()]);
    let expected = &features(&bare, &batch)[5];
    assert_eq!(values(&walk(&tuned, &pooled).unwrap()), values(expected));
    let nothing = tuned.route(&[Tap::vision(At::Final)]).unwrap();
    let error = nothing.walk(&alone, &mut Pass::predict()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"pictures are needed, and none are given");
    assert!(tuned.steps().any(|s| s == Step::Embed(Tower::Vision)));
}
