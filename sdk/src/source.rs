//! Where a model's files are: a folder, a file, or a model on the Hugging Face hub.
//!
//! Owns how the text of `weights = "…"` is read and what is gathered at the place it names. The
//! names under which files are published are [`layout`]'s, the cache and the downloads
//! [`crate::hub`]'s. Reads no tensor.

mod description;
mod folder;
pub mod layout;

use std::path::{Path, PathBuf};

pub use description::Description;
pub(crate) use folder::Folder;

use crate::hub::{Hub, HubError, HubId, Part, Progress};

/// Marks a text as a hub id whatever lies on the disk.
const HUB: &str = "hf-hub:";

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder or a weight file on the disk.
    Path(PathBuf),
    /// A model on the hub.
    Hub(HubId),
}

/// What a model's files are.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// What the user named, for messages.
    pub name: String,
    /// The weight file, or the index of its shards; these are all there then.
    pub weights: PathBuf,
    /// What the files beside the weights say of them.
    pub description: Description,
    /// A file of the vocabulary: `tokenizer.json`, `vocab.json` beside `merges.txt`, or
    /// `bpe_simple_vocab_16e6.txt.gz`.
    pub tokenizer: Option<PathBuf>,
}

/// Why a model's files are not there, or not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The text names nothing.
    #[error(
        "`{text}` is neither a file or folder that is there ({}) nor a model of the hub: {why}; \
         write a path, or org/name or org/name@revision", looked.display()
    )]
    Neither {
        /// The text.
        text: String,
        /// Where it was looked for.
        looked: PathBuf,
        /// Why it is no hub id.
        why: &'static str,
    },
    /// The text says that it is a hub id, and is none.
    #[error(
        "`{text}` names no model of the hub: {why}; write hf-hub:org/name or hf-hub:org/name@revision"
    )]
    NoId {
        /// The text.
        text: String,
        /// Why it is no hub id.
        why: &'static str,
    },
    /// The path leads nowhere.
    #[error("there is no file or folder {}", path.display())]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// No weight file, or several of which none is the obvious one.
    #[error(
        "{name} has no weights under a usual name, nor one weight file alone: looked for {}, or a \
         single *.safetensors, *.pt or *.pth; it holds {}", layout::WEIGHTS.join(", "), listed(.here)
    )]
    NoWeights {
        /// The folder, or the model on the hub.
        name: String,
        /// The files there.
        here: Vec<String>,
    },
    /// Shards that the index names are not beside it.
    #[error("{} names files that are not beside it: {}", index.display(), listed(.missing))]
    ShardsMissing {
        /// The index.
        index: PathBuf,
        /// What is missing.
        missing: Vec<String>,
    },
    /// A JSON file does not say what it should.
    #[error("{}: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The hub or its cache.
    #[error(transparent)]
    Hub(Box<HubError>),
}

// Boxed: the errors of folders are few and small.
impl From<HubError> for SourceError {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

impl Source {
    /// The source that `text` names: `org/name`, `org/name@revision`, either behind `hf-hub:`, a
    /// folder or a file. Relative paths are relative to `folder`; `~/` is the home folder.
    ///
    /// A path that is there wins over a hub id. A text that cannot be a hub id (absolute, with a
    /// leading `.` or `~`, with more than one slash, or ending like a weight file) is a path
    /// whether it is there or not.
    ///
    /// # Errors
    /// [`SourceError::Neither`], [`SourceError::NoId`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self, SourceError> {
        if let Some(id) = text.strip_prefix(HUB) {
            let no_id = |why| SourceError::NoId {
                text: text.into(),
                why,
            };
            return HubId::parse(id).map(Self::Hub).map_err(no_id);
        }
        let path = located(text, folder);
        if !text.is_empty() && (path.exists() || is_path(text)) {
            return Ok(Self::Path(path));
        }
        HubId::parse(text)
            .map(Self::Hub)
            .map_err(|why| SourceError::Neither {
                text: text.into(),
                looked: path,
                why,
            })
    }

    /// The text that names this source wherever it is read: a hub id with its mark.
    pub fn marked(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Hub(id) => format!("{HUB}{id}"),
        }
    }

    /// What the files beside the weights say, without the weights: what a plan needs.
    ///
    /// # Errors
    /// [`SourceError`]: the place is not there, or a file is no JSON.
    pub fn description(
        &self,
        hub: &Hub,
        progress: &dyn Progress,
    ) -> Result<Description, SourceError> {
        self.folder(hub, Part::Description, progress)?.description()
    }

    /// A file of the vocabulary, where there is one.
    ///
    /// # Errors
    /// [`SourceError`]: the place is not there.
    pub fn tokenizer(
        &self,
        hub: &Hub,
        progress: &dyn Progress,
    ) -> Result<Option<PathBuf>, SourceError> {
        Ok(self.folder(hub, Part::Tokenizer, progress)?.tokenizer())
    }

    /// Everything: weights, what is said of them, and the vocabulary.
    ///
    /// # Errors
    /// [`SourceError`]: the place is not there, has no weights or not all of them, or a file is
    /// no JSON.
    pub fn files(&self, hub: &Hub, progress: &dyn Progress) -> Result<Files, SourceError> {
        let folder = self.folder(hub, Part::Everything, progress)?;
        Ok(Files {
            name: self.to_string(),
            weights: folder.weights()?,
            description: folder.description()?,
            tokenizer: folder.tokenizer(),
        })
    }

    fn folder(
        &self,
        hub: &Hub,
        part: Part,
        progress: &dyn Progress,
    ) -> Result<Folder, SourceError> {
        match self {
            Self::Path(path) => Folder::around(path),
            Self::Hub(id) => hub.folder(id, part, progress),
        }
    }
}

/// As a user would write it.
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Hub(id) => id.fmt(f),
        }
    }
}

/// Where `text` lies, if it is a path: absolute.
fn located(text: &str, folder: &Path) -> PathBuf {
    let home = text.strip_prefix("~/").zip(std::env::home_dir());
    let path = match home {
        Some((rest, home)) => home.join(rest),
        None => folder.join(text),
    };
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether `text` cannot be a hub id but reads as a path.
fn is_path(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or(text);
    text.starts_with(['.', '~'])
        || Path::new(text).is_absolute()
        || text.contains('\\')
        || name.matches('/').count() > 1
        || layout::ends_like_weights(text)
}

/// Names of files as a message shows them: not too many.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    match names.len() {
        0 => text.push_str("nothing"),
        count if count > SHOWN => text.push_str(&format!(" and {} more", count - SHOWN)),
        _ => {}
    }
    text
}
