//! An index that says which of several files each tensor is in.
//!
//! Owns the index and its agreement with the shards; each shard is a weight file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use memmap2::Mmap;
use serde::Deserialize;

use super::{CheckpointError, Named, map, shown, unrecognised};

/// Missing shards that one error names.
const SHOWN: usize = 8;

#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: Option<BTreeMap<String, String>>,
}

/// Reads the shards that the index at `path` names, which lie beside it.
pub(super) fn read(path: &Path, index: &Mmap) -> Result<Named, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged {
        path: path.into(),
        problem,
    };
    let places = match serde_json::from_slice::<Index>(index) {
        Ok(Index {
            weight_map: Some(places),
        }) => places,
        Err(error) if holds(index, b"\"weight_map\"") => {
            return Err(damaged(format!("it is no index of shards: {error}")));
        }
        _ => return Err(unrecognised(path, "JSON text without a `weight_map`")),
    };
    let shards: BTreeSet<&str> = places.values().map(String::as_str).collect();
    if let Some(shard) = shards.iter().find(|shard| !stays_inside(shard)) {
        let shard = shown(shard);
        return Err(damaged(format!("its shard `{shard}` is not in its folder")));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    check_present(path, folder, &shards)?;

    let mut named = Named::default();
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for &shard in &shards {
        let file = folder.join(shard);
        let Named { tensors, skipped } = super::read(&file, &map(&file)?)?;
        for name in tensors.keys().chain(skipped.keys()) {
            if let Some(other) = owners.insert(name.clone(), shard) {
                return Err(damaged(format!(
                    "`{}` is in two of its shards, `{}` and `{}`",
                    shown(name),
                    shown(other),
                    shown(shard)
                )));
            }
        }
        named.tensors.extend(tensors);
        named.skipped.extend(skipped);
    }
    match places
        .iter()
        .find(|(name, shard)| owners.get(*name) != Some(&shard.as_str()))
    {
        None => Ok(named),
        Some((name, shard)) => Err(damaged(format!(
            "it places `{}` in `{}`, which does not hold it",
            shown(name),
            shown(shard)
        ))),
    }
}

/// Whether a shard's name is that of a file in the folder or below.
fn stays_inside(shard: &str) -> bool {
    let mut parts = Path::new(shard).components();
    !shard.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn check_present(
    path: &Path,
    folder: &Path,
    shards: &BTreeSet<&str>,
) -> Result<(), CheckpointError> {
    let missing: Vec<String> = shards
        .iter()
        .filter(|shard| !folder.join(shard).is_file())
        .take(SHOWN)
        .map(|shard| format!("`{}`", shown(shard)))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(CheckpointError::MissingShards {
            path: path.into(),
            missing,
            whole: shards.len(),
        }),
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
