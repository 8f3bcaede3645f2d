//! Models of the Hugging Face hub: their ids, the local cache, and who may ask the network.
//!
//! Owns when the cache is enough and what is said where it is not. The cache's layout is
//! `hub/cache.rs`'s, the conversation with the hub `hub/download.rs`'s; without the feature `hub` the
//! latter is not there, and a warm cache is all there is.

mod cache;
#[cfg(feature = "hub")]
mod download;
mod options;

use std::path::PathBuf;
use std::sync::OnceLock;

use cache::{Cache, Snapshot};
pub use options::{HubOptions, Token};

use crate::file::FileError;
use crate::source::{Folder, SourceError};

/// The revision of who names none.
const MAIN: &str = "main";

/// A model on the hub: `org/name`, or `org/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubId {
    model: String,
    revision: Option<String>,
}

impl HubId {
    /// The id that `text` is.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (model, revision) = match text.split_once('@') {
            None => (text, None),
            Some((model, revision)) => (model, Some(revision)),
        };
        let Some((org, name)) = model.split_once('/') else {
            return Err("it has no slash");
        };
        if ![org, name].into_iter().all(is_name) {
            return Err(
                "org and name are of letters, digits, `-`, `_` and `.`, with a letter, digit or \
                 `_` at both ends",
            );
        }
        if !revision.is_none_or(is_revision) {
            return Err("what follows `@` is no branch, tag or commit");
        }
        Ok(Self {
            model: model.into(),
            revision: revision.map(str::to_string),
        })
    }

    /// `org/name`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The branch, tag or commit: `main` where none is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// Whether the revision is a whole commit, which never changes.
    fn is_pinned(&self) -> bool {
        is_commit(self.revision())
    }
}

/// As it is written in a recipe.
impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.model)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 96
        && text.chars().all(inner)
        && text.starts_with(outer)
        && text.ends_with(outer)
        && !text.contains("..")
        && !text.contains("--")
}

/// What Git allows, less what a path of the cache could stumble over.
fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+/=".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    text.len() <= 200 && text.chars().all(allowed) && text.split('/').all(part)
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// How much of a model is wanted; each holds what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Description,
    Tokenizer,
    Everything,
}

impl Part {
    /// The files to put into place by hand.
    fn wanted(self) -> &'static str {
        match self {
            Self::Description => {
                "config.json or open_clip_config.json, and preprocessor_config.json and \
                 tokenizer_config.json where the model has them"
            }
            Self::Tokenizer => "tokenizer.json, or vocab.json and merges.txt",
            Self::Everything => {
                "model.safetensors, config.json or open_clip_config.json, \
                 preprocessor_config.json, tokenizer_config.json and tokenizer.json, as far as \
                 the model has them"
            }
        }
    }
}

/// Hears how downloads go on; does nothing unless told to.
pub trait Progress: Sync {
    /// `done` bytes of `file` are there, of `total` where the hub says how many. The first call
    /// counts what an earlier, interrupted download left.
    fn advance(&self, file: &str, done: u64, total: Option<u64>) {
        let _ = (file, done, total);
    }

    /// Something that the user should know, in one line: the hub does not answer, and what is in
    /// the cache is used.
    fn note(&self, note: &str) {
        let _ = note;
    }
}

/// Says nothing.
impl Progress for () {}

/// Why the hub was not asked, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// The user said so.
    #[error("HF_HUB_OFFLINE is set")]
    Offline,
    /// The feature `hub` is off.
    #[error("this build has no downloads (its feature `hub` is off)")]
    NoDownloads,
    /// No connection, or no sensible answer.
    #[error("{host} cannot be reached ({cause})")]
    Unreachable {
        /// The hub.
        host: String,
        /// What happened.
        cause: String,
    },
}

impl Away {
    fn cure(&self) -> &'static str {
        match self {
            Self::Offline => "unset it where there is a network",
            Self::NoDownloads => "use one that has them",
            Self::Unreachable { .. } => "run this again where it can be",
        }
    }
}

/// Why a model could not be had from the hub or its cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub was not asked or did not answer.
    #[error(transparent)]
    Away(#[from] Away),
    /// The hub was not asked or did not answer, and the cache lacks the model.
    #[error(
        "the cache lacks files of `{id}`, and {why}: {}; or put into {} by hand: {wanted}; or name \
         a folder that holds them", .why.cure(), folder.display()
    )]
    NotCached {
        /// The model.
        id: String,
        /// Why the hub is no help.
        why: Away,
        /// The files.
        wanted: String,
        /// Where they belong.
        folder: PathBuf,
    },
    /// There is no such model.
    #[error("there is no model `{model}` on {host}")]
    NoSuchModel {
        /// `org/name`.
        model: String,
        /// The hub.
        host: String,
    },
    /// There is no such revision.
    #[error("model `{model}` has no revision `{revision}` on {host}: name a branch, tag or commit")]
    NoSuchRevision {
        /// `org/name`.
        model: String,
        /// What was asked for.
        revision: String,
        /// The hub.
        host: String,
    },
    /// There is no such file.
    #[error("`{id}` has no file `{file}` on {host}")]
    NoSuchFile {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// The hub.
        host: String,
    },
    /// The hub wants to know who asks.
    #[error("{host} refuses `{model}` ({status}): {}", refusal(*.token, .host, .model))]
    Refused {
        /// `org/name`.
        model: String,
        /// The hub.
        host: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// An answer that no hub gives.
    #[error("{host} answers what cannot be used, for {what}: {problem}")]
    Answer {
        /// Who answered.
        host: String,
        /// What was asked for.
        what: String,
        /// What does not fit.
        problem: String,
    },
    /// A download ended early, several times over.
    #[error(
        "the download of {file} of `{id}` broke off after {done} bytes ({cause}); run this again \
         to go on from there"
    )]
    Interrupted {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// Bytes that are kept.
        done: u64,
        /// The last cause.
        cause: String,
    },
    /// What was downloaded is not what the hub has.
    #[error(
        "{file} of `{id}` is damaged and was removed: its SHA-256 is {got}, and the hub \
         says {expected}; run this again, and if it is the same, something on the way changes files"
    )]
    Digest {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// The hub's digest.
        expected: String,
        /// The digest of what came.
        got: String,
    },
    /// The token cannot be sent.
    #[error("what HF_TOKEN or the token file holds is no token: it has characters that none has")]
    Token,
    /// A file of the cache cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The cache cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

fn refusal(token: bool, host: &str, model: &str) -> String {
    let missing = match token {
        true => "the token in HF_TOKEN or the token file does not open it",
        false => "there is none of that name, or it is private or gated",
    };
    format!(
        "{missing}; check the name, accept the licence on {host}/{model}, and set HF_TOKEN to a \
         token of the account that did"
    )
}

/// The hub and its cache, as the options have them.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    #[cfg(feature = "hub")]
    downloads: download::Downloads,
}

impl Hub {
    /// A hub with these options.
    pub fn new(options: HubOptions) -> Self {
        Self {
            #[cfg(feature = "hub")]
            downloads: download::Downloads::new(),
            options,
        }
    }

    /// The hub of this process, with [`HubOptions::from_env`]. It asks for a revision once, so
    /// that weights and vocabulary are of one commit.
    pub fn of_process() -> &'static Self {
        static HUB: OnceLock<Hub> = OnceLock::new();
        HUB.get_or_init(|| Self::new(HubOptions::from_env()))
    }

    /// The folder with a part of a model, downloaded where the cache lacks it.
    ///
    /// A commit that is all in the cache needs no network. A branch or a tag is looked up, unless
    /// the hub is away: then what the cache has is used.
    pub(crate) fn folder(
        &self,
        id: &HubId,
        part: Part,
        progress: &dyn Progress,
    ) -> Result<Folder, SourceError> {
        let cache = Cache::new(&self.options.cache, id);
        let cached = cache.snapshot()?;
        if let Some(snapshot) = &cached
            && id.is_pinned()
            && snapshot.settles(part)
        {
            return cache.folder(id.revision());
        }
        let why = match self.update(&cache, id, part, progress) {
            Ok(commit) => return cache.folder(&commit),
            Err(SourceError::Hub(error)) => match *error {
                HubError::Away(why) => why,
                error => return Err(error.into()),
            },
            Err(error) => return Err(error),
        };
        match cached {
            Some(snapshot) if snapshot.holds(part) => {
                if let Away::Unreachable { .. } = why {
                    progress.note(&format!("{why}: `{id}` is taken from the cache"));
                }
                Ok(snapshot.folder)
            }
            lacking => Err(HubError::NotCached {
                id: id.to_string(),
                why,
                wanted: wanted(lacking.as_ref(), part),
                folder: cache.place(),
            }
            .into()),
        }
    }

    /// Downloads what the cache lacks of a part, and says of which commit it is.
    fn update(
        &self,
        cache: &Cache,
        id: &HubId,
        part: Part,
        progress: &dyn Progress,
    ) -> Result<String, SourceError> {
        if self.options.offline {
            return Err(HubError::from(Away::Offline).into());
        }
        #[cfg(feature = "hub")]
        return self
            .downloads
            .update(&self.options, cache, id, part, progress);
        #[cfg(not(feature = "hub"))]
        {
            let _ = (cache, id, part, progress);
            Err(HubError::from(Away::NoDownloads).into())
        }
    }
}

/// What to put into place by hand: the shards that are missing, or the files of a part.
fn wanted(cached: Option<&Snapshot>, part: Part) -> String {
    match cached.map(|snapshot| snapshot.folder.weights()) {
        Some(Err(SourceError::ShardsMissing { missing, .. })) => missing.join(", "),
        _ => part.wanted().into(),
    }
}
