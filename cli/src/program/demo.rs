//! `twinspan demo`: a bridge beside the frozen pocket encoder against the head alone, on made-up
//! scenes, without a download.
//!
//! Owns what is compared and what is written; training one side is in [`trial`], pictures are in
//! [`sheet`], the page in [`page`].

mod page;
mod sheet;
mod trial;

use std::path::Path;

use indicatif::MultiProgress;
use serde::Serialize;
use serde_json::json;
use twinspan::scenes::{SIDE, files};
use twinspan::sdk::file::write_whole;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Report;
use twinspan::sdk::{Error, artifact};

use super::DemoArgs;
use super::failure::{Failure, print};
use super::model;
use super::plan::grouped;
use super::progress::Progress;
use trial::Trial;

/// What both sides train, but for the bridge.
const RECIPE: &str = include_str!("demo.toml");
/// Scenes that are drawn.
pub const SCENES: u64 = 800;

/// What one seed gave.
#[derive(Serialize)]
struct Outcome {
    seed: u64,
    bridger: Side,
    head_alone: Side,
    /// mIoU of the Bridger where every sentence is asked of another picture.
    shuffled: f64,
    /// mIoU of the best of the masks that are the same for every sentence.
    constant: f64,
    seconds: f64,
}

/// What one side gave on the scenes of the test.
#[derive(Serialize)]
struct Side {
    /// Parameters trained, those of the head among them.
    parameters: usize,
    /// Seconds of training.
    seconds: f64,
    #[serde(flatten)]
    report: Report,
}

pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.out).map_err(|source| Failure::Io {
        what: args.out.display().to_string(),
        source,
    })?;
    let mut outcomes = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let folder = match args.seeds {
            1 => args.out.clone(),
            _ => args.out.join(format!("seed-{seed}")),
        };
        let outcome = one(args, seed, &folder)?;
        show(&outcome)?;
        outcomes.push(outcome);
        // After each seed, so that an interrupted run of several leaves those that are done.
        write_results(&args.out.join("demo.json"), args, &outcomes)?;
    }
    if let [_, _, ..] = outcomes[..] {
        summary(&outcomes)?;
    }
    let out = args.out.display();
    match args.seeds {
        1 => {
            print(&format!(
                "pictures, truth and both answers: {out}/sheet.png"
            ))?;
            print(&format!("the same as a page: {out}/index.html"))?;
            print(&format!(
                "try your own sentence: twinspan segment --model {out}/bridger --image {out}/scenes/images/scenes/000009.jpg --text \"the largest shape\" --out masks"
            ))
        }
        _ => print(&format!(
            "pictures and a page of each seed are in {out}/seed-*; all scores in {out}/demo.json"
        )),
    }
}

/// The whole way for one seed, written into `folder`.
fn one(args: &DemoArgs, seed: u64, folder: &Path) -> Result<Outcome, Failure> {
    let started = std::time::Instant::now();
    std::fs::create_dir_all(folder).map_err(|source| Failure::Io {
        what: folder.display().to_string(),
        source,
    })?;
    let [with, without] = ["bridger", "head-alone"].map(|name| folder.join(name));
    for model in [&with, &without] {
        artifact::check(model)?;
    }
    let scenes = folder.join("scenes");
    let mut progress = Progress::new("scenes", args.scenes as usize);
    files::write(&scenes, seed, args.scenes, SIDE, &mut |done| {
        progress.at(done as usize, String::new());
    })?;
    progress.finish();

    let mut recipe = Recipe::parse(RECIPE, "the demo's recipe")?;
    recipe.train.seed = seed;
    if let Some(steps) = args.steps {
        recipe.train.steps = steps as usize;
    }
    let compute = model::compute("cpu")?;
    let kit = model::kit(&recipe, &compute)?;
    let data = recipe
        .task
        .plugin
        .open(&files::source(&scenes), kit.clone())?;

    let mut alone = Recipe::parse(RECIPE, "the demo's recipe")?;
    alone.adapters.clear();
    alone.train = recipe.train.clone();
    let bars = MultiProgress::new();
    let (bridger, without_bridge) = at_once(
        || Trial::run("Bridger", &recipe, data.as_ref(), &compute, &bars),
        || Trial::run("head alone", &alone, data.as_ref(), &compute, &bars),
    )?;
    let shuffled = bridger.shuffled(data.as_ref())?;
    bridger.save(&with, &recipe)?;
    without_bridge.save(&without, &alone)?;
    let constant = trial::best_constant(seed, args.scenes)?;

    let shown = sheet::choose(seed, args.scenes);
    let tiles = sheet::tiles(&shown, &[&bridger, &without_bridge], &recipe, &kit)?;
    sheet::write(&folder.join("sheet.png"), &tiles)?;
    let outcome = Outcome {
        seed,
        bridger: bridger.side(),
        head_alone: without_bridge.side(),
        shuffled,
        constant,
        seconds: rounded(started.elapsed().as_secs_f64()),
    };
    page::write(folder, &outcome, &tiles)?;
    Ok(outcome)
}

/// Does both, each on half of the cores: steps as small as these gain little from more.
fn at_once<A: Send, B: Send>(
    a: impl FnOnce() -> Result<A, Failure> + Send,
    b: impl FnOnce() -> Result<B, Failure> + Send,
) -> Result<(A, B), Failure> {
    let half = std::thread::available_parallelism().map_or(1, |n| (usize::from(n) / 2).max(1));
    let pool = || {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(half);
        threads.build().map_err(Error::plugin)
    };
    let (first, second) = (pool()?, pool()?);
    std::thread::scope(|scope| {
        let a = scope.spawn(|| first.install(a));
        let b = second.install(b);
        match a.join() {
            Ok(a) => Ok((a?, b?)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Seconds to a tenth, as results state them.
fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn mean(side: &Side) -> f64 {
    score(&side.report.scores, "mIoU")
}

fn score(scores: &[(String, f64)], name: &str) -> f64 {
    let found = scores.iter().find(|(n, _)| n == name);
    found.map_or(f64::NAN, |(_, value)| *value)
}

/// Rows of the table that both the terminal and the page show: what, sentences, and the mIoU of
/// both sides.
fn rows(outcome: &Outcome) -> Vec<(String, usize, f64, f64)> {
    let (with, without) = (&outcome.bridger.report, &outcome.head_alone.report);
    let mut rows = vec![(
        "all sentences".to_string(),
        with.count,
        mean(&outcome.bridger),
        mean(&outcome.head_alone),
    )];
    for (a, b) in with.groups.iter().zip(&without.groups) {
        let (x, y) = (score(&a.scores, "mIoU"), score(&b.scores, "mIoU"));
        rows.push((a.name.clone(), a.count, x, y));
    }
    rows
}

fn show(outcome: &Outcome) -> Result<(), Failure> {
    print(&format!(
        "seed {}: mIoU on {} sentences about scenes that training never saw ({:.0} s)",
        outcome.seed, outcome.bridger.report.count, outcome.seconds
    ))?;
    print(&format!(
        "  {:16} {:>9} {:>9} {:>11}",
        "", "sentences", "Bridger", "head alone"
    ))?;
    for (name, count, with, without) in rows(outcome) {
        print(&format!(
            "  {name:16} {count:>9} {with:>9.1} {without:>11.1}"
        ))?;
    }
    print(&format!(
        "  {:16} {:>9} {:>9} {:>11}",
        "trained",
        "",
        grouped(outcome.bridger.parameters),
        grouped(outcome.head_alone.parameters)
    ))?;
    print(&format!(
        "  for comparison: {:.1} with the sentences shuffled among the pictures, {:.1} for the best mask that never changes",
        outcome.shuffled, outcome.constant
    ))
}

fn summary(outcomes: &[Outcome]) -> Result<(), Failure> {
    let ahead = |o: &Outcome| mean(&o.bridger) - mean(&o.head_alone);
    let all: Vec<String> = outcomes
        .iter()
        .map(|o| format!("{:+.1}", ahead(o)))
        .collect();
    let average = outcomes.iter().map(ahead).sum::<f64>() / outcomes.len() as f64;
    print(&format!(
        "Bridger against the head alone, by seed: {} points of mIoU, {average:+.1} on average",
        all.join(", ")
    ))
}

fn write_results(path: &Path, args: &DemoArgs, outcomes: &[Outcome]) -> Result<(), Failure> {
    let steps = match args.steps {
        Some(steps) => steps as usize,
        None => Recipe::parse(RECIPE, "the demo's recipe")?.train.steps,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results = json!({
        "command": format!("twinspan demo --seed {} --seeds {} --scenes {} --steps {steps}", args.seed, args.seeds, args.scenes),
        "version": env!("CARGO_PKG_VERSION"),
        "threads": threads,
        "scenes": args.scenes,
        "runs": outcomes,
    });
    let text = serde_json::to_string_pretty(&results).map_err(Error::plugin)?;
    write_whole(path, |file| writeln!(file, "{text}"))?;
    Ok(())
}
