//! Records as a folder of the RefCOCO family. Owns the numbers that are given
//! out and where pictures go.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_pickle::SerOptions;
use twinspan_sdk::file::{FileError, write_folder, write_whole};

use super::instances::{Annotation, Image, Segmentation};
use super::{Choice, INSTANCES, RefcocoError, folder};
use crate::jsonl::{canonical, relative};
use crate::picture;
use crate::record::{Record, Region};
use crate::run_length::RunLengths;

/// The folder of the pictures, below that of the data sets.
pub const IMAGES: &str = "images";

/// The category of every object.
const CATEGORY: i64 = 1;

/// How many masks are drawn between two words of progress.
const AT_A_TIME: usize = 64;

#[derive(Serialize)]
struct Contents {
    info: Info,
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: [Category; 1],
}

#[derive(Serialize)]
struct Info {
    description: String,
}

#[derive(Serialize)]
struct Category {
    id: i64,
    name: &'static str,
    supercategory: &'static str,
}

#[derive(Serialize)]
struct Reference<'a> {
    ref_id: i64,
    ann_id: i64,
    category_id: i64,
    image_id: i64,
    file_name: String,
    split: &'a str,
    sent_ids: Vec<i64>,
    sentences: Vec<Sentence<'a>>,
}

#[derive(Serialize)]
struct Sentence<'a> {
    sent_id: i64,
    sent: &'a str,
    raw: &'a str,
    tokens: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

/// A picture on its way into the data set.
struct Picture<'a> {
    from: &'a Path,
    /// Below [`IMAGES`], with forward slashes.
    name: String,
    size: (u32, u32),
    copied: bool,
}

/// Writes `records` as `root/dataset/instances.json` and
/// `root/dataset/refs(split_by).p`, a pickle of protocol 2.
///
/// Pictures below `root/images` stay where they are; any other is copied to
/// `root/images/dataset` under its number. Polygons stay polygons, masks and
/// run lengths become packed run lengths; every record has an annotation and a
/// reference of its own, numbered from 1 in order. `progress` is told steps
/// done and steps in all.
///
/// The data set's folder appears whole or not at all. One that is there is
/// replaced if it holds these two files and nothing else; copied pictures of
/// the same number are replaced too.
///
/// # Errors
/// [`RefcocoError::Name`] and [`RefcocoError::Occupied`] before anything is
/// written; [`RefcocoError::Record`], [`RefcocoError::Picture`] and
/// [`RefcocoError::Mask`] before the first picture is copied;
/// [`RefcocoError::Write`].
pub fn write(
    root: &Path,
    dataset: &str,
    split_by: &str,
    records: &[Record],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), RefcocoError> {
    check_name(Choice::Dataset, dataset)?;
    check_name(Choice::SplitBy, split_by)?;
    let target = root.join(dataset);
    let references_name = folder::references(split_by);
    check_free(&target, &references_name)?;
    for (index, record) in records.iter().enumerate() {
        check(record).map_err(|reason| RefcocoError::Record {
            number: index + 1,
            reason,
        })?;
    }
    if records.is_empty() {
        return Err(RefcocoError::Record {
            number: 1,
            reason: "is not there: a data set has at least one".into(),
        });
    }

    let mut numbers: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut paths: Vec<&Path> = Vec::new();
    for record in records {
        numbers.entry(&record.image).or_insert_with(|| {
            paths.push(&record.image);
            paths.len()
        });
    }
    let images_folder = root.join(IMAGES);
    let pictures = paths.par_iter().enumerate();
    let pictures: Vec<Result<Picture, RefcocoError>> = pictures
        .map(|(index, path)| picture_of(path, index + 1, dataset, &images_folder))
        .collect();
    let pictures: Vec<Picture> = pictures.into_iter().collect::<Result<_, _>>()?;
    let copies: Vec<&Picture> = pictures.iter().filter(|picture| picture.copied).collect();
    let steps = records.len() + copies.len();

    let mut annotations = Vec::with_capacity(records.len());
    for chunk in records.chunks(AT_A_TIME) {
        let first = annotations.len();
        let drawn: Vec<Result<Annotation, RefcocoError>> = chunk
            .par_iter()
            .enumerate()
            .map(|(index, record)| {
                let image = numbers[record.image.as_path()];
                annotation(record, pictures[image - 1].size, first + index + 1, image)
            })
            .collect();
        for annotation in drawn {
            annotations.push(annotation?);
        }
        progress(annotations.len(), steps);
    }
    create(root)?;
    if !copies.is_empty() {
        create(&images_folder.join(dataset))?;
    }
    for (done, picture) in copies.iter().enumerate() {
        copy(picture.from, &images_folder.join(&picture.name))?;
        progress(records.len() + done + 1, steps);
    }

    let references = references(records, &pictures, &numbers);
    let images = (1..).zip(&pictures).map(|(id, picture)| Image {
        id,
        file_name: picture.name.clone(),
        width: Some(picture.size.0),
        height: Some(picture.size.1),
    });
    let contents = Contents {
        info: Info {
            description: format!("{dataset} ({split_by}), written by twinspan"),
        },
        images: images.collect(),
        annotations,
        categories: [Category {
            id: CATEGORY,
            name: "object",
            supercategory: "object",
        }],
    };
    write_folder(&target, INSTANCES, |folder| {
        let refused = |error: FileError| io::Error::other(error.to_string());
        write_whole(&folder.join(INSTANCES), |file| {
            serde_json::to_writer(file, &contents).map_err(io::Error::from)
        })
        .map_err(refused)?;
        write_whole(&folder.join(&references_name), |file| {
            let mut file = file;
            let options = SerOptions::new().proto_v2();
            serde_pickle::to_writer(&mut file, &references, options).map_err(io::Error::other)
        })
        .map_err(refused)
    })?;
    Ok(())
}

fn check_name(choice: Choice, name: &str) -> Result<(), RefcocoError> {
    let allowed = |letter: char| letter.is_alphanumeric() || "+-_.".contains(letter);
    match !name.is_empty() && name.chars().all(allowed) && !name.starts_with('.') && name != IMAGES
    {
        true => Ok(()),
        false => Err(RefcocoError::Name {
            choice,
            name: name.into(),
        }),
    }
}

/// Finds that nothing else would go with a folder that is replaced.
fn check_free(folder: &Path, references: &str) -> Result<(), RefcocoError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(reason) => {
            return Err(RefcocoError::Unreadable {
                path: folder.into(),
                reason,
            });
        }
    };
    for entry in entries {
        let entry = entry.map_err(|reason| RefcocoError::Unreadable {
            path: folder.into(),
            reason,
        })?;
        let name = entry.file_name();
        if name != INSTANCES && name != references {
            return Err(RefcocoError::Occupied {
                folder: folder.into(),
                other: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// The error is the end of a sentence that begins with the record.
fn check(record: &Record) -> Result<(), String> {
    if record.sentences.is_empty() {
        return Err("has no sentences".into());
    }
    let blank = |sentence: &crate::record::Sentence| sentence.text.trim().is_empty();
    if let Some(index) = record.sentences.iter().position(blank) {
        return Err(format!("has a blank sentence {}", index + 1));
    }
    if record.split.is_empty() {
        return Err("has an empty split".into());
    }
    Ok(())
}

/// Where a picture is to lie, and its size.
fn picture_of<'a>(
    path: &'a Path,
    number: usize,
    dataset: &str,
    images: &Path,
) -> Result<Picture<'a>, RefcocoError> {
    let size = picture::size(path)?;
    let inside = match canonical(images) {
        Ok(images) if canonical(path).is_ok_and(|path| path.starts_with(&images)) => {
            relative(&images, path).ok()
        }
        _ => None,
    };
    let copied = inside.is_none();
    let name = inside.unwrap_or_else(|| {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        let ending = if ending.is_empty() { "img" } else { &ending };
        format!("{dataset}/{number:012}.{ending}")
    });
    Ok(Picture {
        from: path,
        name,
        size,
        copied,
    })
}

fn annotation(
    record: &Record,
    size: (u32, u32),
    number: usize,
    image: usize,
) -> Result<Annotation, RefcocoError> {
    let mask = record.open_mask(size)?;
    let runs = RunLengths::of(&mask).map_err(|error| RefcocoError::Record {
        number,
        reason: format!("has a mask that {error}"),
    })?;
    Ok(Annotation {
        id: number as i64,
        image_id: image as i64,
        category_id: CATEGORY,
        area: runs.area() as f64,
        bbox: runs.bounds().map(f64::from).into(),
        iscrowd: 0,
        segmentation: match &record.region {
            // COCO's own tools draw nothing of an empty list.
            Region::Polygons(polygons) if !polygons.is_empty() => {
                Segmentation::Polygons(polygons.clone())
            }
            _ => Segmentation::RunLengths(runs.into()),
        },
    })
}

fn references<'a>(
    records: &'a [Record],
    pictures: &[Picture],
    numbers: &BTreeMap<&Path, usize>,
) -> Vec<Reference<'a>> {
    let mut sentence_ids = 1..;
    let references = (1..).zip(records).map(|(number, record)| {
        let image = numbers[record.image.as_path()];
        let sentences: Vec<Sentence> = record
            .sentences
            .iter()
            .zip(&mut sentence_ids)
            .map(|(sentence, sent_id)| Sentence {
                sent_id,
                sent: &sentence.text,
                raw: &sentence.text,
                tokens: tokens(&sentence.text),
                kind: sentence.kind.as_deref(),
            })
            .collect();
        Reference {
            ref_id: number,
            ann_id: number,
            category_id: CATEGORY,
            image_id: image as i64,
            file_name: with_number(&pictures[image - 1].name, number),
            split: &record.split,
            sent_ids: sentences.iter().map(|sentence| sentence.sent_id).collect(),
            sentences,
        }
    });
    references.collect()
}

/// A reference's `file_name`: that of its picture and the annotation's number,
/// as RefCOCO has it.
fn with_number(name: &str, number: i64) -> String {
    match name.rsplit_once('.') {
        Some((stem, ending)) => format!("{stem}_{number}.{ending}"),
        None => format!("{name}_{number}"),
    }
}

/// Words in lower case, without what stands between them.
fn tokens(text: &str) -> Vec<String> {
    let between = |letter: char| !letter.is_alphanumeric() && letter != '\'';
    let words = text.split(between).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

fn create(folder: &Path) -> Result<(), RefcocoError> {
    std::fs::create_dir_all(folder).map_err(|source| unwritten(folder.into(), source))
}

fn copy(from: &Path, to: &Path) -> Result<(), RefcocoError> {
    let mut source = std::fs::File::open(from).map_err(|reason| RefcocoError::Unreadable {
        path: from.into(),
        reason,
    })?;
    write_whole(to, |file| io::copy(&mut source, file).map(drop))?;
    Ok(())
}

fn unwritten(path: PathBuf, source: io::Error) -> RefcocoError {
    RefcocoError::Write(FileError::Io {
        action: "make",
        path,
        source,
    })
}
