//! `twinspan demo`: the whole way on made-up pictures, without a download.
//!
//! A bridge and a head learn to find shapes by their names, beside a frozen CLIP that knows
//! nothing (its weights are random); what they learned is scored and shown on scenes that
//! training never saw.

use std::path::Path;

use image::RgbImage;
use serde_json::json;
use twinspan::scenes::{Scene, write_data};
use twinspan::sdk::evaluate::evaluate;
use twinspan::sdk::plugin::Plugin;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::train::train;
use twinspan::sdk::tuned::Tuned;
use twinspan::sdk::{artifact, weights};
use twinspan::tasks::picture;
use twinspan::tasks::referring_segmentation::ReferringSegmentation;
use twinspan::tasks::referring_segmentation::predict::segment;

use super::DemoArgs;
use super::failure::{Failure, print};
use super::model;
use super::progress::{Progress, TrainProgress};

/// The recipe, also for copying.
const RECIPE: &str = include_str!("demo.toml");
/// Side of the scenes in pixels.
const SIZE: u32 = 96;
const TRAIN: u64 = 120;
const HELD_OUT: u64 = 24;
/// Scenes on the contact sheet.
const SHOWN: u64 = 5;
const TINT: [u8; 3] = [255, 64, 200];

pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let folder = &args.out;
    let scenes = folder.join("scenes");
    let out = folder.join("model");
    let made = |source| Failure::Io {
        what: folder.display().to_string(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(made)?;
    artifact::check(&out)?;
    eprintln!(
        "drawing {} scenes into {}",
        TRAIN + HELD_OUT,
        scenes.display()
    );
    write_data(&scenes, args.seed, TRAIN, HELD_OUT, SIZE)?;

    let mut recipe = Recipe::parse(RECIPE, "the demo's recipe")?;
    recipe.train.seed = args.seed;
    if let Some(steps) = args.steps {
        recipe.train.steps = steps as usize;
    }
    let compute = model::compute("cpu")?;
    let kit = model::kit(&recipe, &compute)?;
    let data = recipe
        .task
        .plugin
        .open(&scenes.join("scenes.jsonl").into(), kit.clone())?;
    let mut tuned = Tuned::new(&recipe, weights::open(&recipe)?, compute)?;
    train(
        &mut tuned,
        data.as_ref(),
        &recipe.train,
        &mut TrainProgress::new(),
    )?;

    let mut progress = Progress::new("eval", data.len("held-out")?);
    let report = evaluate(&tuned, data.as_ref(), "held-out", 8, &mut |done, _| {
        progress.at(done, String::new());
    })?;
    progress.finish();
    let scores: serde_json::Map<_, _> = report
        .scores
        .iter()
        .map(|(n, v)| (n.clone(), json!(v)))
        .collect();
    artifact::save(
        &out,
        &recipe,
        &tuned,
        &json!({ "held-out": scores }),
        &|_| Ok(()),
    )?;

    let sheet = folder.join("sheet.png");
    let task = ReferringSegmentation::from_options(&recipe.task.options)?;
    contact_sheet(&sheet, args.seed, |image, sentences| {
        let (predictions, _) = segment(&tuned, &task, &kit, image, sentences)?;
        Ok(predictions.into_iter().map(|p| p.mask).collect())
    })?;
    print(&format!(
        "{} sentences on {HELD_OUT} scenes that training never saw:",
        report.count
    ))?;
    for (name, value) in &report.scores {
        print(&format!("  {name:8} {value:6.2}"))?;
    }
    print(&format!(
        "pictures, truth and answers side by side: {}",
        sheet.display()
    ))?;
    print(&format!(
        "the model, for `twinspan segment --model`: {}",
        out.display()
    ))
}

/// For each scene shown, and two of its sentences: the picture, the truth, the answer.
fn contact_sheet(
    path: &Path,
    seed: u64,
    answer: impl Fn(&RgbImage, &[String]) -> Result<Vec<Vec<bool>>, Failure>,
) -> Result<(), Failure> {
    const GAP: u32 = 6;
    let step = SIZE + GAP;
    let mut sheet = RgbImage::from_pixel(
        6 * step + GAP,
        SHOWN as u32 * step + GAP,
        image::Rgb([255; 3]),
    );
    for row in 0..SHOWN {
        let scene = Scene::new(seed, TRAIN + row, SIZE);
        let picture = scene.picture();
        let sentences: Vec<String> = scene.things.iter().map(|t| t.sentence.clone()).collect();
        let answers = answer(&picture, &sentences)?;
        for (pair, (thing, mask)) in scene.things.iter().zip(&answers).take(2).enumerate() {
            let truth = picture::overlay(&picture, &scene.mask(thing), TINT)?;
            let answer = picture::overlay(&picture, mask, TINT)?;
            for (i, tile) in [&picture, &truth, &answer].into_iter().enumerate() {
                let x = GAP + (3 * pair + i) as u32 * step;
                let y = GAP + row as u32 * step;
                image::imageops::replace(&mut sheet, tile, i64::from(x), i64::from(y));
            }
        }
    }
    picture::save_picture(path, &sheet)?;
    Ok(())
}
