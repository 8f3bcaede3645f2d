//! How a law is put to a plugin: the models, the batch, and what must be equal.
//!
//! Owns the trial of each law and its tolerance. Models compute in f64 on random weights, so
//! that what is equal but for the order of sums differs by far less than [`REORDERED`], and what
//! is not equal by far more. Which laws are put is [`laws`](super)'s choice.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Law;
use crate::adapter::{Adapter, Slot, Want};
use crate::backbone::Backbone;
use crate::base::Base;
use crate::error::{Error, Result};
use crate::hooks::Affine;
use crate::parameter::{Init, Parameter};
use crate::pass::Pass;
use crate::plan::plan;
use crate::recipe::{GroupOptions, Recipe, TrainOptions, WeightsChoice};
use crate::registry::Configured;
use crate::site::{Projection, Sites};
use crate::stream::Stream;
use crate::task::{Batch, Dataset, Scores, Task};
use crate::testkit::{Look, Scripted, ToyTask, silent_places};
use crate::tokenizer::Tokenizer;
use crate::train::Trainer;
use crate::tuned::{Compute, HEAD, Tuned};
use crate::{artifact, ops, weights};

/// Of the largest value: sums of some thousand terms in f64, taken in another order, differ by
/// some 1e-13 of it, and folding a weight adds as much.
const REORDERED: f64 = 1e-9;
/// How far parameters are moved from their start.
const AWAY: Init = Init::Normal(0.1);
/// Steps that must lower the loss, and their rate: small, so that steps follow the slope and do
/// not leap over the valley, whatever the backbone's scale.
const STEPS: usize = 10;
const RATE: f64 = 1e-4;
/// Sentences of several lengths.
const SENTENCES: [&str; 3] = ["a red disc", "it", "the square on the left"];
const PICTURES: usize = 2;

/// Whether a law is put.
pub(super) enum Choice {
    Put,
    Skip(String),
}

/// Whether a plan failed because the backbone at hand lacks what a plugin is for, or because
/// plugins contradict each other.
pub(super) fn is_refused(error: &Error) -> bool {
    matches!(
        error,
        Error::NoSuchSite { .. }
            | Error::NoSuchTap { .. }
            | Error::Options { kind: "task", .. }
            | Error::Cycle { .. }
            | Error::SecondReparametrisation { .. }
            | Error::NameTaken { .. }
    )
}

/// A plugin in a recipe that can be planned, its base, and a batch.
pub(super) struct Trial {
    recipe: Recipe,
    base: Base,
    tokenizer: Arc<dyn Tokenizer>,
    batch: Batch,
    /// Whether the task has a loss without data.
    lossy: bool,
    /// Whether anything trains.
    trains: bool,
}

impl Trial {
    /// With a head that looks at everything; at the logits alone where an adapter acts there.
    pub fn of_adapters(
        adapters: &[Configured<dyn Adapter>],
        backbone: &Configured<dyn Backbone>,
    ) -> Result<Self> {
        let on = |task: ToyTask| {
            let task = Configured::<dyn Task>::of(task)?;
            Self::of(recipe(backbone, adapters.to_vec(), task)?, true)
        };
        match on(ToyTask::default()) {
            Err(Error::Unread { .. }) => on(ToyTask::of(&[Look::Logits])),
            trial => trial,
        }
    }

    pub fn of_backbone(backbone: &Configured<dyn Backbone>) -> Result<Self> {
        let task = Configured::<dyn Task>::of(ToyTask::default())?;
        Self::of(recipe(backbone, Vec::new(), task)?, true)
    }

    pub fn of_task(
        task: &Configured<dyn Task>,
        backbone: &Configured<dyn Backbone>,
    ) -> Result<Self> {
        Self::of(recipe(backbone, Vec::new(), task.clone())?, false)
    }

    fn of(recipe: Recipe, lossy: bool) -> Result<Self> {
        let backbone = recipe.backbone.plugin.as_ref();
        let topology = backbone.topology()?;
        let tokenizer = backbone.tokenizer(None)?;
        let words = match recipe.task.plugin.words() {
            0 => topology.text.context,
            words => words.min(topology.text.context),
        };
        let side = backbone.preparation().size;
        let shape = [PICTURES, 3, side, side];
        let ids: Vec<u32> = SENTENCES
            .iter()
            .flat_map(|sentence| tokenizer.encode(sentence, words).ids)
            .collect();
        let pictures = 0..PICTURES as u32;
        let pairs = pictures.flat_map(|p| (0..SENTENCES.len() as u32).map(move |s| (p, s)));
        let pairs: Vec<(u32, u32)> = pairs.collect();
        let batch = Batch {
            images: Init::Normal(1.0).tensor(1, "pictures", &shape, DType::F64, &Device::Cpu)?,
            tokens: Tensor::from_vec(ids, (SENTENCES.len(), words), &Device::Cpu)?,
            examples: pairs.iter().map(|p| p.0 as usize).collect(),
            pairs,
            target: None,
        };
        let recipe = recipe.fitted(&Shown(batch.clone()))?;
        let planned = plan(&recipe)?;
        Ok(Self {
            base: weights::random(&topology, 0)?,
            recipe,
            tokenizer,
            batch,
            lossy,
            trains: planned.adapter_parameters + planned.head_parameters > 0,
        })
    }

    /// Whether there are several adapters, which may contradict each other.
    pub fn is_union(&self) -> bool {
        self.recipe.adapters.len() > 1
    }

    /// Whether there is anything to train.
    pub fn trains(&self) -> bool {
        self.trains
    }

    /// What breaks a law, if anything does.
    pub fn put(&self, law: Law) -> Result<Option<String>> {
        match law {
            // Put to the registered plugin, not to a model.
            Law::RoundTrip => Ok(None),
            Law::Start => self.start(),
            Law::Gradients => self.gradients(),
            Law::Saved => self.saved(),
            Law::Permutation => self.permutation(),
            Law::Merge => self.merge(),
            Law::Learning => self.learning(),
            Law::Places => self.places(),
        }
    }

    fn start(&self) -> Result<Option<String>> {
        let bare = Tuned::new(&self.bare(), self.base.clone(), compute())?;
        let found = features(&self.fresh()?, &self.batch)?;
        let expected = features(&bare, &self.batch)?;
        Ok(first_difference(&found, &expected)?
            .map(|off| format!("before training, features differ by {off}")))
    }

    fn gradients(&self) -> Result<Option<String>> {
        let tuned = self.fresh()?;
        let trained = &tuned.overlay.trained;
        let labels = self.recipe.labels().into_iter().zip(&self.recipe.adapters);
        let mut idle = labels.filter(|(label, adapter)| {
            adapter.plugin.capabilities().trainable && tuned.overlay.count(label) == 0
        });
        if let Some((adapter, _)) = idle.next() {
            return Ok(Some(format!(
                "`{adapter}` declares to train, and has no parameter"
            )));
        }
        let store = self.loss(&tuned, &mut Pass::train(1))?.backward()?;
        if let Some((name, _)) = trained.iter().find(|(_, t)| store.get(&t.var).is_none()) {
            return Ok(Some(format!("`{name}` gets no gradient")));
        }
        let known: Vec<_> = trained.values().map(|t| t.var.id()).collect();
        let strange = store.get_ids().filter(|id| !known.contains(id)).count();
        Ok((strange > 0).then(|| format!("{strange} tensors that do not train get a gradient")))
    }

    fn saved(&self) -> Result<Option<String>> {
        let mut tuned = self.stirred()?;
        if self.lossy && !tuned.overlay.trained.is_empty() {
            let options = TrainOptions::default();
            let mut trainer = Trainer::new(&mut tuned, &options, 2)?;
            for _ in 0..2 {
                trainer.step(std::slice::from_ref(&self.batch))?;
            }
        }
        let before = values(&tuned.logits(&self.batch, &mut Pass::predict())?)?;
        let folder = tempfile::tempdir().map_err(Error::plugin)?;
        let path = folder.path().join("model");
        let metrics = serde_json::Value::Object(Default::default());
        artifact::save(&path, &self.recipe, &tuned, &metrics, &|_| Ok(()))?;
        let opened = artifact::open_on(&path, &self.recipe, self.base.clone(), compute())?;
        let after = values(&opened.logits(&self.batch, &mut Pass::predict())?)?;
        let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        Ok((bits(before) != bits(after)).then(|| "the opened model gives other bits".to_string()))
    }

    fn permutation(&self) -> Result<Option<String>> {
        let tuned = self.stirred()?;
        let adapters = self.recipe.adapters.iter();
        let by_class = adapters
            .map(|a| a.plugin.capabilities())
            .any(|c| c.by_class);
        let pictures = [1u32, 0];
        let sentences = match by_class {
            true => [0u32, 1, 2],
            false => [2, 0, 1],
        };
        let place = |order: &[u32], item: u32| {
            let place = order.iter().position(|o| *o == item);
            place.map_or(item, |p| p as u32)
        };
        let pairs = self.batch.pairs.iter().rev();
        let moved = Batch {
            images: ops::select(&self.batch.images, &pictures)?,
            tokens: ops::select(&self.batch.tokens, &sentences)?,
            pairs: pairs
                .map(|(p, s)| (place(&pictures, *p), place(&sentences, *s)))
                .collect(),
            ..self.batch.clone()
        };
        let here = tuned.logits(&self.batch, &mut Pass::predict())?;
        let expected = match here.dims() == [pictures.len(), sentences.len()] {
            true => {
                let rows = ops::select(&here, &pictures)?.t()?.contiguous()?;
                ops::select(&rows, &sentences)?.t()?
            }
            false => {
                let turned: Vec<u32> = (0..self.batch.pairs.len() as u32).rev().collect();
                ops::select(&here, &turned)?
            }
        };
        let found = tuned.logits(&moved, &mut Pass::predict())?;
        Ok(difference(&found, &expected)?
            .map(|off| format!("in another order, results differ by {off}")))
    }

    fn merge(&self) -> Result<Option<String>> {
        let tuned = self.stirred()?;
        let merged = self.merged(&tuned)?;
        let found = features(&merged, &self.batch)?;
        let expected = features(&tuned, &self.batch)?;
        Ok(first_difference(&found, &expected)?
            .map(|off| format!("over folded weights, features differ by {off}")))
    }

    /// The head stands still. The loss is that of training, with one draw of dropout: running
    /// statistics, which predictions use, follow the batches and not the slope.
    fn learning(&self) -> Result<Option<String>> {
        let mut tuned = self.fresh()?;
        let still = GroupOptions {
            rate: Some(0.0),
            ..GroupOptions::default()
        };
        let head = (tuned.overlay.count(HEAD) > 0).then(|| (HEAD.to_string(), still));
        let options = TrainOptions {
            rate: RATE,
            groups: head.into_iter().collect(),
            ..TrainOptions::default()
        };
        let loss = |tuned: &Tuned| -> Result<f64> {
            let loss = tuned.loss(&self.batch, &mut Pass::train(1))?;
            Ok(loss.to_scalar::<f64>()?)
        };
        let before = loss(&tuned)?;
        let mut trainer = Trainer::new(&mut tuned, &options, STEPS)?;
        for _ in 0..STEPS {
            trainer.step(std::slice::from_ref(&self.batch))?;
        }
        let after = loss(&tuned)?;
        Ok((after.is_nan() || after >= before)
            .then(|| format!("{STEPS} steps took the loss from {before:.3e} to {after:.3e}")))
    }

    fn places(&self) -> Result<Option<String>> {
        let silent = silent_places(self.recipe.backbone.clone(), &self.batch, compute())?;
        Ok((!silent.is_empty()).then(|| format!("offered, but silent: {}", silent.join(", "))))
    }

    fn bare(&self) -> Recipe {
        Recipe {
            adapters: Vec::new(),
            ..self.recipe.clone()
        }
    }

    /// A new model that has started.
    fn fresh(&self) -> Result<Tuned> {
        let mut tuned = Tuned::new(&self.recipe, self.base.clone(), compute())?;
        let data = Shown(self.batch.clone());
        tuned.prepare(
            Some(self.tokenizer.as_ref()),
            Some(self.recipe.training(&data)),
        )?;
        Ok(tuned)
    }

    /// The same, what trains moved away from its start.
    fn stirred(&self) -> Result<Tuned> {
        let tuned = self.fresh()?;
        for (name, trained) in &tuned.overlay.trained {
            let away = AWAY.tensor(2, name, trained.var.dims(), DType::F64, &Device::Cpu)?;
            let moved = (trained.var.as_detached_tensor() + away)?;
            trained.var.set(&moved)?;
        }
        Ok(tuned)
    }

    fn loss(&self, tuned: &Tuned, pass: &mut Pass) -> Result<Tensor> {
        match self.lossy {
            true => tuned.loss(&self.batch, pass),
            false => Ok(tuned.logits(&self.batch, pass)?.sqr()?.sum_all()?),
        }
    }

    /// The backbone alone over the merged weights of `tuned`. Where merging makes a bias that the
    /// backbone does not have, a constant is added to the output in its place.
    fn merged(&self, tuned: &Tuned) -> Result<Tuned> {
        let merged = tuned.merge()?;
        let mut recipe = self.bare();
        if !merged.biases.is_empty() {
            let shifts = merged.biases.iter();
            let shifts = shifts.map(|(name, bias)| (name.clone(), bias.value.clone()));
            recipe.adapters.push(shifted(shifts.collect()));
        }
        merged.model(&recipe, compute())
    }
}

fn recipe(
    backbone: &Configured<dyn Backbone>,
    adapters: Vec<Configured<dyn Adapter>>,
    task: Configured<dyn Task>,
) -> Result<Recipe> {
    Ok(Recipe {
        backbone: backbone.clone(),
        weights: WeightsChoice::default(),
        adapters,
        task,
        train: TrainOptions::default(),
    })
}

fn compute() -> Compute {
    Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    }
}

/// Constants added to the outputs of projections, by name.
fn shifted(shifts: BTreeMap<String, Tensor>) -> Configured<dyn Adapter> {
    let want = Want::Projections {
        sites: Sites::default(),
        default: Projection::ALL,
    };
    let scripted = Scripted::new("shift", vec![want], move |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            if let Some(shift) = shifts.get(&slot.name) {
                let affine = Affine {
                    scale: None,
                    shift: Some(Parameter::constant(shift)),
                    channels: slot.channels(),
                };
                hooks.output(slot, affine);
            }
        }
        Ok(())
    });
    scripted.configured()
}

/// One batch as data of one split, with an example for each sentence: a picture, counted round,
/// beside all sentences, of which that one is right.
struct Shown(Batch);

impl Shown {
    fn of(&self, indices: &[usize]) -> Result<Batch> {
        let pictures: Vec<u32> = indices.iter().map(|i| (i % PICTURES) as u32).collect();
        let right: Vec<u32> = indices.iter().map(|i| *i as u32).collect();
        let beside = |place: usize| (0..SENTENCES.len()).map(move |s| (place as u32, s as u32));
        Ok(Batch {
            images: ops::select(&self.0.images, &pictures)?,
            tokens: self.0.tokens.clone(),
            pairs: (0..indices.len()).flat_map(beside).collect(),
            target: Some(Tensor::new(right, &Device::Cpu)?),
            examples: indices.iter().flat_map(|i| [*i; SENTENCES.len()]).collect(),
        })
    }
}

impl Dataset for Shown {
    fn splits(&self) -> BTreeMap<String, usize> {
        [(TrainOptions::default().split, SENTENCES.len())].into()
    }

    fn len(&self, split: &str) -> Result<usize> {
        let splits = self.splits();
        splits.get(split).copied().ok_or_else(|| {
            let known: Vec<String> = splits.into_keys().collect();
            Error::wrong_use(format!(
                "there is no split `{split}`; there are: {}",
                known.join(", ")
            ))
        })
    }

    fn train(&self, _split: &str, indices: &[usize], _seed: u64) -> Result<Batch> {
        self.of(indices)
    }

    fn evaluate(&self, _split: &str, indices: &[usize]) -> Result<Batch> {
        self.of(indices)
    }

    fn scores(&self, split: &str) -> Result<Box<dyn Scores + '_>> {
        Err(Error::wrong_use(format!(
            "split `{split}` of the laws has no truth to score against"
        )))
    }
}

fn features(tuned: &Tuned, batch: &Batch) -> Result<Vec<Tensor>> {
    let streams: Vec<Stream> = tuned.forward(batch, &mut Pass::predict())?;
    Ok(streams.into_iter().map(|s| s.data).collect())
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

fn first_difference(found: &[Tensor], expected: &[Tensor]) -> Result<Option<String>> {
    for (found, expected) in found.iter().zip(expected) {
        if let Some(off) = difference(found, expected)? {
            return Ok(Some(off));
        }
    }
    Ok(None)
}

/// In words, by how much two tensors differ, if it is by more than the order of sums makes.
fn difference(found: &Tensor, expected: &Tensor) -> Result<Option<String>> {
    if found.dims() != expected.dims() {
        let (found, expected) = (found.dims(), expected.dims());
        return Ok(Some(format!("their shapes, {found:?} and {expected:?}")));
    }
    let (found, expected) = (values(found)?, values(expected)?);
    let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let off = off.fold(0.0, |most: f64, x| match x.is_nan() {
        true => f64::INFINITY,
        false => most.max(x),
    });
    Ok((off > REORDERED * largest).then(|| format!("{off:.1e} of {largest:.1e}")))
}
