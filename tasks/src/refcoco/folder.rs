//! Which files of a folder are the data set: references, annotations, and the
//! places where pictures may lie. Reads none of them.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use twinspan_sdk::task::DataSource;

use super::{Choice, INSTANCES, RefcocoError};

/// Where pictures lie below the folder with the data sets; the first is where
/// [`write`](super::write) puts them.
const PLACES: [&str; 6] = [
    super::IMAGES,
    "images/train2014",
    "images/mscoco/images/train2014",
    "train2014",
    "coco/train2014",
    "",
];

/// The files of a data set.
pub(super) struct Folder {
    /// `refs(…).p`.
    pub references: PathBuf,
    /// `instances.json`.
    pub instances: PathBuf,
    /// Folders in which pictures are looked for, in this order.
    pub pictures: Vec<PathBuf>,
}

impl Folder {
    /// The data set and division that `source` means.
    pub fn find(source: &DataSource) -> Result<Self, RefcocoError> {
        let given = &source.path;
        let (roots, known) = match divisions(given)?.is_empty() {
            true => (vec![given.clone()], datasets(given)?),
            false => (vec![above(given), given.clone()], vec![own_name(given)]),
        };
        if known.is_empty() {
            return Err(RefcocoError::NoDataset {
                root: given.clone(),
            });
        }
        let dataset = chosen(given, Choice::Dataset, &source.dataset, known)?;
        let folder = match roots.len() {
            1 => given.join(&dataset),
            _ => given.clone(),
        };
        let known = divisions(&folder)?;
        let split_by = chosen(&folder, Choice::SplitBy, &source.split_by, known)?;
        let mut pictures: Vec<PathBuf> = Vec::new();
        for root in &roots {
            pictures.extend(PLACES.map(|place| match place {
                "" => root.clone(),
                place => root.join(place),
            }));
            pictures.push(root.join(super::IMAGES).join(&dataset));
        }
        pictures.extend([folder.join(super::IMAGES), folder.clone()]);
        let mut seen = std::collections::BTreeSet::new();
        pictures.retain(|place| seen.insert(place.clone()));
        Ok(Self {
            references: folder.join(references(&split_by)),
            instances: folder.join(INSTANCES),
            pictures,
        })
    }

    /// Where a picture of that name lies.
    pub fn picture(&self, name: &Path) -> Option<PathBuf> {
        let mut places = self.pictures.iter().map(|place| place.join(name));
        places.find(|path| path.is_file())
    }
}

/// The file of a division.
pub(super) fn references(split_by: &str) -> String {
    format!("refs({split_by}).p")
}

fn above(folder: &Path) -> PathBuf {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        Some(_) if folder.file_name().is_some() => ".".into(),
        _ => folder.join(".."),
    }
}

/// The name of a folder that may have been given as `.`.
fn own_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = whole.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn entries(folder: &Path) -> Result<Vec<String>, RefcocoError> {
    let unreadable = |reason| RefcocoError::Unreadable {
        path: folder.into(),
        reason,
    };
    let names = std::fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<io::Result<_>>().map_err(unreadable)?;
    let mut names: Vec<_> = names
        .iter()
        .filter_map(|name| OsStr::to_str(name))
        .map(String::from)
        .collect();
    names.sort();
    Ok(names)
}

/// The divisions that a folder has references of.
fn divisions(folder: &Path) -> Result<Vec<String>, RefcocoError> {
    let names = entries(folder)?;
    let divisions = names
        .iter()
        .filter_map(|name| name.strip_prefix("refs(")?.strip_suffix(").p"));
    Ok(divisions.map(String::from).collect())
}

/// The folders below that have references.
fn datasets(root: &Path) -> Result<Vec<String>, RefcocoError> {
    let mut datasets = Vec::new();
    for name in entries(root)? {
        let folder = root.join(&name);
        // A folder that may not be looked into is none of the data sets.
        if folder.is_dir() && divisions(&folder).is_ok_and(|known| !known.is_empty()) {
            datasets.push(name);
        }
    }
    Ok(datasets)
}

fn chosen(
    place: &Path,
    choice: Choice,
    asked: &Option<String>,
    known: Vec<String>,
) -> Result<String, RefcocoError> {
    let place = place.into();
    match (asked, &known[..]) {
        (Some(asked), _) if known.contains(asked) => Ok(asked.clone()),
        (Some(asked), _) => Err(RefcocoError::NoSuch {
            place,
            choice,
            asked: asked.clone(),
            known,
        }),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(RefcocoError::Several {
            place,
            choice,
            known,
        }),
    }
}
