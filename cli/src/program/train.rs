//! `twinspan train`: a recipe and data to a model folder.

use std::path::Path;

use serde_json::json;
use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::train::train;
use twinspan::sdk::tuned::Tuned;
use twinspan::sdk::{artifact, weights};

use super::TrainArgs;
use super::failure::{Failure, print};
use super::plan::grouped;
use super::progress::TrainProgress;
use super::{bench, model};

pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    artifact::check(&args.out)?;
    let recipe = Recipe::open_adapted(&args.recipe, args.adapters.as_deref(), &args.set)?;
    let paths = [&recipe.weights.weights, &recipe.weights.tokenizer].map(Path::new);
    let source = args.data.source();
    model::spares(&args.out, paths.into_iter().chain([source.path.as_path()]))?;
    let compute = model::compute(&args.device)?;
    let kit = model::kit(&recipe, &compute)?;
    let tokenizer = kit.tokenizer.clone();
    let data = recipe.task.plugin.open(&source, kit)?;
    data.len(&recipe.train.split)?;
    for warning in data.warnings() {
        eprintln!("warning: {warning}");
    }
    let summary = plan(&recipe)?;
    eprintln!(
        "training {} parameters beside the frozen {} of {}",
        grouped(summary.adapter_parameters + summary.head_parameters),
        grouped(summary.backbone_parameters),
        summary.backbone
    );
    if recipe.weights.random().is_some() {
        eprintln!(
            "warning: the frozen weights are random ({})",
            recipe.weights.weights
        );
    }
    let base = weights::open(&recipe)?;
    let mut tuned = Tuned::new(&recipe, base, compute)?;
    tuned.prepare(Some(tokenizer.as_ref()), Some(data.as_ref()))?;
    let started = std::time::Instant::now();
    let history = train(
        &mut tuned,
        data.as_ref(),
        &recipe.train,
        &mut TrainProgress::new(),
    )?;
    let seconds = started.elapsed().as_secs_f64();
    let loss = history.last().map(|r| r.loss);
    let metrics = json!({
        "loss": loss,
        "steps": history.len(),
        "seconds": bench::rounded(seconds),
    });
    artifact::save(&args.out, &recipe, &tuned, &metrics, &|_| Ok(()))?;
    print(&format!(
        "{}: {} steps in {seconds:.0} s, last loss {:.4}",
        args.out.display(),
        history.len(),
        loss.unwrap_or(f64::NAN)
    ))
}
