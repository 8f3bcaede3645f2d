//! Pictures with what is said of them: the data of retrieval.
//!
//! ```text
//! {"image": "images/1.jpg", "sentences": ["a cat on a mat", "a grey cat"], "split": "test"}
//! ```
//!
//! Owns the form of such a JSONL file, and how the data of referring
//! segmentation (its files too, and folders of the RefCOCO family) is read as
//! one: all that is said of a picture's objects is said of the picture. Lines
//! of one picture in a split are one example. Encodes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use twinspan_sdk::task::DataSource;
use twinspan_sdk::{Error, Result};

use crate::jsonl::{self, RecordsError};
use crate::record::{Records, Sentence};

const EXAMPLE: &str = r#"{"image": "images/1.jpg", "sentences": ["a cat on a mat"]}"#;

/// A picture and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captioned {
    /// The picture, with its data's folder in front.
    pub image: PathBuf,
    /// One sentence or more, none of them blank.
    pub sentences: Vec<String>,
}

/// The pictures of a data file or folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Captions {
    /// The file or folder that messages name.
    pub path: PathBuf,
    /// The pictures of each split, in the order in which they are first named.
    pub splits: BTreeMap<String, Vec<Captioned>>,
}

/// A line as it is written. What a file of referring segmentation says of the
/// object's place is let be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image: String,
    #[serde(default)]
    #[allow(dead_code)]
    mask: IgnoredAny,
    #[serde(default)]
    #[allow(dead_code)]
    polygons: IgnoredAny,
    #[serde(default)]
    #[allow(dead_code)]
    rle: IgnoredAny,
    sentences: Vec<Sentence>,
    #[serde(default = "jsonl::default_split")]
    split: String,
}

/// A split, a picture, and what one line says of it.
type Said = (String, PathBuf, Vec<Sentence>);

impl Captions {
    /// Reads what `source` names: a JSONL file, or a folder of the RefCOCO
    /// family; and finds that every picture exists.
    ///
    /// # Errors
    /// As [`Records::of`].
    pub fn of(source: &DataSource) -> Result<Self> {
        if source.path.is_dir() {
            let records = Records::of(source)?.records.into_iter();
            let said = records.map(|record| (record.split, record.image, record.sentences));
            return Ok(Self::merged(&source.path, said));
        }
        Self::open(&source.path).map_err(Error::plugin)
    }

    /// Reads a JSONL file, and finds that every picture exists.
    ///
    /// # Errors
    /// All of [`RecordsError`] but [`Unwritable`](RecordsError::Unwritable).
    pub fn open(path: impl AsRef<Path>) -> std::result::Result<Self, RecordsError> {
        let file = path.as_ref();
        let said = jsonl::lines(file, &jsonl::read(file)?, EXAMPLE, parse)?;
        let named = said.iter().map(|(line, said)| (said.1.as_path(), *line));
        jsonl::find_missing(file, named)?;
        Ok(Self::merged(file, said.into_iter().map(|(_, said)| said)))
    }

    fn merged(path: &Path, said: impl Iterator<Item = Said>) -> Self {
        let mut splits: BTreeMap<String, Vec<Captioned>> = BTreeMap::new();
        let mut places: BTreeMap<(String, PathBuf), usize> = BTreeMap::new();
        for (split, image, sentences) in said {
            let pictures = splits.entry(split.clone()).or_default();
            let place = *places.entry((split, image.clone())).or_insert_with(|| {
                pictures.push(Captioned {
                    image,
                    sentences: Vec::new(),
                });
                pictures.len() - 1
            });
            if let Some(picture) = pictures.get_mut(place) {
                let texts = sentences.into_iter().map(|sentence| sentence.text);
                picture.sentences.extend(texts);
            }
        }
        Self {
            path: path.into(),
            splits,
        }
    }
}

fn parse(folder: &Path, text: &str) -> std::result::Result<Said, String> {
    let line: Line = jsonl::object(text, EXAMPLE)?;
    jsonl::check_image(&line.image)?;
    jsonl::check_sentences(&line.sentences)?;
    jsonl::check_split(&line.split)?;
    Ok((line.split, folder.join(line.image), line.sentences))
}
