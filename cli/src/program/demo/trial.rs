//! One side of the demonstration: trained, scored, saved.

use std::path::Path;
use std::time::Instant;

use indicatif::MultiProgress;
use serde_json::json;
use twinspan::scenes::{SIDE, Scene, files};
use twinspan::sdk::evaluate::evaluate;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::{Dataset, Report};
use twinspan::sdk::train::train;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Result, artifact, ops, weights};

use super::super::failure::Failure;
use super::super::progress::{Progress, TrainProgress};
use super::{Side, rounded, score};

/// The split that both sides are scored on.
const TEST: &str = "test";
/// Objects that are scored together. Sentences are shuffled within these, so they are many.
const TOGETHER: usize = 48;

/// A model and how it did.
pub struct Trial {
    /// What it is called.
    pub name: &'static str,
    /// The model.
    pub model: Tuned,
    report: Report,
    seconds: f64,
}

impl Trial {
    /// Trains what `recipe` says, from its seed, and scores it.
    pub fn run(
        name: &'static str,
        recipe: &Recipe,
        data: &dyn Dataset,
        compute: &Compute,
        bars: &MultiProgress,
    ) -> std::result::Result<Self, Failure> {
        let mut model = Tuned::new(recipe, weights::open(recipe)?, compute.clone())?;
        model.prepare(None, Some(recipe.training(data)))?;
        let started = Instant::now();
        let mut training = TrainProgress::among(bars, name);
        train(&mut model, data, &recipe.train, &mut training)?;
        training.finish();
        let seconds = rounded(started.elapsed().as_secs_f64());
        let mut progress = Progress::new("test", data.len(TEST)?).among(bars);
        let report = evaluate(&model, data, TEST, TOGETHER, &mut |done, _| {
            progress.at(done, String::new());
        })?;
        progress.finish();
        Ok(Self {
            name,
            model,
            report,
            seconds,
        })
    }

    /// What is kept of it.
    pub fn side(&self) -> Side {
        let trained = self.model.overlay.trained.values();
        Side {
            parameters: trained.map(|t| t.var.elem_count()).sum(),
            seconds: self.seconds,
            report: self.report.clone(),
        }
    }

    /// mIoU where every sentence is asked of another picture than its own.
    pub fn shuffled(&self, data: &dyn Dataset) -> Result<f64> {
        let all: Vec<usize> = (0..data.len(TEST)?).collect();
        let mut scores = data.scores(TEST)?;
        for indices in all.chunks(TOGETHER) {
            let mut batch = data.evaluate(TEST, indices)?;
            let sentences = batch.tokens.dim(0)? as u32;
            // Sentences of one picture stand together: half a batch on is another's.
            let rows: Vec<u32> = (0..sentences)
                .map(|row| (row + sentences / 2) % sentences)
                .collect();
            batch.tokens = ops::select(&batch.tokens, &rows)?;
            let (features, logits) = self.model.predict(&batch)?;
            scores.add(&batch, &features, &logits)?;
        }
        Ok(score(&scores.report()?.scores, "mIoU"))
    }

    /// Writes the model's folder.
    pub fn save(&self, path: &Path, recipe: &Recipe) -> Result<()> {
        let scores = self.report.scores.iter();
        let scores: serde_json::Map<_, _> = scores.map(|(n, v)| (n.clone(), json!(v))).collect();
        let metrics = json!({ TEST: scores });
        artifact::save(path, recipe, &self.model, &metrics, &|_| Ok(()))
    }
}

/// mIoU on the test of the best mask that is the same for every sentence: the pixels that objects
/// of the test have at least so often, for the best such share. Chosen on the test itself, which
/// can only flatter it.
pub fn best_constant(seed: u64, scenes: u64) -> Result<f64> {
    let mut truths: Vec<(Vec<bool>, usize)> = Vec::new();
    for number in (0..scenes).filter(|n| files::split(*n) == TEST) {
        let scene = Scene::new(seed, number, SIDE);
        let sayings = scene.sentences();
        for (thing, mask) in scene.masks().into_iter().enumerate() {
            let sentences = sayings.iter().filter(|(of, _)| *of == thing).count();
            truths.push((mask, sentences));
        }
    }
    let sentences: usize = truths.iter().map(|(_, n)| n).sum();
    let mut often = vec![0usize; (SIDE * SIDE) as usize];
    for (mask, n) in &truths {
        for (often, inside) in often.iter_mut().zip(mask) {
            *often += n * usize::from(*inside);
        }
    }
    let most = often.iter().copied().max().unwrap_or(0);
    let shares = (0..40).map(|i| most * i / 40);
    let scores = shares.map(|least| {
        let mut sum = 0.0;
        for (mask, n) in &truths {
            let (mut both, mut either) = (0usize, 0usize);
            for (often, inside) in often.iter().zip(mask) {
                let constant = *often >= least;
                both += usize::from(constant && *inside);
                either += usize::from(constant || *inside);
            }
            sum += *n as f64 * both as f64 / (either as f64 + 1e-6);
        }
        100.0 * sum / sentences.max(1) as f64
    });
    Ok(scores.fold(0.0, f64::max))
}
