//! `twinspan train`: a recipe and data to a run folder.

use std::path::Path;

use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::run::{End, Outcome, Run, Start};
use twinspan::sdk::weights;

use super::TrainArgs;
use super::failure::{Failure, print};
use super::model;
use super::plan::grouped;
use super::progress::{DownloadProgress, TrainProgress};
use super::signals::Signals;

pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    let start = match (args.resume, args.overwrite) {
        (true, _) => Start::Resume,
        (false, true) => Start::Overwrite,
        (false, false) => Start::New,
    };
    let run = Run::claim(&args.out, start)?;
    let mut recipe = Recipe::open_adapted(&args.recipe, args.adapters.as_deref(), &args.set)?;
    let weights = &recipe.weights;
    let paths = [&weights.weights, &weights.tokenizer].into_iter();
    let paths = paths.chain(&weights.more_weights).map(Path::new);
    let source = args.data.source();
    model::spares(&args.out, paths.chain([source.path.as_path()]))?;
    let downloads = DownloadProgress::default();
    recipe = weights::described(&recipe, &downloads)?;
    // From here on the recipe, which the model folder keeps, says what it took from the data.
    recipe.task = recipe.task.fitted(&source)?;
    let compute = model::compute(&args.device)?;
    let kit = model::kit(&recipe, &compute)?;
    let tokenizer = kit.tokenizer.clone();
    let data = recipe.task.plugin.open(&source, kit)?;
    recipe = recipe.fitted(data.as_ref())?;
    run.fits(&recipe, data.as_ref())?;
    for warning in data.warnings() {
        eprintln!("warning: {warning}");
    }
    let summary = plan(&recipe)?;
    let what = match summary.adapter_parameters + summary.head_parameters {
        0 => "nothing trains".into(),
        trained => format!("training {} parameters", grouped(trained)),
    };
    eprintln!(
        "{what} beside the frozen {} of {}",
        grouped(summary.backbone_parameters),
        summary.backbone
    );
    if recipe.weights.random().is_some() {
        eprintln!(
            "warning: the frozen weights are random ({})",
            recipe.weights.weights
        );
    }
    let out = args.out.display();
    match run.standing() {
        Some(standing) => eprintln!("{out}: going on after step {}", standing.step),
        None if args.resume => eprintln!("{out}: nothing was saved there yet; starting a run"),
        None => {}
    }
    let base = weights::open_telling(&recipe, &downloads)?;
    let mut tuned = run.model(&recipe, base, compute, tokenizer.as_ref(), data.as_ref())?;
    let signals = Signals::listen()?;
    let mut progress = TrainProgress::watching(&signals);
    let outcome = run.train(&recipe, &mut tuned, data.as_ref(), &mut progress)?;
    progress.finish();
    if let (End::Stopped, Some(signal)) = (outcome.end, signals.asked()) {
        return Err(Failure::Stopped {
            message: stopped(args, &outcome),
            signal,
        });
    }
    print(&summed_up(args, &outcome))?;
    match &outcome.standing.best {
        None => Ok(()),
        Some(best) => print(&format!(
            "best: {} {:.2} on {} after step {}",
            best.metric, best.score, recipe.train.evaluate_split, best.step
        )),
    }
}

fn stopped(args: &TrainArgs, outcome: &Outcome) -> String {
    match outcome.standing.step {
        0 => "stopped before the first step; nothing was saved".into(),
        step => format!(
            "{}: stopped and saved after step {step} of {}; the same command with --resume goes on",
            args.out.display(),
            outcome.steps
        ),
    }
}

fn summed_up(args: &TrainArgs, outcome: &Outcome) -> String {
    let standing = &outcome.standing;
    if outcome.steps == 0 {
        return format!(
            "{}: nothing trains, so no step was taken; the model is saved as its adapters start",
            args.out.display()
        );
    }
    let why = match outcome.end {
        End::Patience => format!(
            " (stopped early: no better in {} evaluations)",
            standing.stale
        ),
        _ => String::new(),
    };
    let done = match (outcome.history.is_empty(), standing.step) {
        (true, step) => format!("{step} steps were done already, in"),
        (false, 1) => "1 step in".into(),
        (false, step) => format!("{step} steps in"),
    };
    format!(
        "{}: {done} {:.0} s, last loss {:.4}{why}",
        args.out.display(),
        standing.seconds,
        standing.loss.unwrap_or(f64::NAN)
    )
}
