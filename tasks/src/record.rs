//! What referring segmentation learns from: objects of pictures, and the
//! sentences that name them.
//!
//! Owns these records and what can be asked of them. How they are written down
//! is [`jsonl`](crate::jsonl)'s and [`refcoco`]'s; pictures and
//! masks are opened by [`picture`] and [`mask`](crate::mask).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use image::RgbImage;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use twinspan_sdk::task::DataSource;
use twinspan_sdk::{Error, Result};

use crate::mask::{Mask, MaskError};
use crate::picture::{self, PictureError};
use crate::refcoco;
use crate::run_length::RunLengths;

/// A sentence that names an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// What is said.
    pub text: String,
    /// What it names the object by, where the data says: "attribute",
    /// "position", any word. Scores are told apart by it.
    pub kind: Option<String>,
}

impl From<String> for Sentence {
    fn from(text: String) -> Self {
        Self { text, kind: None }
    }
}

impl From<&str> for Sentence {
    fn from(text: &str) -> Self {
        text.to_string().into()
    }
}

/// A plain text without a kind, `{"text": …, "kind": …}` with one.
impl Serialize for Sentence {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Some(kind) = &self.kind else {
            return serializer.serialize_str(&self.text);
        };
        let mut both = serializer.serialize_struct("Sentence", 2)?;
        both.serialize_field("text", &self.text)?;
        both.serialize_field("kind", kind)?;
        both.end()
    }
}

impl<'de> Deserialize<'de> for Sentence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Both {
            text: String,
            #[serde(default)]
            kind: Option<String>,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Sentence;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(r#"a text or {"text": …, "kind": …}"#)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Sentence, E> {
                Ok(text.into())
            }

            fn visit_string<E: de::Error>(self, text: String) -> std::result::Result<Sentence, E> {
                Ok(text.into())
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Sentence, A::Error> {
                let Both { text, kind } = Both::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Sentence { text, kind })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Where the object is.
#[derive(Debug, Clone, PartialEq)]
pub enum Region {
    /// In a picture file of the same size, wherever it is not 0.
    Mask(PathBuf),
    /// In polygons, `[x0, y0, x1, y1, …]` each, in pixels; all of them
    /// together, and none at all for no object.
    Polygons(Vec<Vec<f64>>),
    /// In run lengths of the picture's size.
    RunLengths(RunLengths),
}

/// An object of a picture and the sentences that name it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The picture, with its data's folder in front.
    pub image: PathBuf,
    /// The object.
    pub region: Region,
    /// What is said of it: one sentence or more, none of them blank.
    pub sentences: Vec<Sentence>,
    /// The part of the data that the object belongs to.
    pub split: String,
}

impl Record {
    /// Opens the picture.
    ///
    /// # Errors
    /// As [`picture::open`].
    pub fn open_picture(&self) -> std::result::Result<RgbImage, PictureError> {
        picture::open(&self.image)
    }

    /// Opens or draws the mask; `size` is the picture's width and height.
    ///
    /// # Errors
    /// As [`Mask::open`], [`Mask::from_polygons`] and [`Mask::from_runs`].
    pub fn open_mask(&self, size: (u32, u32)) -> std::result::Result<Mask, MaskError> {
        match &self.region {
            Region::Mask(path) => Mask::open(path, size),
            Region::Polygons(polygons) => Mask::from_polygons(&self.image, polygons, size),
            Region::RunLengths(runs) => Mask::from_runs(&self.image, runs, size),
        }
    }
}

/// All records of a data file or folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// The file that messages name: the JSONL file, or the `refs(…).p`.
    pub file: PathBuf,
    /// Its records, in order.
    pub records: Vec<Record>,
    /// What a user should know of the data, one line each.
    pub notes: Vec<String>,
}

/// No record belongs to the split asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: has no split `{asked}`; its splits are {}", file.display(), counted(splits, unit))]
pub struct NoSuchSplit {
    /// The data file.
    pub file: PathBuf,
    /// The split asked for.
    pub asked: String,
    /// The splits there are, and how many examples each has.
    pub splits: BTreeMap<String, usize>,
    /// What an example is, in the singular: object, picture.
    pub unit: &'static str,
}

fn counted(splits: &BTreeMap<String, usize>, unit: &str) -> String {
    let splits = splits.iter().map(|(name, count)| match count {
        1 => format!("`{name}` (1 {unit})"),
        _ => format!("`{name}` ({count} {unit}s)"),
    });
    splits.collect::<Vec<_>>().join(", ")
}

impl Records {
    /// Reads what `source` names: a JSONL file, or a folder of the RefCOCO
    /// family.
    ///
    /// # Errors
    /// All of [`RecordsError`](crate::jsonl::RecordsError) and
    /// [`RefcocoError`](refcoco::RefcocoError) that are of reading; a data set
    /// or a division that is named for a JSONL file, or not there, is wrong
    /// use.
    pub fn of(source: &DataSource) -> Result<Self> {
        if source.path.is_dir() {
            return refcoco::open(source).map_err(|error| match error.is_wrong_use() {
                true => Error::wrong_use(error),
                false => Error::plugin(error),
            });
        }
        if source.path.is_file() {
            let named = [("dataset", &source.dataset), ("split-by", &source.split_by)];
            if let Some((option, Some(name))) = named.iter().find(|(_, name)| name.is_some()) {
                return Err(Error::wrong_use(format!(
                    "{}: is a file, which holds one data set; `{option}` ({name}) is for folders of the RefCOCO family",
                    source.path.display()
                )));
            }
        }
        Self::open(&source.path).map_err(Error::plugin)
    }

    /// The records of one split, in order.
    ///
    /// # Errors
    /// [`NoSuchSplit`], which lists the splits there are.
    pub fn split(&self, name: &str) -> std::result::Result<Vec<&Record>, NoSuchSplit> {
        let of_split = self.records.iter().filter(|record| record.split == name);
        let records: Vec<_> = of_split.collect();
        match records.is_empty() {
            true => Err(self.no_such_split(name)),
            false => Ok(records),
        }
    }

    /// The splits by name, and how many objects each has.
    pub fn splits(&self) -> BTreeMap<String, usize> {
        let mut splits = BTreeMap::new();
        for record in &self.records {
            *splits.entry(record.split.clone()).or_default() += 1;
        }
        splits
    }

    pub(crate) fn no_such_split(&self, asked: &str) -> NoSuchSplit {
        NoSuchSplit {
            file: self.file.clone(),
            asked: asked.into(),
            splits: self.splits(),
            unit: "object",
        }
    }
}

/// How many names stand in one line; more stand below each other.
const IN_A_LINE: usize = 20;

/// All names of a list, none left out.
pub(crate) fn listed(names: &[String]) -> String {
    match names.len() {
        0..=IN_A_LINE => names.join(", "),
        _ => format!("\n  {}", names.join("\n  ")),
    }
}

pub(crate) fn files(count: usize) -> String {
    match count {
        1 => "1 file".into(),
        _ => format!("{count} files"),
    }
}
