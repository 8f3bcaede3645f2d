//! `twinspan segment`: a picture and sentences to masks and overlays.

use std::path::PathBuf;

use candle_core::Device;
use serde::Serialize;
use twinspan::sdk::file::write_whole;
use twinspan::sdk::plugin::Plugin;
use twinspan::tasks::picture;
use twinspan::tasks::referring_segmentation::ReferringSegmentation;
use twinspan::tasks::referring_segmentation::predict::segment;

use super::SegmentArgs;
use super::failure::{Failure, print, print_json};
use super::model::{Model, has_folder};

/// The colour of the mask in an overlay.
const TINT: [u8; 3] = [230, 57, 70];

#[derive(Serialize)]
struct Row {
    sentence: String,
    mask: PathBuf,
    overlay: PathBuf,
    width: u32,
    height: u32,
    /// Pixels in the mask.
    area: usize,
    /// Mean probability in the mask.
    score: f64,
}

pub fn run(args: &SegmentArgs) -> Result<(), Failure> {
    if let Some(file) = &args.logits {
        has_folder("--logits", file)?;
    }
    let image = picture::open(&args.image)?;
    let model = Model::open(&args.model)?;
    if model.recipe.task.name != ReferringSegmentation::NAME {
        return Err(Failure::Usage(format!(
            "this model's task is `{}`; segment needs `{}`",
            model.recipe.task.name,
            ReferringSegmentation::NAME
        )));
    }
    let options = ReferringSegmentation::from_options(&model.recipe.task.options)?;
    let (predictions, logits) = segment(&model.tuned, &options, &model.kit, &image, &args.text)?;
    std::fs::create_dir_all(&args.out).map_err(|source| Failure::Io {
        what: args.out.display().to_string(),
        source,
    })?;
    let stem = args.image.file_stem().unwrap_or_default().to_string_lossy();
    let mut rows = Vec::new();
    for (i, prediction) in predictions.into_iter().enumerate() {
        if prediction.cut {
            eprintln!(
                "warning: sentence {} is longer than {} ids and was cut",
                i + 1,
                options.words
            );
        }
        let name = format!("{stem}-{}", i + 1);
        let mask = args.out.join(format!("{name}.mask.png"));
        let overlay = args.out.join(format!("{name}.overlay.png"));
        picture::save_mask(&mask, prediction.width, prediction.height, &prediction.mask)?;
        let tinted = picture::overlay(&image, &prediction.mask, TINT)?;
        picture::save_picture(&overlay, &tinted)?;
        rows.push(Row {
            sentence: prediction.sentence,
            mask,
            overlay,
            width: prediction.width,
            height: prediction.height,
            area: prediction.mask.iter().filter(|m| **m).count(),
            score: prediction.score,
        });
    }
    if let Some(path) = &args.logits {
        let logits = logits.to_device(&Device::Cpu)?.contiguous()?;
        let bytes = safetensors::serialize([("logits", logits)], None)
            .map_err(twinspan::sdk::Error::plugin)?;
        write_whole(path, |file| file.write_all(&bytes))?;
    }
    if args.json {
        return print_json(&rows);
    }
    for row in &rows {
        let share = 100.0 * row.area as f64 / (row.width as f64 * row.height as f64);
        print(&format!(
            "{}  {share:.1}% of the picture, mean probability {:.2}: {}",
            row.mask.display(),
            row.score,
            row.sentence
        ))?;
    }
    Ok(())
}
