//! Scenes as a data set on disk, in the layout of RefCOCO.
//!
//! Owns names, splits and what is written of a scene; the layout itself is
//! [`refcoco`]'s.
//!
//! ```text
//! DIR/images/scenes/000000.jpg …        the pictures
//! DIR/scenes/instances.json             outlines, as packed run lengths
//! DIR/scenes/refs(synth).p              sentences, each with its kind
//! DIR/descriptions.jsonl                what is in each scene
//! ```

use std::fs;
use std::io;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use twinspan_sdk::file::write_folder;
use twinspan_sdk::task::DataSource;
use twinspan_sdk::{Error, Result};
use twinspan_tasks::mask::Mask;
use twinspan_tasks::record::{Record, Region, Sentence};
use twinspan_tasks::refcoco;
use twinspan_tasks::run_length::RunLengths;

use super::Scene;

/// The data set's name in its folder.
pub const DATASET: &str = "scenes";
/// What its splits are by.
pub const SPLIT_BY: &str = "synth";
/// By which a folder of scenes is recognised.
const MARK: &str = "descriptions.jsonl";
const QUALITY: u8 = 92;

/// The split of scene `number`: of ten in a row eight train, one validates, one tests.
pub fn split(number: u64) -> &'static str {
    match number % 10 {
        8 => "val",
        9 => "test",
        _ => "train",
    }
}

/// Where the data set below `folder` is, for [`Task::open`](twinspan_sdk::task::Task::open).
pub fn source(folder: &Path) -> DataSource {
    DataSource {
        path: folder.into(),
        dataset: Some(DATASET.into()),
        split_by: Some(SPLIT_BY.into()),
    }
}

/// Draws scenes 0 to `images` - 1 of `seed`, `side` pixels wide and high, and writes them as the
/// folder `folder`, whole or not at all; one that such scenes were written to is replaced.
/// `progress` is told scenes done.
///
/// # Errors
/// The folder cannot be written, or holds something else.
pub fn write(
    folder: &Path,
    seed: u64,
    images: u64,
    side: u32,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    write_folder(folder, MARK, |folder| {
        fill(folder, seed, images, side, progress).map_err(io::Error::other)
    })?;
    Ok(())
}

/// Scenes that are drawn together.
const TOGETHER: u64 = 64;

fn fill(
    folder: &Path,
    seed: u64,
    images: u64,
    side: u32,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    let pictures = folder.join("images").join(DATASET);
    fs::create_dir_all(&pictures).map_err(Error::plugin)?;
    let mut descriptions = String::new();
    let mut records = Vec::new();
    let mut number = 0;
    while number < images {
        let next = (number + TOGETHER).min(images);
        let drawn: Vec<_> = (number..next)
            .into_par_iter()
            .map(|number| draw(&pictures, seed, number, side))
            .collect::<Result<_>>()?;
        for (scene, own) in drawn {
            descriptions += &serde_json::to_string(&scene).map_err(Error::plugin)?;
            descriptions.push('\n');
            records.extend(own);
        }
        number = next;
        progress(number);
    }
    refcoco::write(folder, DATASET, SPLIT_BY, &records, &mut |_, _| {}).map_err(Error::plugin)?;
    fs::write(folder.join(MARK), descriptions).map_err(Error::plugin)
}

/// Writes one picture, and gives the scene and what is said of its things.
fn draw(pictures: &Path, seed: u64, number: u64, side: u32) -> Result<(Scene, Vec<Record>)> {
    let scene = Scene::new(seed, number, side);
    let image = pictures.join(format!("{number:06}.jpg"));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode_image(&scene.picture())
        .map_err(Error::plugin)?;
    fs::write(&image, bytes).map_err(Error::plugin)?;
    let mut records = Vec::new();
    let sayings = scene.sentences();
    for (thing, inside) in scene.masks().into_iter().enumerate() {
        let said = sayings.iter().filter(|(of, _)| *of == thing);
        let sentences: Vec<_> = said
            .map(|(_, saying)| Sentence {
                text: saying.text(),
                kind: Some(saying.kind().name().into()),
            })
            .collect();
        if sentences.is_empty() {
            continue;
        }
        let mask = Mask {
            width: side,
            height: side,
            values: inside
                .iter()
                .map(|inside| u8::from(*inside) * 255)
                .collect(),
        };
        records.push(Record {
            image: image.clone(),
            region: Region::RunLengths(RunLengths::of(&mask).map_err(Error::plugin)?),
            sentences,
            split: split(number).into(),
        });
    }
    Ok((scene, records))
}
