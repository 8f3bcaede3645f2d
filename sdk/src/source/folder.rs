//! A model's files in a folder.
//!
//! Owns finding them there by name. The folder is the user's, or a snapshot in the hub's cache.

use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{self, Names};
use super::{Description, SourceError};

/// A folder with the names of its files, and what is looked for in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Files only: neither folders nor links that lead nowhere.
    names: Names,
    /// The weight file, where the user named it.
    weights: Option<PathBuf>,
    /// What messages call it.
    name: String,
}

impl Folder {
    /// The folder at `path`, or the one around the weight file there. A file that does not bear
    /// one of the usual names says nothing of what lies beside it: the folder is empty then.
    pub fn around(path: &Path) -> Result<Self, SourceError> {
        if path.is_dir() {
            return Self::open(path, path.display().to_string());
        }
        if !path.exists() {
            return Err(SourceError::Absent { path: path.into() });
        }
        let usual = path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            layout::is_usual(&name)
        });
        let folder = path.parent().unwrap_or(Path::new("."));
        let names = match usual {
            true => files(folder)?,
            false => Names::new(),
        };
        Ok(Self {
            path: folder.into(),
            names,
            weights: Some(path.into()),
            name: path.display().to_string(),
        })
    }

    /// The folder at `path`, called `name` in messages.
    pub fn open(path: &Path, name: String) -> Result<Self, SourceError> {
        Ok(Self {
            path: path.into(),
            names: files(path)?,
            weights: None,
            name,
        })
    }

    /// The names of its files.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The weights, with all their shards.
    pub fn weights(&self) -> Result<PathBuf, SourceError> {
        let path = match (&self.weights, layout::weights(&self.names)) {
            (Some(path), _) => path.clone(),
            (None, Some(name)) => self.path.join(name),
            (None, None) => {
                return Err(SourceError::NoWeights {
                    name: self.name.clone(),
                    here: self.names.iter().cloned().collect(),
                });
            }
        };
        let missing: Vec<String> = layout::shards(&path)?
            .into_iter()
            .filter(|shard| !self.path.join(shard).is_file())
            .collect();
        match missing.is_empty() {
            true => Ok(path),
            false => Err(SourceError::ShardsMissing {
                index: path,
                missing,
            }),
        }
    }

    /// What the files beside the weights say.
    pub fn description(&self) -> Result<Description, SourceError> {
        let mut names = self.names.clone();
        // Weights of open_clip are what open_clip's file says: timm's and transformers' files may
        // lie beside them for other weights.
        let weights = match &self.weights {
            Some(path) => path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            None => layout::weights(&names).map(String::from),
        };
        let of_open_clip = weights.is_some_and(|name| name.starts_with("open_clip"));
        if of_open_clip && names.contains(layout::OPEN_CLIP) {
            names.remove(layout::CONFIG);
            names.remove(layout::PREPROCESSOR);
        }
        Description::read(&self.path, &names)
    }

    /// The file by which the vocabulary is opened.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        let first = layout::vocabulary(&self.names).first()?;
        Some(self.path.join(first))
    }
}

/// The names of the files in a folder; hidden ones and those that are no text are passed over.
fn files(folder: &Path) -> Result<Names, SourceError> {
    let failed = |source| SourceError::Io {
        path: folder.into(),
        source,
    };
    let mut names = Names::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && layout::is_plain(&name)
            && entry.path().is_file()
        {
            names.insert(name);
        }
    }
    Ok(names)
}
