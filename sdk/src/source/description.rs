//! What the JSON files beside the weights say.
//!
//! Owns reading them, within bounds. What their fields mean is a backbone's to know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::layout::{CONFIG, DESCRIPTIONS, OPEN_CLIP, PREPROCESSOR, TOKENIZER};
use super::{SourceError, layout::Names};

/// Longest file that is read, in bytes: tokenizers of large vocabularies list theirs.
const LONGEST: u64 = 4 << 20;

/// The parsed files that describe a model; empty where there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    files: BTreeMap<&'static str, Value>,
}

impl Description {
    /// Reads those of [`DESCRIPTIONS`] that are in `folder`, whose files are `names`.
    pub(super) fn read(folder: &Path, names: &Names) -> Result<Self, SourceError> {
        let mut files = BTreeMap::new();
        for name in DESCRIPTIONS {
            if names.contains(name) {
                files.insert(name, json(&folder.join(name), LONGEST)?);
            }
        }
        Ok(Self { files })
    }

    /// A description of files that are parsed already. Names other than [`DESCRIPTIONS`] are left
    /// out.
    pub fn of(files: impl IntoIterator<Item = (String, Value)>) -> Self {
        let known = |name: String| DESCRIPTIONS.into_iter().find(|known| *known == name);
        Self {
            files: files
                .into_iter()
                .filter_map(|(name, value)| Some((known(name)?, value)))
                .collect(),
        }
    }

    /// Whether nothing describes the weights.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files by name.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.files.iter().map(|(name, value)| (*name, value))
    }

    /// `config.json`, of `transformers`.
    pub fn config(&self) -> Option<&Value> {
        self.files.get(CONFIG)
    }

    /// `open_clip_config.json`.
    pub fn open_clip(&self) -> Option<&Value> {
        self.files.get(OPEN_CLIP)
    }

    /// `preprocessor_config.json`: how pictures are prepared.
    pub fn preprocessor(&self) -> Option<&Value> {
        self.files.get(PREPROCESSOR)
    }

    /// `tokenizer_config.json`: how sentences are prepared.
    pub fn tokenizer(&self) -> Option<&Value> {
        self.files.get(TOKENIZER)
    }
}

/// A JSON file of at most `longest` bytes.
pub(super) fn json<T: DeserializeOwned>(path: &Path, longest: u64) -> Result<T, SourceError> {
    let failed = |source| SourceError::Io {
        path: path.into(),
        source,
    };
    let wrong = |problem| SourceError::Json {
        path: path.into(),
        problem,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(longest + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > longest {
        return Err(wrong(format!(
            "it is longer than {longest} bytes: no such file is"
        )));
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| wrong(format!("it is not the JSON it should be: {e}")))
}
