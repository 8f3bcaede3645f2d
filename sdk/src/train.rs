//! The training loop.
//!
//! Owns the order of examples, accumulation, clipping, and the one step from batch to updated
//! overlay. Knows no task; progress goes to an [`Observer`].

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::{Error, Result};
use crate::optimizer::{Gradients, Optimizer};
use crate::pass::Pass;
use crate::random;
use crate::recipe::TrainOptions;
use crate::schedule;
use crate::task::{Batch, Dataset};
use crate::tuned::Tuned;

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
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
}

/// Someone who watches a run.
pub trait Observer {
    /// A step is done.
    ///
    /// # Errors
    /// The run stops with it.
    fn step(&mut self, report: &StepReport) -> Result<()>;
}

/// Nobody watches.
pub struct Unwatched;

impl Observer for Unwatched {
    fn step(&mut self, _report: &StepReport) -> Result<()> {
        Ok(())
    }
}

/// A model in training, step by step.
pub struct Trainer<'a> {
    tuned: &'a mut Tuned,
    options: TrainOptions,
    optimizer: Optimizer,
    step: usize,
    steps: usize,
}

impl<'a> Trainer<'a> {
    /// A trainer that will take `steps` steps.
    ///
    /// # Errors
    /// Nothing trains, or the options name a group that does not exist.
    pub fn new(tuned: &'a mut Tuned, options: &TrainOptions, steps: usize) -> Result<Self> {
        if tuned.overlay.trained.is_empty() {
            return Err(Error::wrong_use(
                "nothing trains: neither an adapter nor the head has parameters",
            ));
        }
        Ok(Self {
            optimizer: Optimizer::new(options, &tuned.overlay)?,
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
        let mut sum: Option<GradStore> = None;
        let mut total = 0.0;
        for (i, batch) in batches.iter().enumerate() {
            let number = (self.step * batches.len() + i) as u64;
            let mut pass = Pass::train(random::mix(self.options.seed, number));
            let (loss, own) = self.backward(batch, &mut pass, 1.0 / batches.len() as f64)?;
            self.finite(loss)?;
            total += loss / batches.len() as f64;
            sum = Some(match sum {
                Some(mut before) => {
                    before.extend(own)?;
                    before
                }
                None => own,
            });
            pass.commit()?;
        }
        let mut store = sum.unwrap_or_default();
        for life in self.tuned.lives() {
            life.after_backward(self.step, &mut store)?;
        }
        let mut gradients = self.of_trained(store)?;
        let norm = clip(&mut gradients, self.options.clip)?;
        self.finite(norm)?;
        let factor = schedule::factor(&self.options.schedule, self.step, self.steps);
        self.optimizer
            .step(&self.tuned.overlay, &gradients, factor)?;
        let report = StepReport {
            step: self.step,
            steps: self.steps,
            loss: total,
            rate: self.options.rate * factor,
            norm,
        };
        self.step += 1;
        Ok(report)
    }

    fn backward(&self, batch: &Batch, pass: &mut Pass, share: f64) -> Result<(f64, GradStore)> {
        let loss = self.tuned.loss(batch, pass)?;
        let value = loss.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        let loss = if share == 1.0 { loss } else { (loss * share)? };
        Ok((value, loss.backward()?))
    }

    fn of_trained(&self, mut store: GradStore) -> Result<Gradients> {
        let mut gradients = Gradients::new();
        for (name, trained) in &self.tuned.overlay.trained {
            let gradient = store
                .remove(&trained.var)
                .ok_or_else(|| Error::NoGradient { name: name.clone() })?;
            gradients.insert(name.clone(), gradient);
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
/// epoch's a function of the seed and its number.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    examples: usize,
    epoch: u64,
    left: Vec<usize>,
}

impl Order {
    /// The order of `examples` examples under `seed`.
    pub fn new(seed: u64, examples: usize) -> Self {
        Self {
            seed,
            examples,
            epoch: 0,
            left: Vec::new(),
        }
    }

    /// The next `n` examples.
    pub fn take(&mut self, n: usize) -> Vec<usize> {
        let mut taken = Vec::with_capacity(n);
        while taken.len() < n && self.examples > 0 {
            if self.left.is_empty() {
                let key = random::mix(random::key(self.seed, "order"), self.epoch);
                self.left = random::permutation(key, self.examples);
                self.epoch += 1;
            }
            taken.extend(self.left.pop());
        }
        taken
    }
}

/// Steps of a run over `examples` examples.
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

/// Trains `tuned` on the split that `options` name.
///
/// # Errors
/// The split does not exist or is empty, a file is not what it should be, the loss diverges.
pub fn train(
    tuned: &mut Tuned,
    data: &dyn Dataset,
    options: &TrainOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<StepReport>> {
    let examples = data.len(&options.split)?;
    if examples == 0 {
        return Err(Error::wrong_use(format!(
            "split `{}` is empty",
            options.split
        )));
    }
    let steps = steps(options, examples);
    let batch = batch_size(options, examples);
    let mut order = Order::new(options.seed, examples);
    let mut trainer = Trainer::new(tuned, options, steps)?;
    let mut history = Vec::new();
    for step in 0..steps {
        let mut batches = Vec::new();
        for part in 0..options.accumulate {
            let number = (step * options.accumulate + part) as u64;
            let choice = random::mix(random::key(options.seed, "choice"), number);
            batches.push(data.train(&options.split, &order.take(batch), choice)?);
        }
        let report = trainer.step(&batches)?;
        observer.step(&report)?;
        history.push(report);
    }
    Ok(history)
}
