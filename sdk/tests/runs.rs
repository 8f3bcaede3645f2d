//! A run that stops and goes on, and one that never stopped, are the same to the bit: with either
//! optimiser, averages, accumulation, dropout, statistics, adapters' own state, any threads.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use twinspan_sdk::adapter::{Life, Progress, Source, Want};
use twinspan_sdk::parameter::{Buffer, Init, Parameter};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::recipe::{BatchNormChoice, OptimizerChoice, Recipe, TrainOptions};
use twinspan_sdk::run::{End, Outcome, Run, Start};
use twinspan_sdk::site::Tower;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Dataset, Report, Scores};
use twinspan_sdk::testkit::{self, By, Look, Scripted, ToyTask, Words};
use twinspan_sdk::train::{Evaluation, Observer, Order, StepReport, Unwatched, train};
use twinspan_sdk::tuned::{Compute, Tuned};
use twinspan_sdk::{Error, Result, artifact, ops, random, weights};

/// Seven examples, drawn; each takes its own time to load.
struct Drawn {
    sleeps: bool,
}

impl Drawn {
    fn batch(&self, indices: &[usize], seed: u64) -> Result<Batch> {
        let drawn = indices.iter().fold(seed, |k, i| random::mix(k, *i as u64));
        if self.sleeps {
            let share = random::uniform(drawn, 0);
            std::thread::sleep(Duration::from_micros((4000.0 * share) as u64));
        }
        let pairs: Vec<_> = (0..indices.len() as u32).map(|i| (i, i)).collect();
        let mut batch = testkit::batch(indices.len(), indices.len(), &pairs, drawn)?;
        let target: Vec<f64> = indices.iter().map(|i| *i as f64 - 3.0).collect();
        batch.target = Some(Tensor::new(target, &Device::Cpu)?);
        batch.examples = indices.to_vec();
        Ok(batch)
    }
}

impl Dataset for Drawn {
    fn splits(&self) -> BTreeMap<String, usize> {
        [("train".into(), 7), ("val".into(), 5)].into()
    }
    fn len(&self, split: &str) -> Result<usize> {
        let found = self.splits().get(split).copied();
        found.ok_or_else(|| Error::wrong_use(format!("no split `{split}`")))
    }
    fn train(&self, _: &str, indices: &[usize], seed: u64) -> Result<Batch> {
        self.batch(indices, seed)
    }
    fn evaluate(&self, _: &str, indices: &[usize]) -> Result<Batch> {
        self.batch(indices, 99)
    }
    fn scores(&self, _: &str) -> Result<Box<dyn Scores + '_>> {
        Ok(Box::new(Nearness(Cell::new((0, 0.0)))))
    }
}

/// How near predictions are to targets.
struct Nearness(Cell<(usize, f64)>);

impl Scores for Nearness {
    fn add(&mut self, batch: &Batch, _: &[Stream], logits: &Tensor) -> Result<()> {
        let target = batch.target.as_ref().unwrap();
        let off = logits.broadcast_sub(target)?.sqr()?.sum_all()?;
        let (count, sum) = self.0.get();
        self.0
            .set((count + batch.examples.len(), sum + off.to_scalar::<f64>()?));
        Ok(())
    }
    fn report(&self) -> Result<Report> {
        let (count, sum) = self.0.get();
        Ok(Report {
            count,
            scores: vec![("nearness".into(), -sum / count as f64)],
            ..Report::default()
        })
    }
}

/// Shrinks its scale by an average over steps that it keeps in a buffer: what it does at a step
/// depends on all steps before.
struct Damped {
    scale: Parameter,
    average: Buffer,
}

impl Life for Damped {
    fn prepare(&mut self, _: &Source) -> Result<()> {
        self.scale
            .set(&(self.scale.tensor(&Pass::predict())? * 0.9)?)
    }
    fn after_step(&mut self, _: Progress, gradients: &GradStore) -> Result<()> {
        let Parameter::Trained(var) = &self.scale else {
            panic!("the scale trains")
        };
        let gradient = gradients.get(var).unwrap().detach();
        let average = ((self.average.tensor() * 0.7)? + gradient.abs()?.mean_all()?)?;
        let scale = self.scale.tensor(&Pass::predict())?;
        self.scale
            .set(&scale.broadcast_mul(&((average.clone() * -1e-3)? + 1.0)?)?)?;
        self.average.set(&average)
    }
}

fn recipe(train: TrainOptions) -> Recipe {
    let want = Want::Pooled {
        towers: vec![Tower::Text],
    };
    let damped = Scripted::living("damped", vec![want], |slots, params, hooks| {
        let slot = slots[0].pooled().unwrap();
        let scale = params.trained("scale", &[slot.width], Init::Ones)?;
        let average = params.buffer("average", &[], Init::Ones)?;
        let by = scale.clone();
        hooks.pooled(
            slot,
            By(move |x: &Tensor, pass: &mut Pass| {
                let drop = pass.dropout(0.3);
                Ok(ops::dropout(&ops::mul(x, &by.tensor(pass)?)?, drop)?)
            }),
        );
        Ok(Box::new(Damped { scale, average }))
    });
    let mut recipe = testkit::recipe(ToyTask::default(), vec![damped.configured()]).unwrap();
    recipe.weights.batch_norm = BatchNormChoice::Train;
    recipe.train = train;
    recipe
}

fn options() -> TrainOptions {
    TrainOptions {
        steps: 11,
        batch: 3,
        rate: 0.02,
        evaluate_split: "val".into(),
        evaluate_every: 3,
        ..TrainOptions::default()
    }
}

/// Stops after some steps, or on the way of the evaluation after them.
struct Until {
    step: usize,
    while_evaluating: bool,
    done: Cell<usize>,
    evaluating: bool,
    evaluations: Vec<Evaluation>,
}

impl Until {
    fn step(step: usize) -> Self {
        Self {
            step,
            while_evaluating: false,
            done: Cell::new(0),
            evaluating: false,
            evaluations: Vec::new(),
        }
    }
}

impl Observer for Until {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.done.set(report.step + 1);
        self.evaluating = false;
        Ok(())
    }
    fn evaluating(&mut self, _: usize, _: usize) {
        self.evaluating = true;
    }
    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.evaluations.push(evaluation.clone());
        Ok(())
    }
    fn stop(&self) -> bool {
        self.done.get() >= self.step && (self.evaluating || !self.while_evaluating)
    }
}

fn go(out: &Path, recipe: &Recipe, start: Start, sleeps: bool, observer: &mut Until) -> Outcome {
    let data = Drawn { sleeps };
    let run = Run::claim(out, start).unwrap();
    run.fits(recipe, &data).unwrap();
    let base = weights::random(&recipe.backbone.plugin.topology().unwrap(), 0).unwrap();
    let compute = Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    };
    let mut tuned = run.model(recipe, base, compute, &Words, &data).unwrap();
    run.train(recipe, &mut tuned, &data, observer).unwrap()
}

/// What a run left of a model.
fn left(out: &Path, model: &str) -> Vec<u8> {
    fs::read(out.join(model).join("tuned.safetensors")).unwrap()
}

#[test]
fn a_run_goes_on_bit_for_bit() {
    for (optimizer, ema, accumulate) in [
        (OptimizerChoice::Adam, 0.0, 1),
        (OptimizerChoice::Adam, 0.8, 3),
        (OptimizerChoice::Adamw, 0.0, 2),
        (OptimizerChoice::Adamw, 0.8, 1),
    ] {
        let options = TrainOptions {
            optimizer,
            ema,
            accumulate,
            weight_decay: 0.01,
            clip: 1.0,
            ..options()
        };
        let folder = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
        let outcome = go(
            &whole,
            &recipe(options.clone()),
            Start::New,
            false,
            &mut Until::step(99),
        );
        assert_eq!((outcome.end, outcome.history.len()), (End::Steps, 11));

        // Within an epoch, before an evaluation, on its way, after it.
        let mut evaluations = Vec::new();
        for (step, while_evaluating) in [(2, false), (3, true), (6, false), (7, false)] {
            let mut until = Until {
                while_evaluating,
                ..Until::step(step)
            };
            let outcome = go(
                &parts,
                &recipe(options.clone()),
                Start::Resume,
                false,
                &mut until,
            );
            assert_eq!((outcome.end, outcome.standing.step), (End::Stopped, step));
            evaluations.extend(until.evaluations);
        }
        let mut until = Until::step(99);
        let rest = go(&parts, &recipe(options), Start::Resume, false, &mut until);
        evaluations.extend(until.evaluations);
        assert_eq!((rest.end, rest.history.len()), (End::Steps, 4));
        let steps: Vec<_> = evaluations.iter().map(|e| e.step).collect();
        assert_eq!(steps, [3, 6, 9, 11]);
        assert_eq!(rest.standing.best, outcome.standing.best);
        for model in ["last", "best"] {
            assert!(left(&whole, model) == left(&parts, model), "{model}");
        }
        let losses = |o: &Outcome| o.history.iter().map(|r| r.loss).collect::<Vec<_>>();
        assert_eq!(losses(&outcome)[7..], losses(&rest)[..]);
    }
}

#[test]
fn a_run_is_replaced_by_a_run_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let recipe = recipe(options());
    go(&out, &recipe, Start::New, false, &mut Until::step(2));
    let before = left(&out, "last");
    let tuned = testkit::tuned(&recipe).unwrap();
    let saved = artifact::save(&out, &recipe, &tuned, &serde_json::json!({}), &|_| Ok(()));
    for error in [artifact::check(&out).unwrap_err(), saved.unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains("holds a run of training"), "{text}");
    }
    let error = Run::claim(&out, Start::New).unwrap_err().to_string();
    assert!(error.contains("a run of 2 steps"), "{error}");
    assert!(left(&out, "last") == before);
    go(&out, &recipe, Start::Overwrite, false, &mut Until::step(3));
    assert!(left(&out, "last") != before);
}

#[test]
fn threads_do_not_show_in_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = None;
    for workers in [0, 1, 2, 4] {
        let out = folder.path().join(workers.to_string());
        let options = TrainOptions {
            workers,
            ..options()
        };
        let mut until = Until::step(99);
        go(&out, &recipe(options), Start::New, true, &mut until);
        let scores: Vec<_> = until.evaluations.iter().map(|e| e.score).collect();
        // But for the number of threads, which the recipe beside them holds.
        let now = (left(&out, "last"), left(&out, "best"), scores);
        assert!(
            *before.get_or_insert_with(|| now.clone()) == now,
            "{workers}"
        );
    }
}

#[test]
fn averages_are_what_their_formula_says_and_do_not_touch_training() {
    let with = |ema: f64, steps: usize| -> Tuned {
        let recipe = recipe(TrainOptions {
            ema,
            steps,
            evaluate_split: String::new(),
            evaluate_every: 0,
            ..options()
        });
        let mut tuned = testkit::tuned(&recipe).unwrap();
        let data = Drawn { sleeps: false };
        train(&mut tuned, &data, &recipe.train, &mut Until::step(99)).unwrap();
        tuned
    };
    let value = |tuned: &Tuned, name: &str| -> Vec<f64> {
        let tensor = tuned.overlay.tensors()[name].flatten_all().unwrap();
        tensor.to_vec1().unwrap()
    };
    let start = testkit::tuned(&recipe(options())).unwrap();
    let raw: Vec<Tuned> = (1..=4).map(|steps| with(0.0, steps)).collect();
    let averaged = with(0.2, 4);
    let mut moved = 0;
    for name in start.overlay.trained.keys() {
        let mut expected = value(&start, name);
        for (t, tuned) in raw.iter().enumerate() {
            let t = t as f64 + 1.0;
            let d = f64::min(0.2, t / (t + 9.0));
            for (a, x) in expected.iter_mut().zip(value(tuned, name)) {
                *a = d * *a + (1.0 - d) * x;
            }
        }
        let got = value(&averaged, name);
        assert!(
            got.iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() < 1e-14),
            "{name}"
        );
        moved += usize::from(got != value(&raw[3], name));
    }
    assert!(moved > 3);
    for name in averaged.overlay.buffers.keys() {
        assert_eq!(value(&averaged, name), value(&raw[3], name), "{name}");
    }
}

#[test]
fn an_order_goes_on_from_a_position() {
    let all = Order::new(4, 7).take(40);
    let mut epoch = all[7..14].to_vec();
    epoch.sort_unstable();
    assert_eq!(epoch, (0..7).collect::<Vec<_>>());
    for position in [0, 1, 6, 7, 20, 39] {
        let rest = Order::at(4, 7, position as u64).take(40 - position);
        assert_eq!(rest, all[position..]);
    }
    assert!(Order::new(4, 0).take(3).is_empty());
}

/// Knows how many examples there are to train on.
struct Remembers(Parameter);

impl Life for Remembers {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        let training = source.training.unwrap();
        let examples = training.data.len(training.split)? as f64;
        self.0.set(&Tensor::new(examples, &Device::Cpu)?)
    }
}

/// Nothing trains: what the adapter has it takes from the data when it is prepared.
fn untrained(adapted: bool) -> Recipe {
    let remembers = Scripted::living("remembers", vec![Want::Logits], |_, params, hooks| {
        let kept = params.constant("examples", &[], Init::Zeros)?;
        let by = kept.clone();
        hooks.logits(By(
            move |logits: &Tensor, _: &Tensor, _: &Tensor, pass: &mut Pass| {
                Ok(ops::add(logits, &by.tensor(pass)?)?)
            },
        ));
        Ok(Box::new(Remembers(kept)))
    });
    let adapters = match adapted {
        true => vec![remembers.configured()],
        false => Vec::new(),
    };
    let task = ToyTask::of(&[Look::Logits]).by_item();
    let mut recipe = testkit::recipe(task, adapters).unwrap();
    recipe.train = TrainOptions {
        ema: 0.5,
        ..options()
    };
    recipe
}

#[test]
fn a_run_in_which_nothing_trains_is_scored_and_saved_without_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut until = Until {
        while_evaluating: true,
        ..Until::step(0)
    };
    let outcome = go(&out, &untrained(true), Start::New, false, &mut until);
    assert_eq!((outcome.end, outcome.steps), (End::Stopped, 0));
    let kept = artifact::open_on(
        &out,
        &untrained(true),
        weights::random(&untrained(true).backbone.plugin.topology().unwrap(), 0).unwrap(),
        Compute::default(),
    );
    let kept = kept.unwrap().overlay.tensors().remove("remembers.examples");
    assert_eq!(kept.unwrap().to_scalar::<f32>().unwrap(), 7.0);

    let mut until = Until::step(99);
    let outcome = go(&out, &untrained(true), Start::Resume, false, &mut until);
    assert_eq!((outcome.end, outcome.history.len()), (End::Steps, 0));
    assert_eq!(until.evaluations.len(), 1);
    assert_eq!(
        (until.evaluations[0].step, until.evaluations[0].best),
        (0, true)
    );
    assert!(left(&out, "best") == left(&out, "last"));
    let metrics = fs::read_to_string(out.join("last/metrics.json")).unwrap();
    assert!(metrics.contains("nearness"), "{metrics}");

    // Once more there is nothing to do, and what is there stays.
    let mut until = Until::step(99);
    let outcome = go(&out, &untrained(true), Start::Resume, false, &mut until);
    assert_eq!((outcome.end, until.evaluations.len()), (End::Steps, 0));
    let again = fs::read_to_string(out.join("last/metrics.json")).unwrap();
    assert_eq!(again, metrics);
}

#[test]
fn a_recipe_with_nothing_at_all_to_train_is_refused() {
    let mut tuned = testkit::tuned(&untrained(false)).unwrap();
    let data = Drawn { sleeps: false };
    let error = train(&mut tuned, &data, &options(), &mut Unwatched).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing trains: neither an adapter nor the head has parameters"
    );
}
