//! The training loop.
//!
//! Owns the order of examples, accumulation, clipping, the one step from batch to updated
//! overlay, and when to evaluate, save and stop. Knows no task and writes no file: a run's are
//! [`crate::run`]'s; progress goes to an [`Observer`].

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};

use crate::adapter::Progress;
use crate::average::Averages;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::loader;
use crate::optimizer::{Gradients, Optimizer};
use crate::pass::Pass;
use crate::random;
use crate::recipe::TrainOptions;
use crate::schedule;
use crate::task::{Batch, Dataset, Report};
use crate::tuned::Tuned;

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Counted from 0.
    pub step: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Mean loss of the step's batches, before the update.
    pub loss: f64,
    /// Learning rate.
    pub rate: f64,
    /// 2-norm of all gradients, before clipping.
    pub norm: f64,
    /// How long it took, with waiting for its batches.
    pub seconds: f64,
}

/// What an evaluation while training gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Steps done.
    pub step: usize,
    /// The split.
    pub split: String,
    /// Its scores.
    pub report: Report,
    /// The score by which evaluations are compared.
    pub metric: String,
    /// Its value; higher is better.
    pub score: f64,
    /// Whether it is the best so far.
    pub best: bool,
    /// How long it took.
    pub seconds: f64,
}

/// The best evaluation of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done then.
    pub step: usize,
    /// The score's name.
    pub metric: String,
    /// Its value.
    pub score: f64,
}

/// Where a run stands: beside tensors, all that going on needs. The position in the data, the
/// schedule and every draw follow from the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Steps done.
    pub step: usize,
    /// Steps done at the last evaluation; 0 before the first.
    pub evaluated: usize,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Evaluations since.
    pub stale: usize,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// How long it trained, over all its sittings.
    pub seconds: f64,
}

impl Standing {
    /// Whether the model was scored as it stands.
    pub fn is_evaluated(&self) -> bool {
        // Before the first step `evaluated` tells nothing.
        let scored = self.best.is_some() || self.stale > 0;
        self.evaluated == self.step && (self.step > 0 || scored)
    }

    /// Whether `options.patience` is at its end.
    pub fn out_of_patience(&self, options: &TrainOptions) -> bool {
        options.patience > 0 && self.stale >= options.patience
    }
}

/// Someone who watches a run, and can stop it.
pub trait Observer {
    /// A step is done.
    ///
    /// # Errors
    /// The run stops with it.
    fn step(&mut self, report: &StepReport) -> Result<()>;

    /// An evaluation has scored `done` of `examples` examples.
    fn evaluating(&mut self, done: usize, examples: usize) {
        let _ = (done, examples);
    }

    /// An evaluation is done.
    ///
    /// # Errors
    /// The run stops with it.
    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let _ = evaluation;
        Ok(())
    }

    /// Whether to stop: asked after each step and each batch of an evaluation. The run is saved
    /// first, and can go on later as if it had not stopped.
    fn stop(&self) -> bool {
        false
    }
}

/// Nobody watches.
pub struct Unwatched;

impl Observer for Unwatched {
    fn step(&mut self, _report: &StepReport) -> Result<()> {
        Ok(())
    }
}

/// Someone who keeps what a run makes.
pub(crate) trait Keeper {
    fn step(&mut self, report: &StepReport) -> Result<()>;
    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()>;
    /// The model as it was scored is the best so far.
    fn best(&mut self, tuned: &Tuned, standing: &Standing, of: &Evaluation) -> Result<()>;
    /// The run could go on from here.
    fn last(&mut self, trainer: &mut Trainer, standing: &Standing) -> Result<()>;
}

/// Nothing is kept.
struct Unkept;

impl Keeper for Unkept {
    fn step(&mut self, _: &StepReport) -> Result<()> {
        Ok(())
    }
    fn evaluation(&mut self, _: &Evaluation) -> Result<()> {
        Ok(())
    }
    fn best(&mut self, _: &Tuned, _: &Standing, _: &Evaluation) -> Result<()> {
        Ok(())
    }
    fn last(&mut self, _: &mut Trainer, _: &Standing) -> Result<()> {
        Ok(())
    }
}

/// A model in training, step by step.
pub struct Trainer<'a> {
    tuned: &'a mut Tuned,
    options: TrainOptions,
    optimizer: Optimizer,
    averages: Option<Averages>,
    step: usize,
    steps: usize,
}

impl<'a> Trainer<'a> {
    /// A trainer that will take `steps` steps.
    ///
    /// # Errors
    /// There are steps to take and nothing trains, or the options name a group that does not
    /// exist.
    pub fn new(tuned: &'a mut Tuned, options: &TrainOptions, steps: usize) -> Result<Self> {
        if steps > 0 && tuned.overlay.trained.is_empty() {
            return Err(Error::wrong_use(
                "nothing trains: neither an adapter nor the head has parameters",
            ));
        }
        Ok(Self {
            optimizer: Optimizer::new(options, &tuned.overlay)?,
            averages: match options.ema > 0.0 {
                true => Some(Averages::new(options.ema, &tuned.overlay)?),
                false => None,
            },
            tuned,
            options: options.clone(),
            step: 0,
            steps,
        })
    }

    /// One optimiser step on the mean gradient of `batches`.
    ///
    /// # Errors
    /// The loss is not a number; a trained parameter got no gradient.
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport> {
        let mut batches = batches.iter();
        self.step_on(batches.len(), &mut || batches.next().cloned().map(Ok))
    }

    /// The same on the next `count` batches, of which one at a time is in memory.
    fn step_on(
        &mut self,
        count: usize,
        next: &mut dyn FnMut() -> Option<Result<Batch>>,
    ) -> Result<StepReport> {
        let started = Instant::now();
        let mut sum: Option<GradStore> = None;
        let mut total = 0.0;
        for i in 0..count {
            let batch = &next().ok_or_else(|| Error::plugin("the data ended within a step"))??;
            let number = (self.step * count + i) as u64;
            let mut pass = Pass::train(random::mix(self.options.seed, number));
            let (loss, own) = self.backward(batch, &mut pass, 1.0 / count as f64)?;
            self.finite(loss)?;
            total += loss / count as f64;
            sum = Some(match sum {
                Some(mut before) => {
                    before.extend(own)?;
                    before
                }
                None => own,
            });
            pass.commit()?;
        }
        let store = sum.unwrap_or_default();
        let mut gradients = self.of_trained(&store)?;
        let norm = clip(&mut gradients, self.options.clip)?;
        self.finite(norm)?;
        let factor = schedule::factor(&self.options.schedule, self.step, self.steps);
        self.optimizer
            .step(&self.tuned.overlay, &gradients, factor)?;
        let (step, steps) = (self.step, self.steps);
        for life in self.tuned.lives() {
            life.after_step(Progress { step, steps }, &store)?;
        }
        if let Some(averages) = &mut self.averages {
            averages.update(&self.tuned.overlay, self.step + 1)?;
        }
        let report = StepReport {
            step: self.step,
            steps: self.steps,
            loss: total,
            rate: self.options.rate * factor,
            norm,
            seconds: started.elapsed().as_secs_f64(),
        };
        self.step += 1;
        Ok(report)
    }

    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// What `with` says of the model as it is scored and saved: with averages, where there are
    /// some, in the place of what trains.
    ///
    /// # Errors
    /// Those of `with`.
    pub fn shown<T>(&mut self, with: impl FnOnce(&Tuned) -> Result<T>) -> Result<T> {
        let Some(averages) = &mut self.averages else {
            return with(self.tuned);
        };
        averages.exchange(&self.tuned.overlay)?;
        let said = with(self.tuned);
        averages.exchange(&self.tuned.overlay)?;
        said
    }

    /// The tensors that going on needs beside the overlay as [`Trainer::shown`]: the optimiser's
    /// and, where averages are shown, what trains under `value.NAME`.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = self.optimizer.state();
        if self.averages.is_some() {
            for (name, trained) in &self.tuned.overlay.trained {
                state.insert(format!("value.{name}"), trained.var.as_detached_tensor());
            }
        }
        state
    }

    /// Goes on after `step` steps, bit for bit: the overlay is as it was shown then, and `state`
    /// as it was.
    ///
    /// # Errors
    /// A tensor of the state is missing or of another kind.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>, step: usize) -> Result<()> {
        self.optimizer.restore(state, step)?;
        self.step = step;
        if self.options.ema > 0.0 {
            let mut averages = Averages::new(self.options.ema, &self.tuned.overlay)?;
            averages.restore(state)?;
            averages.exchange(&self.tuned.overlay)?;
            self.averages = Some(averages);
        }
        Ok(())
    }

    fn backward(&self, batch: &Batch, pass: &mut Pass, share: f64) -> Result<(f64, GradStore)> {
        let loss = self.tuned.loss(batch, pass)?;
        let value = loss.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        let loss = if share == 1.0 { loss } else { (loss * share)? };
        Ok((value, loss.backward()?))
    }

    fn of_trained(&self, store: &GradStore) -> Result<Gradients> {
        let mut gradients = Gradients::new();
        for (name, trained) in &self.tuned.overlay.trained {
            let gradient = store
                .get(&trained.var)
                .ok_or_else(|| Error::NoGradient { name: name.clone() })?;
            gradients.insert(name.clone(), gradient.clone());
        }
        Ok(gradients)
    }

    fn finite(&self, value: f64) -> Result<()> {
        match value.is_finite() {
            true => Ok(()),
            false => Err(Error::Diverged {
                step: self.step,
                loss: value,
            }),
        }
    }
}

/// Scales gradients down to a 2-norm of `most` (0 leaves them) and gives the norm before.
fn clip(gradients: &mut Gradients, most: f64) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in gradients.values() {
        let gradient = gradient.detach().to_dtype(candle_core::DType::F64)?;
        sum += gradient.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    let norm = f64::sqrt(sum);
    if most > 0.0 && norm > most {
        for gradient in gradients.values_mut() {
            let scaled: Tensor = (gradient.detach() * (most / norm))?;
            *gradient = scaled;
        }
    }
    Ok(norm)
}

/// Examples in the order of training: permutations of the split, one behind the other, each
/// epoch's a function of the seed and its number. A position says all of where it stands.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    examples: usize,
    position: u64,
    /// The permutation of an epoch, and its number.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// The order of `examples` examples under `seed`.
    pub fn new(seed: u64, examples: usize) -> Self {
        Self::at(seed, examples, 0)
    }

    /// The same order behind its first `position` examples.
    pub fn at(seed: u64, examples: usize, position: u64) -> Self {
        Self {
            seed,
            examples,
            position,
            epoch: None,
        }
    }

    /// The next `n` examples; none where there are none.
    pub fn take(&mut self, n: usize) -> Vec<usize> {
        let examples = self.examples as u64;
        if examples == 0 {
            return Vec::new();
        }
        let mut taken = Vec::with_capacity(n);
        for position in self.position..self.position + n as u64 {
            let number = position / examples;
            let permutation = match self.epoch.take() {
                Some((present, permutation)) if present == number => permutation,
                _ => {
                    let key = random::mix(random::key(self.seed, "order"), number);
                    random::permutation(key, self.examples)
                }
            };
            // From the end, as they would be popped.
            taken.push(permutation[self.examples - 1 - (position % examples) as usize]);
            self.epoch = Some((number, permutation));
        }
        self.position += n as u64;
        taken
    }
}

/// Steps of a run of `tuned`: none where it has adapters of which nothing trains
/// (Tip-Adapter's keys), so that all there is to do is done when it is prepared.
pub(crate) fn steps_of(tuned: &Tuned, options: &TrainOptions, examples: usize) -> usize {
    let adapted = tuned.labels().next().is_some();
    match adapted && tuned.overlay.trained.is_empty() {
        true => 0,
        false => steps(options, examples),
    }
}

/// Steps of a run over `examples` examples in which something trains.
pub fn steps(options: &TrainOptions, examples: usize) -> usize {
    match options.steps {
        0 => (options.epochs * examples)
            .div_ceil(batch_size(options, examples).saturating_mul(options.accumulate)),
        steps => steps,
    }
}

/// A split smaller than a batch makes a smaller batch.
fn batch_size(options: &TrainOptions, examples: usize) -> usize {
    options.batch.min(examples).max(1)
}

/// Examples of the split to train on.
///
/// # Errors
/// The split does not exist or is empty; nor the one to evaluate on.
pub(crate) fn examples(data: &dyn Dataset, options: &TrainOptions) -> Result<usize> {
    let filled = |split: &str| match data.len(split)? {
        0 => Err(Error::wrong_use(format!("split `{split}` is empty"))),
        examples => Ok(examples),
    };
    if !options.evaluate_split.is_empty() {
        filled(&options.evaluate_split)?;
    }
    filled(&options.split)
}

/// Trains `tuned` on the split that `options` name, and keeps nothing on disk; [`crate::run`]
/// does. With `options.ema` the model ends as the averages. Where adapters have nothing that
/// trains, no step is taken.
///
/// # Errors
/// The split does not exist or is empty, a file is not what it should be, the loss diverges.
pub fn train(
    tuned: &mut Tuned,
    data: &dyn Dataset,
    options: &TrainOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<StepReport>> {
    let steps = steps_of(tuned, options, examples(data, options)?);
    let mut trainer = Trainer::new(tuned, options, steps)?;
    let mut standing = Standing::default();
    let history = drive(&mut trainer, data, &mut standing, observer, &mut Unkept)?;
    if let Some(averages) = &mut trainer.averages {
        averages.exchange(&trainer.tuned.overlay)?;
    }
    Ok(history)
}

/// Goes on from `standing` until the steps or the patience are at their end, or the observer
/// stops it; gives the steps that were done.
pub(crate) fn drive(
    trainer: &mut Trainer,
    data: &dyn Dataset,
    standing: &mut Standing,
    observer: &mut dyn Observer,
    keeper: &mut dyn Keeper,
) -> Result<Vec<StepReport>> {
    let options = trainer.options.clone();
    let examples = examples(data, &options)?;
    let batch = batch_size(&options, examples);
    let (first, end) = [trainer.step, trainer.steps]
        .map(|step| step.saturating_mul(options.accumulate) as u64)
        .into();
    let mut order = Order::at(options.seed, examples, first * batch as u64);
    let key = random::key(options.seed, "choice");
    let requests = (first..end).map(move |n| (order.take(batch), random::mix(key, n)));
    let load = |(indices, choice): (Vec<usize>, u64)| data.train(&options.split, &indices, choice);
    loader::ahead(options.workers, requests, load, |batches| {
        let mut history = Vec::new();
        // Where the run was saved last; a run that goes on is where it was.
        let mut saved = (standing.step > 0 || standing.is_evaluated()).then_some(standing.step);
        loop {
            let step = standing.step;
            if evaluation_is_due(&options, step, trainer.steps) && !standing.is_evaluated() {
                if saved != Some(step) {
                    keeper.last(trainer, standing)?;
                    saved = Some(step);
                }
                if !evaluation(trainer, data, standing, observer, keeper)? {
                    return Ok(history);
                }
                keeper.last(trainer, standing)?;
                continue;
            }
            let over = step >= trainer.steps || standing.out_of_patience(&options);
            let due = options.save_every > 0 && step.is_multiple_of(options.save_every);
            let stop = observer.stop();
            // A run of no step is saved as it starts.
            let saves = step > 0 || trainer.steps == 0;
            if (over || stop || due) && saves && saved != Some(step) {
                keeper.last(trainer, standing)?;
                saved = Some(step);
            }
            if over || stop {
                return Ok(history);
            }
            let report = trainer.step_on(options.accumulate, &mut || batches.next())?;
            standing.step += 1;
            standing.loss = Some(report.loss);
            standing.seconds += report.seconds;
            keeper.step(&report)?;
            observer.step(&report)?;
            history.push(report);
        }
    })
}

fn evaluation_is_due(options: &TrainOptions, step: usize, steps: usize) -> bool {
    let every = options.evaluate_every;
    !options.evaluate_split.is_empty()
        && (step == steps || step > 0 && every > 0 && step.is_multiple_of(every))
}

/// Scores the model; false where the observer stopped it on the way.
fn evaluation(
    trainer: &mut Trainer,
    data: &dyn Dataset,
    standing: &mut Standing,
    observer: &mut dyn Observer,
    keeper: &mut dyn Keeper,
) -> Result<bool> {
    let options = trainer.options.clone();
    let started = Instant::now();
    let report = trainer.shown(|tuned| {
        evaluate::watched(
            tuned,
            data,
            &options.evaluate_split,
            options.batch,
            options.workers,
            &mut |done, examples| {
                observer.evaluating(done, examples);
                !observer.stop()
            },
        )
    })?;
    let Some(report) = report else {
        return Ok(false);
    };
    let (metric, score) = chosen(&report, &options.metric)?;
    standing.evaluated = standing.step;
    let better = standing.best.as_ref().is_none_or(|b| score > b.score);
    // A score that is no number is never the best.
    let best = better && score.is_finite();
    let seconds = started.elapsed().as_secs_f64();
    standing.seconds += seconds;
    let evaluation = Evaluation {
        step: standing.step,
        split: options.evaluate_split.clone(),
        metric: metric.clone(),
        score,
        best,
        seconds,
        report,
    };
    match best {
        true => {
            standing.stale = 0;
            standing.best = Some(Best {
                step: standing.step,
                metric,
                score,
            });
            trainer.shown(|tuned| keeper.best(tuned, standing, &evaluation))?;
        }
        false => standing.stale += 1,
    }
    keeper.evaluation(&evaluation)?;
    observer.evaluation(&evaluation)?;
    Ok(true)
}

/// The score called `metric`, or the first.
fn chosen(report: &Report, metric: &str) -> Result<(String, f64)> {
    let mut scores = report.scores.iter();
    let found = match metric {
        "" => scores.next(),
        name => scores.find(|(n, _)| n == name),
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = report.scores.iter().map(|(n, _)| n.as_str()).collect();
        Error::wrong_use(format!(
            "train.metric: the task gives no score `{metric}`; there are: {}",
            names.join(", ")
        ))
    })
}
