//! The names under which models are published.
//!
//! Owns which file of a listing is the weights, which describe them and which are the vocabulary,
//! and what an index of shards names. The listing is a folder's or the hub's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::SourceError;
use super::description::json;

/// Weight files and indices of shards by their usual names, the preferred first. open_clip's come
/// before others of their kind: beside them, timm's repositories keep a `model.safetensors` with
/// the vision tower alone.
pub const WEIGHTS: [&str; 6] = [
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The configuration of `transformers`.
pub const CONFIG: &str = "config.json";
/// The configuration of `open_clip`.
pub const OPEN_CLIP: &str = "open_clip_config.json";
/// How `transformers` prepares pictures.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// How `transformers` prepares sentences.
pub const TOKENIZER: &str = "tokenizer_config.json";

/// The files that describe a model.
pub const DESCRIPTIONS: [&str; 4] = [CONFIG, OPEN_CLIP, PREPROCESSOR, TOKENIZER];

/// Vocabularies, the preferred first; each is of all its files, and opened by the first of them.
const VOCABULARIES: [&[&str]; 3] = [
    &["tokenizer.json"],
    &["vocab.json", "merges.txt"],
    &["bpe_simple_vocab_16e6.txt.gz"],
];

/// Endings of files that can be a model's only one.
const ENDINGS: [&str; 3] = [".safetensors", ".pt", ".pth"];

/// Longest index of shards that is read, in bytes.
const LONGEST_INDEX: u64 = 16 << 20;

/// The names of files in one place.
pub(crate) type Names = BTreeSet<String>;

/// The weights among `names`: the first of [`WEIGHTS`] that is there, or the only weight file.
pub(crate) fn weights(names: &Names) -> Option<&str> {
    let usual = WEIGHTS.into_iter().find(|name| names.contains(*name));
    usual.or_else(|| {
        let mut files = names
            .iter()
            .filter(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)));
        let first = files.next()?;
        files.next().is_none().then_some(first)
    })
}

/// The files of the vocabulary among `names`, to be opened by the first; none where there is none.
pub(crate) fn vocabulary(names: &Names) -> &'static [&'static str] {
    let whole = |files: &&[&str]| files.iter().all(|file| names.contains(*file));
    VOCABULARIES.into_iter().find(whole).unwrap_or(&[])
}

/// Every file that a vocabulary may have.
pub(crate) fn vocabularies() -> impl Iterator<Item = &'static str> {
    VOCABULARIES.into_iter().flatten().copied()
}

/// Whether a weight file of this name is one of a model's folder, and not one of many in a heap.
pub(crate) fn is_usual(name: &str) -> bool {
    WEIGHTS.contains(&name)
}

/// Whether a text ends as weight files do.
pub(crate) fn ends_like_weights(text: &str) -> bool {
    let others = [".bin", ".json", ".ckpt"];
    ENDINGS.iter().chain(&others).any(|end| text.ends_with(end))
}

/// Whether `name` is a plain name: of a file beside, not above or below.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// The files that hold the tensors of the weights at `path`: the shards of an index, nothing
/// beside one file.
///
/// # Errors
/// [`SourceError::Json`]: an index that is none, or names files elsewhere.
pub(crate) fn shards(path: &Path) -> Result<Names, SourceError> {
    let is_index = path.to_string_lossy().ends_with(".index.json");
    if !is_index {
        return Ok(Names::new());
    }
    let Index { weight_map } = json(path, LONGEST_INDEX)?;
    let names: Names = weight_map.into_values().collect();
    let problem = match names.iter().find(|name| !is_plain(name)) {
        Some(name) => format!("`{}` is no name of a shard beside it", name.escape_debug()),
        None if names.is_empty() => "it names no shard".into(),
        None => return Ok(names),
    };
    Err(SourceError::Json {
        path: path.into(),
        problem,
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}
