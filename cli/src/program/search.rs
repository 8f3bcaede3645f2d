//! `twinspan search`: the pictures that a sentence describes best.

use candle_core::Tensor;
use image::{Rgb, RgbImage, imageops};
use serde::Serialize;
use twinspan::tasks::picture;
use twinspan::tasks::ranking::Vectors;

use super::SearchArgs;
use super::embed::Embedded;
use super::failure::{Failure, print, print_json};
use super::look::{Looker, pictures_in};
use super::model::has_folder;

/// Side of a picture on the sheet, and the gap around it, in pixels.
const SIDE: u32 = 160;
const GAP: u32 = 6;
/// Pictures side by side, whatever is asked for.
const MOST_COLUMNS: usize = 20;

#[derive(Serialize)]
struct Row {
    sentence: String,
    /// The best first.
    found: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    image: String,
    /// The cosine of the two vectors.
    similarity: f32,
}

pub fn run(args: &SearchArgs) -> Result<(), Failure> {
    let paths = args.images.as_deref().map(pictures_in).transpose()?;
    if let Some(file) = &args.sheet {
        has_folder("--sheet", file)?;
    }
    let looker = Looker::open(&args.look)?;
    let (pictures, names) = match (&args.index, paths) {
        (Some(index), _) => {
            let index = Embedded::open(index, &looker)?;
            (index.vectors, index.names)
        }
        (None, paths) => {
            let paths = paths.unwrap_or_default();
            let (vectors, opened) = looker.vectors(&paths)?;
            let names = opened.into_iter().map(|i| paths[i].display().to_string());
            (vectors, names.collect())
        }
    };
    let texts: Vec<&str> = args.text.iter().map(String::as_str).collect();
    let sentences = looker.encode_text(&texts)?;
    let rows = rank(&pictures, &sentences, &names, args)?;
    match args.json {
        true => print_json(&rows)?,
        false => show(&rows)?,
    }
    // Last: pictures of an index may have moved since.
    match &args.sheet {
        Some(file) => Ok(picture::save_picture(file, &sheet(&rows)?)?),
        None => Ok(()),
    }
}

fn show(rows: &[Row]) -> Result<(), Failure> {
    for row in rows {
        if rows.len() > 1 {
            print(&row.sentence)?;
        }
        for (place, found) in row.found.iter().enumerate() {
            print(&format!(
                "{:3}  {:.4}  {}",
                place + 1,
                found.similarity,
                found.image
            ))?;
        }
    }
    Ok(())
}

/// The best of `names` for every sentence; of equals the first.
fn rank(
    pictures: &Tensor,
    sentences: &Tensor,
    names: &[String],
    args: &SearchArgs,
) -> Result<Vec<Row>, Failure> {
    let (mut rows, mut queries) = (Vectors::default(), Vectors::default());
    rows.push(pictures)?;
    queries.push(sentences)?;
    let found = args.text.iter().enumerate().map(|(index, sentence)| {
        let best = rows.nearest(&queries, index, args.top as usize);
        let found = best.into_iter().map(|(i, similarity)| Found {
            image: names[i].clone(),
            similarity,
        });
        Row {
            sentence: sentence.clone(),
            found: found.collect(),
        }
    });
    Ok(found.collect())
}

/// The pictures found, a row for each sentence.
fn sheet(rows: &[Row]) -> Result<RgbImage, Failure> {
    let columns = rows
        .iter()
        .map(|row| row.found.len().min(MOST_COLUMNS))
        .max()
        .unwrap_or(0);
    let step = SIDE + GAP;
    let size = |count: usize| GAP + step * count as u32;
    let mut sheet = RgbImage::from_pixel(size(columns), size(rows.len()), Rgb([255; 3]));
    for (y, row) in rows.iter().enumerate() {
        for (x, found) in row.found.iter().take(MOST_COLUMNS).enumerate() {
            let picture = image::DynamicImage::from(picture::open(&found.image)?);
            let small = picture.thumbnail(SIDE, SIDE).into_rgb8();
            let middle = |length: u32| i64::from((SIDE - length.min(SIDE)) / 2);
            let (left, top) = (size(x), size(y));
            let (dx, dy) = (middle(small.width()), middle(small.height()));
            imageops::replace(
                &mut sheet,
                &small,
                i64::from(left) + dx,
                i64::from(top) + dy,
            );
        }
    }
    Ok(sheet)
}
