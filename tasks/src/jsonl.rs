//! Data files of referring segmentation: one JSON object a line, one object of
//! a picture each.
//!
//! ```text
//! {"image": "images/1.jpg", "mask": "masks/1.png", "sentences": ["the left cat"], "split": "val"}
//! {"image": "images/2.jpg", "polygons": [[10,10, 60,10, 60,40]], "sentences": ["a dog", "it"]}
//! ```
//!
//! `image` and `mask` are relative to the file; exactly one of `mask`,
//! `polygons` and `rle` (COCO's run lengths, `{"size": [height, width],
//! "counts": …}`, in either form) is given; a sentence is a text, or `{"text":
//! …, "kind": …}`; `split` is `train` where it is left out. Owns the form of
//! these files and every message about it; what they hold is
//! [`record`](crate::record)'s.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::mask::check_polygons;
pub use crate::record::{NoSuchSplit, Record, Records, Region, Sentence};
use crate::record::{files, listed};
use crate::run_length::RunLengths;
use crate::whole_file;

/// The split of a line that names none.
pub const DEFAULT_SPLIT: &str = "train";

/// Why a data file cannot be used. Every message is one line, but that of
/// many [`Missing`](RecordsError::Missing) files, which is a line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The data file could not be read.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// The data file.
        file: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// A line is not as it should be.
    #[error("{}:{line}: {reason}", file.display())]
    Line {
        /// The data file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The data file has no line but blank ones.
    #[error("{}: has no lines; each is one JSON object such as {example}", file.display())]
    Empty {
        /// The data file.
        file: PathBuf,
        /// A line as it could be.
        example: &'static str,
    },
    /// Pictures or masks that the lines name do not exist.
    #[error("{}: names {} that do not exist: {}", file.display(), files(missing.len()), names(missing))]
    Missing {
        /// The data file.
        file: PathBuf,
        /// Each missing file and the first line that names it, in that order.
        missing: Vec<(PathBuf, usize)>,
    },
    /// The data file could not be written; nothing is left of it.
    #[error("{}: cannot be written: {reason}", file.display())]
    Unwritable {
        /// The data file.
        file: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

const EXAMPLE: &str =
    r#"{"image": "images/1.jpg", "mask": "masks/1.png", "sentences": ["the left cat"]}"#;

fn names(missing: &[(PathBuf, usize)]) -> String {
    let names = missing
        .iter()
        .map(|(path, line)| format!("{} (line {line})", path.display()));
    listed(&names.collect::<Vec<_>>())
}

impl Records {
    /// Reads a data file and finds that every picture and mask it names
    /// exists, of all splits.
    ///
    /// # Errors
    /// All of [`RecordsError`] but [`Unwritable`](RecordsError::Unwritable).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RecordsError> {
        let file = path.as_ref();
        let records = parse(file, &read(file)?)?;
        let named = records.iter().flat_map(|(line, record)| {
            let mask = match &record.region {
                Region::Mask(path) => Some(path.as_path()),
                Region::Polygons(_) | Region::RunLengths(_) => None,
            };
            let paths = std::iter::once(record.image.as_path()).chain(mask);
            paths.map(|path| (path, *line))
        });
        find_missing(file, named)?;
        Ok(Self {
            file: file.into(),
            records: records.into_iter().map(|(_, record)| record).collect(),
            notes: Vec::new(),
        })
    }
}

/// A line as it is written. The order of the fields is that of the messages.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    polygons: Option<Vec<Vec<f64>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rle: Option<RunLengths>,
    sentences: Vec<Sentence>,
    #[serde(default = "default_split")]
    split: String,
}

pub(crate) fn default_split() -> String {
    DEFAULT_SPLIT.into()
}

/// The bytes of a data file.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, RecordsError> {
    std::fs::read(file).map_err(|reason| RecordsError::Unreadable {
        file: file.into(),
        reason,
    })
}

/// The records in `bytes`, each with its line number.
fn parse(file: &Path, bytes: &[u8]) -> Result<Vec<(usize, Record)>, RecordsError> {
    lines(file, bytes, EXAMPLE, parse_line)
}

/// What `parse` makes of the lines of `bytes` that are not blank, given the file's folder, each
/// with its number.
pub(crate) fn lines<T>(
    file: &Path,
    bytes: &[u8],
    example: &'static str,
    parse: impl Fn(&Path, &str) -> Result<T, String>,
) -> Result<Vec<(usize, T)>, RecordsError> {
    let wrong = |line: usize, reason: String| RecordsError::Line {
        file: file.into(),
        line,
        reason,
    };
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(wrong(1, "the file is in UTF-16; save it as UTF-8".into()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        wrong(line, "is not UTF-8; save the file as UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut made = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let one = parse(folder, line).map_err(|reason| wrong(index + 1, reason))?;
        made.push((index + 1, one));
    }
    if made.is_empty() {
        return Err(RecordsError::Empty {
            file: file.into(),
            example,
        });
    }
    Ok(made)
}

/// The object of a line.
pub(crate) fn object<T: DeserializeOwned>(text: &str, example: &str) -> Result<T, String> {
    // serde would take an array too, field by field.
    if !text.trim_start().starts_with('{') {
        return Err(format!("each line is one JSON object such as {example}"));
    }
    serde_json::from_str(text).map_err(|error| reason(error, example))
}

fn parse_line(folder: &Path, text: &str) -> Result<Record, String> {
    let mut line: Line = object(text, EXAMPLE)?;
    let region = region(folder, &mut line)?;
    check_image(&line.image)?;
    check_sentences(&line.sentences)?;
    check_split(&line.split)?;
    Ok(Record {
        image: folder.join(line.image),
        region,
        sentences: line.sentences,
        split: line.split,
    })
}

pub(crate) fn check_image(image: &str) -> Result<(), String> {
    match image.is_empty() {
        true => Err("`image` is empty".into()),
        false => Ok(()),
    }
}

pub(crate) fn check_sentences(sentences: &[Sentence]) -> Result<(), String> {
    if sentences.is_empty() {
        return Err("`sentences` is empty; give at least one".into());
    }
    if let Some(blank) = sentences.iter().position(|s| s.text.trim().is_empty()) {
        return Err(format!("sentence {} is blank", blank + 1));
    }
    let kindless = |s: &Sentence| s.kind.as_ref().is_some_and(|kind| kind.trim().is_empty());
    match sentences.iter().position(kindless) {
        Some(kindless) => Err(format!(
            "sentence {} has a blank `kind`; leave it out",
            kindless + 1
        )),
        None => Ok(()),
    }
}

pub(crate) fn check_split(split: &str) -> Result<(), String> {
    match split.is_empty() {
        true => Err(format!(
            "`split` is empty; leave it out for `{DEFAULT_SPLIT}`"
        )),
        false => Ok(()),
    }
}

/// The one region that a line has.
fn region(folder: &Path, line: &mut Line) -> Result<Region, String> {
    let given = [
        ("`mask`", line.mask.is_some()),
        ("`polygons`", line.polygons.is_some()),
        ("`rle`", line.rle.is_some()),
    ];
    let given: Vec<_> = given
        .iter()
        .filter(|(_, is)| *is)
        .map(|(n, _)| *n)
        .collect();
    if given.len() > 1 {
        return Err(format!("has {}; give one of them", given.join(" and ")));
    }
    if let Some(mask) = line.mask.take() {
        return match mask.is_empty() {
            true => Err("`mask` is empty".into()),
            false => Ok(Region::Mask(folder.join(mask))),
        };
    }
    if let Some(runs) = line.rle.take() {
        return Ok(Region::RunLengths(runs));
    }
    let Some(polygons) = line.polygons.take() else {
        return Err("has none of `mask`, `polygons` and `rle`; give one of them".into());
    };
    check_polygons(&polygons)?;
    Ok(Region::Polygons(polygons))
}

/// serde_json's message, with its place said as a column: it was given one
/// line, so its own line number is always 1.
fn reason(error: serde_json::Error, example: &str) -> String {
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let said = said.strip_suffix(&place).unwrap_or(&said);
    if error.is_eof() {
        return format!(
            "the line ends before its object does; each line is one whole object such as {example}"
        );
    }
    format!("{said} (column {})", error.column())
}

/// Finds that all `named` files exist, each with the line that names it.
pub(crate) fn find_missing<'a>(
    file: &Path,
    named: impl Iterator<Item = (&'a Path, usize)>,
) -> Result<(), RecordsError> {
    let mut found: BTreeMap<&Path, bool> = BTreeMap::new();
    let mut missing = Vec::new();
    for (path, line) in named {
        let known = found.contains_key(path);
        let exists = *found.entry(path).or_insert_with(|| path.is_file());
        if !known && !exists {
            missing.push((path.to_path_buf(), line));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(RecordsError::Missing {
        file: file.into(),
        missing,
    })
}

/// Writes a data file, its paths relative to it; the file appears whole or
/// not at all.
///
/// # Errors
/// [`RecordsError::Unwritable`], also for a picture or mask that does not
/// exist, and what [`Records::open`] would say of the lines.
pub fn write(file: impl AsRef<Path>, records: &[Record]) -> Result<(), RecordsError> {
    let file = file.as_ref();
    let unwritable = |reason| RecordsError::Unwritable {
        file: file.into(),
        reason,
    };
    let text = written(file, records).map_err(unwritable)?;
    parse(file, text.as_bytes())?;
    whole_file::write(file, text.as_bytes()).map_err(|error| unwritable(error.to_string()))
}

fn written(file: &Path, records: &[Record]) -> Result<String, String> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = canonical(folder)?;
    let mut text = String::new();
    for record in records {
        let mut line = Line {
            image: relative(&folder, &record.image)?,
            mask: None,
            polygons: None,
            rle: None,
            sentences: record.sentences.clone(),
            split: record.split.clone(),
        };
        match &record.region {
            Region::Mask(path) => line.mask = Some(relative(&folder, path)?),
            Region::Polygons(polygons) => line.polygons = Some(polygons.clone()),
            Region::RunLengths(runs) => line.rle = Some(runs.clone()),
        }
        text += &serde_json::to_string(&line).map_err(|error| error.to_string())?;
        text.push('\n');
    }
    Ok(text)
}

pub(crate) fn canonical(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// `path` as seen from `folder`, with forward slashes on every system.
pub(crate) fn relative(folder: &Path, path: &Path) -> Result<String, String> {
    let path = canonical(path)?;
    let shared = folder
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    let no_text = || format!("{}: its name is not UTF-8", path.display());
    if shared == 0 {
        return path.to_str().map(String::from).ok_or_else(no_text);
    }
    let up = folder.components().skip(shared).map(|_| Some(".."));
    let down = path.components().skip(shared);
    let parts = up.chain(down.map(|part| part.as_os_str().to_str()));
    let parts: Option<Vec<_>> = parts.collect();
    Ok(parts.ok_or_else(no_text)?.join("/"))
}
