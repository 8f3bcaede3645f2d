//! Folders of the RefCOCO family, read into records and written from them.
//!
//! ```text
//! ROOT/refcoco+/refs(unc).p       references: a Python pickle of any protocol
//! ROOT/refcoco+/instances.json    pictures and annotations, in COCO's form
//! ROOT/images/train2014/*.jpg     the pictures
//! ```
//!
//! A reference is an object and its sentences; its mask is an annotation's:
//! polygons, or run lengths in either form (as crowds have them). Owns how the
//! three go together and every message about it. The folder is looked through
//! in `folder.rs`, the pickle is taken apart in `references.rs`, `instances.rs`
//! is COCO's file, `write.rs` the way back.

mod folder;
mod instances;
mod references;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use twinspan_sdk::error::nearest;
use twinspan_sdk::file::FileError;
use twinspan_sdk::task::DataSource;

use crate::mask::{MaskError, check_polygons};
use crate::picture::PictureError;
use crate::record::{Record, Records, Region, Sentence, files, listed};
use crate::run_length::RunLengths;
use folder::Folder;
use instances::{Instances, Segmentation};
use references::Reference;

pub use write::{IMAGES, write};

/// Each reference has its annotation's mask for itself. Together they may be so many times the
/// size of COCO's file: a few references to one large mask could otherwise take any memory.
const SHARED: usize = 64;

/// COCO's file beside the references.
const INSTANCES: &str = "instances.json";

/// What a folder may hold several of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Data sets: folders beside each other.
    Dataset,
    /// Divisions into splits: `refs(…).p` beside each other.
    SplitBy,
}

impl Choice {
    fn one(self) -> &'static str {
        match self {
            Choice::Dataset => "data set",
            Choice::SplitBy => "division into splits",
        }
    }

    fn several(self) -> &'static str {
        match self {
            Choice::Dataset => "data sets",
            Choice::SplitBy => "divisions into splits",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Choice::Dataset => "--dataset",
            Choice::SplitBy => "--split-by",
        }
    }
}

/// Why a folder cannot be used. Every message is one line, but that of many
/// [`Missing`](RefcocoError::Missing) pictures, which is a line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefcocoError {
    /// The folder holds no data set.
    #[error(
        "{}: is a folder without a data set of the RefCOCO family, which is a folder in it, such as refcoco+, with {INSTANCES} and refs(unc).p",
        root.display()
    )]
    NoDataset {
        /// The folder.
        root: PathBuf,
    },
    /// What was asked for is not there.
    #[error(
        "{}: has no {} `{asked}`{}; there are: {}",
        place.display(), choice.one(), did_you_mean(asked, known), known.join(", ")
    )]
    NoSuch {
        /// The folder that was looked through.
        place: PathBuf,
        /// What was chosen.
        choice: Choice,
        /// The name asked for.
        asked: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Nothing was asked for, and there is more than one.
    #[error(
        "{}: has several {}: {}; say which with {}",
        place.display(), choice.several(), known.join(", "), choice.option()
    )]
    Several {
        /// The folder that was looked through.
        place: PathBuf,
        /// What has to be chosen.
        choice: Choice,
        /// The names there are.
        known: Vec<String>,
    },
    /// A file or folder could not be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// A file is not of its form.
    #[error("{}: {reason}", file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A reference is not as it should be.
    #[error("{}: reference {number}{} {reason}", file.display(), numbered("ref_id", *ref_id))]
    Reference {
        /// The file of references.
        file: PathBuf,
        /// Its place in the list, from 1.
        number: usize,
        /// Its own number, where it has one.
        ref_id: Option<i64>,
        /// What is wrong.
        reason: String,
    },
    /// An annotation that is referred to cannot be drawn.
    #[error("{}: the segmentation of annotation {id} {reason}", file.display())]
    Annotation {
        /// COCO's file.
        file: PathBuf,
        /// The annotation's number.
        id: i64,
        /// What is wrong.
        reason: String,
    },
    /// Pictures that references are on are nowhere.
    #[error(
        "{}: names {} that {} in none of {}: {}",
        file.display(), pictures(names.len()), if names.len() == 1 { "is" } else { "are" },
        searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
        listed(names)
    )]
    Missing {
        /// The file of references.
        file: PathBuf,
        /// The folders that were looked through.
        searched: Vec<PathBuf>,
        /// Every missing picture.
        names: Vec<String>,
    },
    /// A record cannot be written in this form.
    #[error("record {number} {reason}")]
    Record {
        /// Its place, from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// A data set's name cannot be that of a folder or file.
    #[error("`{name}` is no name for a {}: take letters, digits, `+`, `-`, `_` and `.`, the last not in front{}", choice.one(), taken(name))]
    Name {
        /// What it should name.
        choice: Choice,
        /// The name.
        name: String,
    },
    /// A data set is there already, with more than would be replaced.
    #[error(
        "{}: holds {other}, which would be lost; choose another name for the data set, or remove the folder",
        folder.display()
    )]
    Occupied {
        /// The data set's folder.
        folder: PathBuf,
        /// What else is in it.
        other: String,
    },
    /// A picture could not be read or copied.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A mask could not be had.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

impl RefcocoError {
    /// Whether something was asked for that is not there, as opposed to files
    /// that are not as they should be.
    pub fn is_wrong_use(&self) -> bool {
        use RefcocoError::{Name, NoSuch, Occupied, Several};
        matches!(
            self,
            NoSuch { .. } | Several { .. } | Name { .. } | Occupied { .. }
        )
    }
}

fn did_you_mean(asked: &str, known: &[String]) -> String {
    match nearest(asked, known.iter().map(String::as_str)) {
        Some(near) => format!(" (did you mean `{near}`?)"),
        None => String::new(),
    }
}

fn taken(name: &str) -> &'static str {
    match name == IMAGES {
        true => "; that is the folder of the pictures",
        false => "",
    }
}

fn numbered(what: &str, number: Option<i64>) -> String {
    number.map_or(String::new(), |number| format!(" ({what} {number})"))
}

fn pictures(count: usize) -> String {
    files(count).replace("file", "picture")
}

/// Reads a data set of the family and finds that every picture it names
/// exists, of all splits.
///
/// `source.path` is the folder with the data sets and the pictures, or a data
/// set's folder itself. A data set or division that `source` leaves out is
/// taken if it is the only one. Pictures are looked for in the folders where
/// they usually lie. Sentences are `sent`, or `raw` where that is blank; a
/// sentence without either is left out, and a note says so.
///
/// # Errors
/// All of [`RefcocoError`] that are of reading.
pub fn open(source: &DataSource) -> Result<Records, RefcocoError> {
    let folder = Folder::find(source)?;
    let references = references::read(&folder.references)?;
    let instances = instances::read(&folder.instances)?;
    let mut joined = Joined {
        folder: &folder,
        left: instances.size.saturating_mul(SHARED),
        instances,
        found: BTreeMap::new(),
        missing: BTreeSet::new(),
        blank: (0, None),
    };
    let mut records = Vec::with_capacity(references.len());
    for (index, reference) in references.into_iter().enumerate() {
        records.extend(joined.record(index + 1, reference)?);
    }
    if !joined.missing.is_empty() {
        let names = joined.missing.iter();
        return Err(RefcocoError::Missing {
            file: folder.references.clone(),
            names: names
                .map(|(name, id)| format!("{name} (image {id})"))
                .collect(),
            searched: folder.pictures,
        });
    }
    let note = match joined.blank {
        (_, None) => None,
        (count, Some(first)) => Some(format!(
            "{}: {count} blank sentences are left out, the first of reference {first}",
            folder.references.display(),
        )),
    };
    Ok(Records {
        file: folder.references,
        records,
        notes: note.into_iter().collect(),
    })
}

/// References on their way to records.
struct Joined<'a> {
    folder: &'a Folder,
    /// Bytes that masks may still take.
    left: usize,
    instances: Instances,
    /// Where each picture lies, by its number.
    found: BTreeMap<i64, Option<PathBuf>>,
    /// Names and numbers of pictures that lie nowhere.
    missing: BTreeSet<(String, i64)>,
    /// How many sentences are blank, and the first reference with one.
    blank: (usize, Option<usize>),
}

impl Joined<'_> {
    /// The record of a reference; none if its picture is missing or it has no
    /// sentence.
    fn record(
        &mut self,
        number: usize,
        reference: Reference,
    ) -> Result<Option<Record>, RefcocoError> {
        let wrong = |reason: String| RefcocoError::Reference {
            file: self.folder.references.clone(),
            number,
            ref_id: reference.ref_id,
            reason,
        };
        let lacks = |what: &str, id: i64| {
            wrong(format!(
                "names {what} {id}, which {INSTANCES} does not have"
            ))
        };
        let (ann_id, image_id) = (reference.ann_id, reference.image_id);
        let Some(annotation) = self.instances.annotations.get(&ann_id) else {
            return Err(lacks("annotation", ann_id));
        };
        let Some(image) = self.instances.images.get(&image_id) else {
            return Err(lacks("image", image_id));
        };
        if annotation.image_id != image_id {
            return Err(wrong(format!(
                "is on image {image_id}, but its annotation {ann_id} is on image {}",
                annotation.image_id
            )));
        }
        let of_annotation = |reason: String| RefcocoError::Annotation {
            file: self.folder.instances.clone(),
            id: ann_id,
            reason,
        };
        let region = region(&annotation.segmentation, image.size()).map_err(of_annotation)?;
        self.left = self.left.checked_sub(size(&region)).ok_or_else(|| {
            let reason = "is referred to so often that the masks would take ";
            of_annotation(format!("{reason}more than {SHARED} times the file"))
        })?;
        let sentences = self.sentences(number, reference.sentences);
        let image = &self.instances.images[&image_id];
        let folder = self.folder;
        let place = self
            .found
            .entry(image_id)
            .or_insert_with(|| folder.picture(Path::new(&image.file_name)));
        let Some(place) = place else {
            self.missing.insert((image.file_name.clone(), image_id));
            return Ok(None);
        };
        Ok((!sentences.is_empty()).then(|| Record {
            image: place.clone(),
            region,
            sentences,
            split: reference.split,
        }))
    }

    /// Those that say something.
    fn sentences(&mut self, number: usize, mut sentences: Vec<Sentence>) -> Vec<Sentence> {
        let all = sentences.len();
        sentences.retain(|sentence| !sentence.text.trim().is_empty());
        if sentences.len() < all {
            self.blank.0 += all - sentences.len();
            self.blank.1.get_or_insert(number);
        }
        sentences
    }
}

/// Bytes of a region's numbers.
fn size(region: &Region) -> usize {
    match region {
        Region::Polygons(polygons) => {
            let numbers = polygons.iter().map(|polygon| polygon.len() + 3);
            8 * numbers.sum::<usize>()
        }
        Region::RunLengths(runs) => 4 * runs.counts().len(),
        Region::Mask(_) => 0,
    }
}

/// The region of a picture of `size` (width, height), where that is known; the
/// error is the end of a sentence that begins with the segmentation.
fn region(segmentation: &Segmentation, size: Option<(u32, u32)>) -> Result<Region, String> {
    match segmentation {
        Segmentation::Polygons(polygons) => {
            check_polygons(polygons).map_err(|said| format!("cannot be drawn: {said}"))?;
            Ok(Region::Polygons(polygons.clone()))
        }
        Segmentation::RunLengths(written) => {
            let runs = RunLengths::try_from(written).map_err(|error| error.to_string())?;
            match size {
                Some((width, height)) if (width, height) != (runs.width(), runs.height()) => {
                    Err(format!(
                        "is of {} x {} pixels, its image of {width} x {height}",
                        runs.width(),
                        runs.height()
                    ))
                }
                _ => Ok(Region::RunLengths(runs)),
            }
        }
    }
}
