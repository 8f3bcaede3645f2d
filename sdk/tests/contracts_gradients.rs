//! Gradients: for what trains and for nothing else; statistics: once a pass, when committed.

mod contracts;

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor, TensorId};
use contracts::{Adapters, Seen, aligned, features, model, values};
use twinspan_sdk::adapter::{Slot, Want};
use twinspan_sdk::hooks::Affine;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::recipe::BatchNormChoice;
use twinspan_sdk::site::{At, EmbedStep, Moment, Projection, Sites, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::testkit::{By, Look, Scripted, ToyTask, recipe, tuned};
use twinspan_sdk::tuned::Tuned;

/// A trained scale on the values of some blocks.
fn gain(towers: &[Tower], blocks: &[usize]) -> Scripted {
    let want = Want::Projections {
        sites: Sites {
            towers: towers.to_vec(),
            blocks: blocks.to_vec(),
            ..Sites::default()
        },
        default: &[Projection::Value],
    };
    Scripted::new("gain", vec![want], |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            let mut params = params.within(&slot.name);
            let scale = Some(params.trained("scale", &[slot.output], Init::Ones)?);
            let channels = slot.channels();
            hooks.output(
                slot,
                Affine {
                    scale,
                    shift: None,
                    channels,
                },
            );
        }
        Ok(())
    })
}

/// A trained mixture of the words into the vision stream.
fn meeting() -> Scripted {
    let want = Want::Streams {
        tower: Tower::Vision,
        moments: vec![Moment::After(1)],
    };
    let tap = Tap::text(At::Final);
    Scripted::new("meeting", vec![want], move |slots, params, hooks| {
        let words = hooks.tap(&slots[0], tap)?;
        let mix = params.trained("mix", &[8, 8], Init::Normal(0.3))?;
        hooks.stream(
            slots[0].stream().unwrap(),
            By(move |stream: Stream, pass: &mut Pass| {
                let word = pass.read(words)?.content()?.mean_keepdim(1)?;
                let word = ops::linear(&word, &mix.tensor(pass)?, None)?;
                Ok(stream.with(ops::add(&stream.data, &word)?))
            }),
        );
        Ok(())
    })
    .reading(move |_| vec![tap])
}

/// Whether the stream is tracked, at every moment between the blocks of both towers.
fn watch(seen: &Seen<(Tower, Moment, bool)>) -> Adapters {
    let one = |tower: Tower| {
        let notes = seen.clone();
        let mut moments = vec![Moment::Embed(EmbedStep::Norm)];
        moments.extend((0..3).map(Moment::After));
        Scripted::new(
            "watch",
            vec![Want::Streams { tower, moments }],
            move |slots, _, hooks| {
                for slot in slots.iter().filter_map(Slot::stream) {
                    let (notes, moment) = (notes.clone(), slot.moment);
                    hooks.stream(
                        slot,
                        By(move |stream: Stream, _: &mut Pass| {
                            notes.see((tower, moment, stream.data.track_op()));
                            Ok(stream)
                        }),
                    );
                }
                Ok(())
            },
        )
    };
    vec![
        one(Tower::Vision).configured(),
        one(Tower::Text).configured(),
    ]
}

fn frozen(model: &Tuned) -> Vec<(String, Tensor)> {
    let names = model.base.names().map(str::to_string);
    names
        .map(|n| {
            (
                n.clone(),
                model
                    .base
                    .get(&n)
                    .unwrap()
                    .tensor(DType::F64, &Device::Cpu)
                    .unwrap(),
            )
        })
        .collect()
}

#[test]
fn gradients_are_of_what_trains_and_of_nothing_else() {
    let everything = ToyTask::default;
    let logits = || ToyTask::of(&[Look::Logits]).by_item();
    let both = || gain(&[], &[]).configured();
    // With one tower frozen, the similarities multiply what trains by what does not.
    let text = || gain(&[Tower::Text], &[1]).configured();
    only_what_trains(everything(), Vec::new());
    only_what_trains(everything(), vec![both()]);
    only_what_trains(everything(), vec![both(), meeting().configured()]);
    only_what_trains(logits(), vec![both()]);
    only_what_trains(logits(), vec![text()]);
}

fn only_what_trains(task: ToyTask, adapters: Adapters) {
    let model = model(task, adapters);
    let before = frozen(&model);
    let loss = model.loss(&aligned(2), &mut Pass::train(0)).unwrap();
    let gradients = loss.backward().unwrap();
    for (name, trained) in &model.overlay.trained {
        let gradient = gradients.get(&trained.var);
        assert!(
            gradient.is_some_and(|g| g.dims() == trained.var.dims()),
            "{name}"
        );
    }
    // candle leaves in the store what belongs to leaves alone: here, what trains.
    let left: BTreeSet<_> = gradients.get_ids().map(text).collect();
    let trained = model.overlay.trained.values();
    let wanted: BTreeSet<_> = trained.map(|t| text(&t.var.as_tensor().id())).collect();
    assert_eq!(left, wanted);
    for (name, value) in &before {
        assert!(gradients.get(value).is_none(), "{name}");
        let now = model.base.get(name).unwrap();
        let now = now.tensor(DType::F64, &Device::Cpu).unwrap();
        assert_eq!(values(value), values(&now), "{name}");
    }
}

/// candle's ids compare but do not sort.
fn text(id: &TensorId) -> String {
    format!("{id:?}")
}

#[test]
fn gradients_stop_at_the_first_block_that_trains() {
    let seen = Seen::new();
    let mut adapters = vec![gain(&[Tower::Vision], &[1, 2]).configured()];
    adapters.extend(watch(&seen));
    let plan = twinspan_sdk::plan::plan(
        &recipe(ToyTask::default(), {
            vec![gain(&[Tower::Vision], &[1, 2]).configured()]
        })
        .unwrap(),
    )
    .unwrap();
    assert_eq!(plan.first_trainable.vision.as_deref(), Some("blocks.1"));
    assert_eq!(plan.first_trainable.text, None);
    let model = model(ToyTask::default(), adapters);
    model.loss(&aligned(2), &mut Pass::train(0)).unwrap();
    let tracked = |(tower, moment, _): &(Tower, Moment, bool)| {
        *tower == Tower::Vision && matches!(moment, Moment::After(1 | 2))
    };
    let notes = seen.take();
    assert_eq!(notes.len(), 8);
    for note in &notes {
        assert_eq!(note.2, tracked(note), "{note:?}");
    }
    // A pass that predicts records nothing at all.
    let mut pass = Pass::predict();
    for stream in model.forward(&aligned(2), &mut pass).unwrap() {
        assert!(!stream.data.track_op());
    }
    assert!(!model.logits(&aligned(2), &mut pass).unwrap().track_op());
    assert!(seen.take().iter().all(|(_, _, tracked)| !tracked));
}

#[test]
fn a_pass_can_predict_with_gradients_or_drop_without_them() {
    let model = model(ToyTask::default(), vec![gain(&[], &[]).configured()]);
    let mut pass = Pass::train(3);
    pass.gradients = false;
    assert!(!model.logits(&aligned(2), &mut pass).unwrap().track_op());
    let mut pass = Pass::predict();
    pass.gradients = true;
    assert!(model.logits(&aligned(2), &mut pass).unwrap().track_op());
    assert_eq!(pass.dropout(0.5), ops::Dropout::default());
}

fn with_statistics(choice: BatchNormChoice) -> Tuned {
    let mut recipe = recipe(ToyTask::default(), Vec::new()).unwrap();
    recipe.weights.batch_norm = choice;
    tuned(&recipe).unwrap()
}

#[test]
fn statistics_that_train_move_once_a_pass_and_when_committed() {
    let model = with_statistics(BatchNormChoice::Train);
    let (mean, var) = ("vision.batch.running_mean", "vision.batch.running_var");
    let now = |name: &str| values(&model.overlay.buffers[name].tensor());
    assert_eq!((now(mean), now(var)), (vec![0.0; 8], vec![1.0; 8]));

    let batch = aligned(3);
    let patch = model.base.get("vision.patch.weight").unwrap();
    let patch = patch.tensor(DType::F64, &Device::Cpu).unwrap();
    let conv = ops::Conv {
        stride: 2,
        padding: 0,
    };
    let map = ops::conv2d(&batch.images, &patch, None, conv).unwrap();
    let ones = Tensor::ones(8, DType::F64, &Device::Cpu).unwrap();
    let (_, wanted) = ops::batch_norm_train(&map, &ones, &ones, 1e-5).unwrap();

    let mut pass = Pass::train(0);
    let loss = model.loss(&batch, &mut pass).unwrap();
    assert_eq!(now(mean), [0.0; 8]);
    loss.backward().unwrap();
    pass.commit().unwrap();
    for (got, batch) in now(mean).iter().zip(values(&wanted.mean)) {
        assert!((got - 0.1 * batch).abs() < 1e-12);
    }
    for (got, batch) in now(var).iter().zip(values(&wanted.var_unbiased)) {
        assert!((got - (0.9 + 0.1 * batch)).abs() < 1e-12);
    }
    // A second commit has nothing left to write.
    let once = now(mean);
    pass.commit().unwrap();
    assert_eq!(now(mean), once);
    // Predicting uses them and moves nothing.
    let mut pass = Pass::predict();
    model.forward(&batch, &mut pass).unwrap();
    pass.commit().unwrap();
    assert_eq!(now(mean), once);
    let frozen = with_statistics(BatchNormChoice::Frozen);
    let difference =
        contracts::distance(&features(&model, &batch)[0], &features(&frozen, &batch)[0]);
    assert!(difference > 1e-3);
}

#[test]
fn statistics_of_a_frozen_tower_stay() {
    let model = with_statistics(BatchNormChoice::Frozen);
    assert!(model.overlay.buffers.is_empty());
    let batch = aligned(2);
    let before = features(&model, &batch);
    let mut pass = Pass::train(0);
    let trained = model.forward(&batch, &mut pass).unwrap();
    pass.commit().unwrap();
    for ((before, trained), after) in before.iter().zip(&trained).zip(features(&model, &batch)) {
        assert_eq!(values(before), values(&trained.data));
        assert_eq!(values(before), values(&after));
    }
}
