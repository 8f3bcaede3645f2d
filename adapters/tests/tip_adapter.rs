//! Tip-Adapter against its equation, what it remembers, and what it refuses.

mod whole;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use twinspan_adapters::lora::Lora;
use twinspan_adapters::tip_adapter::TipAdapter;
use twinspan_sdk::adapter::{Adapter, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::recipe::{Recipe, TrainOptions};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Moment, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Dataset, Scores};
use twinspan_sdk::testkit::laws::Law;
use twinspan_sdk::testkit::{self, By, Look, Scripted, ToyTask};
use twinspan_sdk::train::{Trainer, Unwatched, train};
use twinspan_sdk::tuned::Tuned;
use twinspan_sdk::{Error, Result};
use whole::{apart, features, frozen, keeps_the_laws, over, trained};

/// Pictures of these classes, with one sentence a class; or what is wrong with it.
struct Shots {
    classes: Vec<u32>,
    sentences: usize,
    told: bool,
}

/// Eleven pictures, which is more than go through the model at once.
fn shots() -> Shots {
    Shots {
        classes: vec![0, 0, 1, 1, 2, 2, 0, 1, 2, 2, 0],
        sentences: 3,
        told: true,
    }
}

impl Shots {
    fn of(&self, indices: &[usize]) -> Result<Batch> {
        let all = testkit::batch(self.classes.len(), 1, &[], 3)?;
        let rows: Vec<u32> = indices.iter().map(|i| *i as u32).collect();
        let rows = Tensor::new(rows, &Device::Cpu)?;
        let right: Vec<u32> = indices.iter().map(|i| self.classes[*i]).collect();
        let pairs = (0..indices.len()).flat_map(|p| (0..self.sentences).map(move |s| (p, s)));
        Ok(Batch {
            images: all.images.index_select(&rows, 0)?,
            tokens: testkit::batch(1, self.sentences, &[], 3)?.tokens,
            pairs: pairs.map(|(p, s)| (p as u32, s as u32)).collect(),
            target: match self.told {
                true => Some(Tensor::new(right, &Device::Cpu)?),
                false => None,
            },
            examples: indices.to_vec(),
        })
    }
}

impl Dataset for Shots {
    fn splits(&self) -> BTreeMap<String, usize> {
        [("train".into(), self.classes.len())].into()
    }

    fn len(&self, _split: &str) -> Result<usize> {
        Ok(self.classes.len())
    }

    fn train(&self, _split: &str, indices: &[usize], _seed: u64) -> Result<Batch> {
        self.of(indices)
    }

    fn evaluate(&self, _split: &str, indices: &[usize]) -> Result<Batch> {
        self.of(indices)
    }

    fn scores(&self, _split: &str) -> Result<Box<dyn Scores + '_>> {
        Err(Error::plugin("nothing is scored"))
    }
}

fn recipe(adapters: Vec<Configured<dyn Adapter>>, data: &Shots) -> Result<Recipe> {
    let task = ToyTask::of(&[Look::Logits]).by_item();
    testkit::recipe(task, adapters)?.fitted(data)
}

fn tip(options: TipAdapter) -> Vec<Configured<dyn Adapter>> {
    vec![Configured::<dyn Adapter>::of(options).unwrap()]
}

fn prepared(adapters: Vec<Configured<dyn Adapter>>, data: &Shots) -> Result<Tuned> {
    let recipe = recipe(adapters, data)?;
    let mut tuned = testkit::tuned(&recipe)?;
    tuned.prepare(None, Some(recipe.training(data)))?;
    Ok(tuned)
}

fn refused(adapters: Vec<Configured<dyn Adapter>>, data: &Shots) -> String {
    let error = prepared(adapters, data).err().expect("it is not refused");
    assert!(error.is_wrong_use(), "{error}");
    error.to_string()
}

fn learning() -> TipAdapter {
    TipAdapter {
        train_keys: true,
        ..Default::default()
    }
}

#[test]
fn it_keeps_the_laws() {
    use Law::*;
    keeps_the_laws(TipAdapter::default(), &[Start, Gradients, Merge, Learning]);
    keeps_the_laws(learning(), &[Start, Merge]);
}

/// Rows of length 1, by plain loops.
fn units(x: &Tensor) -> Vec<Vec<f64>> {
    let rows = x.to_vec2::<f64>().unwrap().into_iter();
    let unit = |row: Vec<f64>| {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.into_iter().map(|x| x / length).collect()
    };
    rows.map(unit).collect()
}

#[test]
fn forward_is_the_equation() {
    for (alpha, beta) in [(1.17, 1.0), (3.0, 5.5)] {
        let data = shots();
        let options = TipAdapter {
            alpha,
            beta,
            ..Default::default()
        };
        let with = prepared(tip(options), &data).unwrap();
        let found = features(&with).remove(0);

        let seen = over(frozen(&with), &[Look::VisionPooled]);
        let mut shown = data.of(&(0..11).collect::<Vec<_>>()).unwrap();
        shown.pairs = (0..11).map(|picture| (picture, 0)).collect();
        let keys = seen.forward(&shown, &mut Pass::predict()).unwrap();
        let keys = units(&keys[0].data);
        let pictures = testkit::batch(2, 3, &[(0, 0), (1, 1)], 1).unwrap();
        let pictures = seen.forward(&pictures, &mut Pass::predict()).unwrap();
        let mut logits = features(&over(frozen(&with), &[Look::Logits]))[0]
            .to_vec2::<f64>()
            .unwrap();
        for (f, row) in units(&pictures[0].data).iter().zip(&mut logits) {
            for (key, class) in keys.iter().zip(&data.classes) {
                let near: f64 = f.iter().zip(key).map(|(a, b)| a * b).sum();
                row[*class as usize] += alpha * (-beta * (1.0 - near)).exp();
            }
        }
        let expected = Tensor::new(logits, &Device::Cpu).unwrap();
        let off = apart(&[expected], &[found]);
        assert!(off < 1e-12, "{off}");
    }
}

#[test]
fn it_takes_from_the_data_what_its_options_leave_open() {
    let fitted = recipe(tip(TipAdapter::default()), &shots()).unwrap();
    let options = &fitted.adapters[0].options;
    assert_eq!(options["keys"].as_integer(), Some(11));
    assert_eq!(options["classes"].as_integer(), Some(3));
    // What is said stays, and a second time takes nothing anew.
    let few = Shots {
        classes: vec![0, 1, 2],
        ..shots()
    };
    let again = fitted.fitted(&few).unwrap();
    assert_eq!(&again.adapters[0].options, options);
}

#[test]
fn a_run_takes_no_step_unless_the_keys_train() {
    let data = shots();
    let options = TrainOptions {
        steps: 3,
        ..Default::default()
    };
    let mut remembers = prepared(tip(TipAdapter::default()), &data).unwrap();
    let before = features(&remembers);
    let steps = train(&mut remembers, &data, &options, &mut Unwatched).unwrap();
    assert!(steps.is_empty());
    assert_eq!(apart(&before, &features(&remembers)), 0.0);

    let mut learns = prepared(tip(learning()), &data).unwrap();
    assert_eq!(apart(&before, &features(&learns)), 0.0);
    let (keys, tensors) = (
        trained(&learns, "tip-adapter.keys").copy().unwrap(),
        learns.overlay.tensors(),
    );
    let values = tensors["tip-adapter.values"].copy().unwrap();
    let batch = data.of(&[0, 3, 5]).unwrap();
    let mut trainer = Trainer::new(&mut learns, &options, 3).unwrap();
    trainer.step(&[batch]).unwrap();
    assert!(apart(&[keys], &[trained(&learns, "tip-adapter.keys")]) > 0.0);
    let now = learns.overlay.tensors()["tip-adapter.values"].clone();
    assert_eq!(apart(&[values], &[now]), 0.0);
}

#[test]
fn keys_are_those_of_the_adapted_tower() {
    let data = shots();
    let mut adapters = vec![
        Configured::<dyn Adapter>::of(Lora {
            rank: 2,
            ..Default::default()
        })
        .unwrap(),
    ];
    adapters.extend(tip(TipAdapter::default()));
    let tuned = prepared(adapters, &data).unwrap();
    assert_eq!(tuned.overlay.count("tip-adapter"), 0);
    let keys = &tuned.overlay.tensors()["tip-adapter.keys"];
    assert_eq!(keys.dims(), [11, 6]);
    let lengths = keys.sqr().unwrap().sum(1).unwrap();
    for length in lengths.to_vec1::<f64>().unwrap() {
        assert!((length - 1.0).abs() < 1e-12);
    }
}

#[test]
fn impossible_options_are_refused() {
    let sized = TipAdapter {
        keys: 11,
        classes: 3,
        ..Default::default()
    };
    let of = |options: TipAdapter| refused(tip(options), &shots());
    assert_eq!(
        of(TipAdapter {
            alpha: f64::NAN,
            ..sized.clone()
        }),
        "tip-adapter: alpha = NaN must be a number other than 0"
    );
    assert_eq!(
        of(TipAdapter {
            beta: -1.0,
            ..sized.clone()
        }),
        "tip-adapter: beta = -1 must be 0 or above"
    );
    assert_eq!(
        of(TipAdapter {
            keys: 4,
            ..sized.clone()
        }),
        "tip-adapter: keys = 4, and split `train` has 11 pictures"
    );
    assert_eq!(
        of(TipAdapter {
            classes: 2,
            ..sized
        }),
        "tip-adapter: a picture is of class 2, of 2 counted from 0; it takes one sentence and at least one picture of each class"
    );
    let unfitted = whole::refusal(TipAdapter::default(), &[Look::Logits]);
    assert_eq!(
        unfitted,
        "tip-adapter: keys = 0 and classes = 0 are taken from training data; without any, set both"
    );
}

#[test]
fn data_it_is_not_for_is_refused() {
    let of = |data: Shots| refused(tip(TipAdapter::default()), &data);
    assert_eq!(
        of(Shots {
            told: false,
            ..shots()
        }),
        "tip-adapter: the task's data tells no class of each picture, and each key belongs to one"
    );
    // Two sentences a class.
    assert_eq!(
        of(Shots {
            sentences: 6,
            ..shots()
        }),
        "tip-adapter: no picture is of class 3, of 6 counted from 0; it takes one sentence and at least one picture of each class"
    );
    let recipe = recipe(tip(TipAdapter::default()), &shots()).unwrap();
    let mut tuned = testkit::tuned(&recipe).unwrap();
    let none = tuned.prepare(None, None).unwrap_err().to_string();
    assert_eq!(
        none,
        "tip-adapter: its keys are the pictures of training data, and there is none"
    );
    let other = testkit::batch(2, 4, &[(0, 0)], 1).unwrap();
    let other = tuned.forward(&other, &mut Pass::predict()).err().unwrap();
    assert_eq!(
        other.to_string(),
        "tip-adapter: 4 sentences for 3 classes; it takes one sentence and at least one picture of each class"
    );
}

/// Adds the mean word to the vision stream: a picture's vector depends on the sentence.
fn meeting(slots: &[Slot], hooks: &mut Hooks) -> Result<()> {
    let words = hooks.tap(&slots[0], Tap::text(At::Final))?;
    let Some(slot) = slots[0].stream() else {
        return Ok(());
    };
    hooks.stream(
        slot,
        By(move |stream: Stream, pass: &mut Pass| {
            let mean = pass.read(words)?.data.mean_keepdim(1)?;
            Ok(stream.with(stream.data.broadcast_add(&mean)?))
        }),
    );
    Ok(())
}

#[test]
fn pictures_that_depend_on_sentences_are_refused() {
    let want = Want::Streams {
        tower: Tower::Vision,
        moments: vec![Moment::After(1)],
    };
    let meets = Scripted::new("meeting", vec![want], |slots, _, hooks| {
        meeting(slots, hooks)
    });
    let mut adapters = vec![meets.reading(|_| vec![Tap::text(At::Final)]).configured()];
    adapters.extend(tip(TipAdapter::default()));
    assert_eq!(
        refused(adapters, &shots()),
        "tip-adapter: with `meeting` a picture's vector depends on the sentence; keys are of pictures alone"
    );
}
