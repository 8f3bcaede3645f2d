//! The life of an adapter: starts from weights and from the model, penalties, what happens after
//! a backward, and what is carried beside a tower whose items become pairs.

mod contracts;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use contracts::{Seen, aligned, distance, features, model, values};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{Life, Progress, Slot, Source, Want};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Buffer, Init, Parameter};
use twinspan_sdk::pass::{Pass, TapKey};
use twinspan_sdk::recipe::TrainOptions;
use twinspan_sdk::site::{At, Moment, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::testkit::{By, Look, Scripted, ToyTask, batch};
use twinspan_sdk::train::Trainer;

/// A scale of the pooled text that starts from a frozen weight, is pulled to zero, and counts
/// its steps: PiSSA's, AdaLoRA's and a schedule's needs in one.
struct Lived {
    scale: Parameter,
    steps: Buffer,
    gradients: Seen<(usize, Vec<f64>)>,
}

impl Life for Lived {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        assert!(source.tokenizer.is_none() && source.training.is_none());
        let frozen = source.base.get("text.joint.weight").unwrap();
        let weight = frozen.tensor(DType::F64, &Device::Cpu)?;
        self.scale.set(&weight.sqr()?.sum(1)?)
    }

    fn penalty(&self, pass: &Pass) -> Result<Option<Tensor>> {
        Ok(Some(self.scale.tensor(pass)?.sum_all()?))
    }

    fn after_step(&mut self, progress: Progress, gradients: &GradStore) -> Result<()> {
        self.steps.set(&(self.steps.tensor() + 1.0)?)?;
        let Parameter::Trained(var) = &self.scale else {
            panic!("the scale trains");
        };
        let gradient = gradients.get(var).unwrap();
        self.gradients.see((progress.step, values(gradient)));
        Ok(())
    }
}

#[test]
fn an_adapter_lives_through_start_loss_and_backward() {
    let seen = Seen::new();
    let gradients = seen.clone();
    let want = Want::Pooled {
        towers: vec![Tower::Text],
    };
    let adapter = Scripted::living("lived", vec![want], move |slots, params, hooks| {
        let slot = slots[0].pooled().unwrap();
        let scale = params.trained("scale", &[slot.width], Init::Ones)?;
        let steps = params.buffer("steps", &[], Init::Zeros)?;
        let by = scale.clone();
        hooks.pooled(
            slot,
            By(move |x: &Tensor, pass: &mut Pass| Ok(ops::mul(x, &by.tensor(pass)?)?)),
        );
        Ok(Box::new(Lived {
            scale,
            steps,
            gradients: gradients.clone(),
        }))
    });
    let task = ToyTask::of(&[Look::TextPooled]);
    let mut tuned = model(task.clone(), vec![adapter.configured()]);
    let batch = aligned(2);
    let bare = model(task, Vec::new());
    let pooled = features(&bare, &batch).remove(0);
    assert_eq!(distance(&features(&tuned, &batch)[0], &pooled), 0.0);

    tuned.prepare(None, None).unwrap();
    let start = values(tuned.overlay.trained["lived.scale"].var.as_tensor());
    assert!(start.iter().all(|s| *s != 1.0));
    let mut pass = Pass::train(0);
    let loss = tuned.loss(&batch, &mut pass).unwrap();
    let logits = tuned.logits(&batch, &mut Pass::predict()).unwrap();
    let without = tuned.head().loss(&logits, &batch).unwrap();
    let penalty = values(&loss)[0] - values(&without)[0];
    assert!((penalty - start.iter().sum::<f64>()).abs() < 1e-10);

    let gradients = loss.backward().unwrap();
    for life in tuned.lives() {
        let progress = Progress { step: 7, steps: 9 };
        life.after_step(progress, &gradients).unwrap();
    }
    let [(step, gradient)] = seen.take().try_into().unwrap();
    assert_eq!((step, gradient.len()), (7, 6));
    // Its averages are state: an artifact stores them.
    assert_eq!(values(&tuned.overlay.tensors()["lived.steps"]), [1.0]);

    // A step of several batches is one step of its life, on their mean gradient.
    let options = TrainOptions::default();
    let mut trainer = Trainer::new(&mut tuned, &options, 1).unwrap();
    trainer.step(&[aligned(2), aligned(2), aligned(2)]).unwrap();
    let [(step, mean)] = seen.take().try_into().unwrap();
    assert_eq!(step, 0);
    assert!(
        mean.iter()
            .zip(&gradient)
            .all(|(a, b)| (a - b).abs() < 1e-10)
    );
    assert_eq!(values(&tuned.overlay.tensors()["lived.steps"]), [2.0]);
}

/// Tip-Adapter's shape: keys are pooled vectors of pictures, computed by the model itself.
struct Keys {
    keys: Parameter,
    pooled: TapKey,
}

impl Life for Keys {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        let mut pass = Pass::predict();
        source.model.forward(&aligned(4), &mut pass)?;
        self.keys.set(&pass.read(self.pooled)?.data)
    }
}

#[test]
fn a_cache_of_logits_starts_from_the_models_own_vectors() {
    let tap = Tap::vision(At::Pooled);
    let adapter = Scripted::living("cache", vec![Want::Logits], move |slots, params, hooks| {
        let keys = params.trained("keys", &[4, 6], Init::Zeros)?;
        let pooled = hooks.tap(&slots[0], tap)?;
        let by = keys.clone();
        hooks.logits(By(
            move |l: &Tensor, v: &Tensor, _: &Tensor, pass: &mut Pass| {
                let near = ops::linear(v, &by.tensor(pass)?, None)?;
                Ok(ops::add(l, &near.sum_keepdim(1)?)?)
            },
        ));
        Ok(Box::new(Keys { keys, pooled }))
    })
    .reading(move |_| vec![tap]);
    let task = ToyTask::of(&[Look::Logits]).by_item();
    let mut tuned = model(task, vec![adapter.configured()]);
    tuned.prepare(None, None).unwrap();
    let bare = model(ToyTask::of(&[Look::VisionPooled]), Vec::new());
    let wanted = features(&bare, &aligned(4)).remove(0);
    let keys = &tuned.overlay.trained["cache.keys"].var;
    assert_eq!(distance(keys.as_tensor(), &wanted), 0.0);
    // 2 pictures and 3 sentences, though the cache was filled by another batch.
    let got = features(&tuned, &batch(2, 3, &[(0, 0)], 5).unwrap());
    assert_eq!(got[0].dims(), &[2, 3]);
}

/// LST's shape: a side stream beside the tower, through which no gradient enters it.
fn side() -> Scripted {
    let moments = (0..3).map(Moment::After).collect();
    let want = Want::Streams {
        tower: Tower::Vision,
        moments,
    };
    Scripted::new("side", vec![want], |slots, params, hooks| {
        let carried = hooks.carry_along::<Tensor>(Tower::Vision);
        for slot in slots.iter().filter_map(Slot::stream) {
            let down = params.within(format!("{}", slot.moment.at()));
            let down = { down }.trained("down", &[8, 8], Init::Normal(0.2))?;
            let last = slot.moment == Moment::After(2);
            hooks.stream(
                slot,
                By(move |stream: Stream, pass: &mut Pass| {
                    let here = ops::linear(&stream.data.detach(), &down.tensor(pass)?, None)?;
                    let side = match pass.take(carried) {
                        Some(before) => ops::add(&before, &here)?,
                        None => here,
                    };
                    if last {
                        return Ok(stream.with(ops::add(&stream.data.detach(), &side)?));
                    }
                    pass.carry(carried, side);
                    Ok(stream)
                }),
            );
        }
        Ok(())
    })
}

/// Adds the mean word to the vision stream after block 1: from there on vision is by pair.
fn meeting() -> Scripted {
    let want = Want::Streams {
        tower: Tower::Vision,
        moments: vec![Moment::After(1)],
    };
    let tap = Tap::text(At::Final);
    Scripted::new("meeting", vec![want], move |slots, _, hooks| {
        let words = hooks.tap(&slots[0], tap)?;
        hooks.stream(
            slots[0].stream().unwrap(),
            By(move |stream: Stream, pass: &mut Pass| {
                let word = pass.read(words)?.content()?.mean_keepdim(1)?;
                Ok(stream.with(ops::add(&stream.data, &word)?))
            }),
        );
        Ok(())
    })
    .reading(move |_| vec![tap])
}

#[test]
fn a_side_stream_becomes_pairs_with_its_tower() {
    let task = ToyTask::of(&[Look::VisionFinal]);
    let tuned = model(task, vec![side().configured(), meeting().configured()]);
    let pairs = [(1, 0), (0, 1)];
    let shared = batch(2, 2, &pairs, 4).unwrap();
    let got = features(&tuned, &shared).remove(0);
    let mut apart = shared.clone();
    apart.images = ops::select(&shared.images, &[1, 0]).unwrap();
    apart.pairs = vec![(0, 0), (1, 1)];
    assert!(distance(&got, &features(&tuned, &apart)[0]) < contracts::REORDERED);
}

#[test]
fn no_gradient_enters_the_tower_from_the_side() {
    let watched = Seen::new();
    let notes = watched.clone();
    let want = Want::Streams {
        tower: Tower::Vision,
        moments: vec![Moment::Before(2)],
    };
    let watch = Scripted::new("watch", vec![want], move |slots, _, hooks| {
        let notes = notes.clone();
        hooks.stream(
            slots[0].stream().unwrap(),
            By(move |stream: Stream, _: &mut Pass| {
                notes.see(stream.data.track_op());
                Ok(stream)
            }),
        );
        Ok(())
    });
    let task = ToyTask::of(&[Look::VisionFinal]);
    let tuned = model(task, vec![side().configured(), watch.configured()]);
    let loss = tuned.loss(&aligned(2), &mut Pass::train(0)).unwrap();
    assert_eq!(watched.take(), [false]);
    let gradients = loss.backward().unwrap();
    let all = &tuned.overlay.trained;
    assert_eq!(all.len(), 5);
    assert!(all.values().all(|t| gradients.get(&t.var).is_some()));
}
