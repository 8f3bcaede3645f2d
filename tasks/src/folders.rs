//! Pictures by class, as folders or lines say: the data of classification.
//!
//! ```text
//! DIR/train/cat/1.jpg, DIR/test/dog/7.png     splits, in each a folder a class
//! DIR/cat/1.jpg, DIR/dog/7.png                a folder a class, not divided yet
//! {"image": "1.jpg", "label": "cat", "split": "test"}     a JSONL file
//! ```
//!
//! Owns these layouts and every message about them. A class is called what its
//! folder is, `_` for a space. Files are taken in the order of their names.
//! How a data set that is not divided is divided is
//! [`classification`](crate::classification)'s; opens no picture.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::jsonl::{self, RecordsError};

/// The splits that a folder can be called.
pub const SPLITS: [&str; 3] = ["train", "val", "test"];
/// How the names of pictures end, in either case.
pub const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "gif", "webp"];

const EXAMPLE: &str = r#"{"image": "images/1.jpg", "label": "cat"}"#;

/// The pictures of each class.
pub type Classes = BTreeMap<String, Vec<PathBuf>>;

/// Pictures by class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The folder or file that messages name.
    pub path: PathBuf,
    /// The pictures.
    pub pictures: Division,
    /// What a user should know of the data, one line each.
    pub notes: Vec<String>,
}

/// Whether the data says what is trained on and what is tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Division {
    /// It does: classes by split.
    Splits(BTreeMap<String, Classes>),
    /// It does not.
    Whole(Classes),
}

/// Why a folder of classes cannot be used. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoldersError {
    /// A folder could not be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// There is no folder in a folder of classes or splits.
    #[error(
        "{0}: has no folder in it; the pictures of each class lie in a folder of their own, as in {0}/cat/1.jpg or {0}/train/cat/1.jpg", folder.display()
    )]
    NoFolders {
        /// The folder.
        folder: PathBuf,
    },
    /// Some folders are splits and some are not.
    #[error(
        "{}: has splits ({}) and beside them {}; put the classes into splits, or have no splits", folder.display(), splits.join(", "), others.join(", ")
    )]
    Mixed {
        /// The folder.
        folder: PathBuf,
        /// The splits in it.
        splits: Vec<String>,
        /// The other folders.
        others: Vec<String>,
    },
    /// A class has no picture.
    #[error(
        "{}: has no picture; the names of pictures end in {}", folder.display(), ENDINGS.join(", ")
    )]
    NoPictures {
        /// The class's folder.
        folder: PathBuf,
    },
    /// A class's folder has a folder in it.
    #[error("{}: is a folder within a class; the pictures of a class lie in its folder itself", folder.display())]
    Nested {
        /// The folder within.
        folder: PathBuf,
    },
    /// A folder's name is not text.
    #[error("{}: its name is not UTF-8", path.display())]
    Name {
        /// The folder.
        path: PathBuf,
    },
    /// A data file is not as it should be.
    #[error(transparent)]
    Lines(#[from] RecordsError),
}

impl Labelled {
    /// Reads a folder, or a JSONL file of which every picture must exist.
    ///
    /// # Errors
    /// [`FoldersError`].
    pub fn open(path: &Path) -> Result<Self, FoldersError> {
        match path.is_dir() {
            true => of_folder(path),
            false => Ok(of_lines(path)?),
        }
    }

    /// The classes of all splits, sorted by name.
    pub fn classes(&self) -> Vec<String> {
        let names: BTreeSet<&String> = match &self.pictures {
            Division::Splits(splits) => splits.values().flat_map(BTreeMap::keys).collect(),
            Division::Whole(classes) => classes.keys().collect(),
        };
        names.into_iter().cloned().collect()
    }
}

fn of_folder(path: &Path) -> Result<Labelled, FoldersError> {
    let inside = folders(path)?;
    if inside.is_empty() {
        return Err(FoldersError::NoFolders {
            folder: path.into(),
        });
    }
    let mut left_out = Vec::new();
    // A class may be called `train` too: it has pictures in it, not folders.
    let mut splits = Vec::new();
    for (name, folder) in &inside {
        if SPLITS.contains(&name.as_str()) && !folders(folder)?.is_empty() {
            splits.push(name.clone());
        }
    }
    let pictures = match splits.is_empty() {
        true => Division::Whole(classes(inside, &mut left_out)?),
        false => {
            let other = |name: &&String| !SPLITS.contains(&name.as_str());
            let others: Vec<String> = inside.keys().filter(other).cloned().collect();
            if !others.is_empty() {
                return Err(FoldersError::Mixed {
                    folder: path.into(),
                    splits,
                    others,
                });
            }
            let mut all = BTreeMap::new();
            for (name, folder) in inside {
                let within = folders(&folder)?;
                if within.is_empty() {
                    return Err(FoldersError::NoFolders { folder });
                }
                all.insert(name, classes(within, &mut left_out)?);
            }
            Division::Splits(all)
        }
    };
    let notes = left_out.first().map(|first| {
        let count = crate::record::files(left_out.len());
        format!(
            "{}: {count} left out, for a picture's name ends in {}; the first is {}",
            path.display(),
            ENDINGS.join(", "),
            first.display()
        )
    });
    Ok(Labelled {
        path: path.into(),
        pictures,
        notes: notes.into_iter().collect(),
    })
}

/// The pictures in each folder of a class.
fn classes(
    folders: BTreeMap<String, PathBuf>,
    left_out: &mut Vec<PathBuf>,
) -> Result<Classes, FoldersError> {
    let mut classes = Classes::new();
    for (name, folder) in folders {
        let mut pictures = Vec::new();
        for path in entries(&folder)? {
            let ending = path
                .extension()
                .map(|end| end.to_string_lossy().to_lowercase());
            if path.is_dir() {
                return Err(FoldersError::Nested { folder: path });
            }
            match ending.is_some_and(|end| ENDINGS.contains(&end.as_str())) {
                true => pictures.push(path),
                false => left_out.push(path),
            }
        }
        if pictures.is_empty() {
            return Err(FoldersError::NoPictures { folder });
        }
        let called = name.replace('_', " ");
        classes.entry(called).or_default().extend(pictures);
    }
    Ok(classes)
}

/// The folders in a folder, by name.
fn folders(path: &Path) -> Result<BTreeMap<String, PathBuf>, FoldersError> {
    let mut found = BTreeMap::new();
    for path in entries(path)?.into_iter().filter(|path| path.is_dir()) {
        let name = path.file_name().and_then(|name| name.to_str());
        match name.map(String::from) {
            Some(name) => found.insert(name, path),
            None => return Err(FoldersError::Name { path }),
        };
    }
    Ok(found)
}

/// What is in a folder and not hidden, by name.
fn entries(path: &Path) -> Result<Vec<PathBuf>, FoldersError> {
    let unreadable = |reason| FoldersError::Unreadable {
        path: path.into(),
        reason,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image: String,
    label: String,
    #[serde(default = "jsonl::default_split")]
    split: String,
}

fn of_lines(file: &Path) -> Result<Labelled, RecordsError> {
    let lines = jsonl::lines(file, &jsonl::read(file)?, EXAMPLE, |folder, text| {
        let line: Line = jsonl::object(text, EXAMPLE)?;
        jsonl::check_image(&line.image)?;
        jsonl::check_split(&line.split)?;
        match line.label.trim().is_empty() {
            true => Err("`label` is blank".into()),
            false => Ok((line.split, line.label, folder.join(line.image))),
        }
    })?;
    let named = lines
        .iter()
        .map(|(number, line)| (line.2.as_path(), *number));
    jsonl::find_missing(file, named)?;
    let mut splits: BTreeMap<String, Classes> = BTreeMap::new();
    for (_, (split, label, image)) in lines {
        let classes = splits.entry(split).or_default();
        classes.entry(label).or_default().push(image);
    }
    Ok(Labelled {
        path: file.into(),
        pictures: Division::Splits(splits),
        notes: Vec::new(),
    })
}
