//! Writing weights as a file that other software loads.
//!
//! Owns the choice of a layout by name and the file. Translating names is
//! [`crate::key_map`]'s, which values they are [`crate::tuned`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::Tensor;

use super::layouts;
use crate::backbone::Backbone;
use crate::error::{Error, Result, nearest};
use crate::file::write_whole;
use crate::key_map::KeyMap;
use crate::topology::Origin;

/// What transformers asks of a file's metadata: tensors are as torch lays them out.
const FORMAT: (&str, &str) = ("format", "pt");

/// The layout of a backbone's weights that goes by `name`.
///
/// # Errors
/// None does; the message names those there are.
pub fn layout_named(backbone: &dyn Backbone, name: &str) -> Result<KeyMap> {
    let layouts = layouts(backbone)?;
    let found = layouts.iter().find(|layout| layout.is_called(name));
    found.cloned().ok_or_else(|| {
        let known = layouts.iter().flat_map(|l| l.also.iter().chain([&l.name]));
        let offer = match nearest(name, known.copied()) {
            Some(near) => format!(" (did you mean `{near}`?)"),
            None => String::new(),
        };
        let choices: Vec<String> = layouts.iter().map(called).collect();
        Error::wrong_use(format!(
            "this backbone has no layout `{name}`{offer}; there are: {}",
            choices.join(", ")
        ))
    })
}

/// A layout's name, its other names behind it.
fn called(layout: &KeyMap) -> String {
    match layout.also {
        [] => layout.name.to_string(),
        also => format!("{} (or {})", layout.name, also.join(", ")),
    }
}

/// Writes tensors with canonical names as the safetensors file `path` in a layout: whole, or not
/// at all. Gives its size in bytes.
///
/// # Errors
/// The layout has no place for a tensor, or names one that the backbone does not have: it is that
/// of another model; the file cannot be written.
pub fn write(
    path: &Path,
    backbone: &dyn Backbone,
    layout: &KeyMap,
    tensors: BTreeMap<String, Tensor>,
) -> Result<usize> {
    all_filled(backbone, layout, &tensors)?;
    let written = layout.write(tensors)?;
    let mut ready = BTreeMap::new();
    for (name, tensor) in written {
        ready.insert(name, tensor.contiguous()?);
    }
    let metadata = [FORMAT].map(|(key, value)| (key.to_string(), value.to_string()));
    let bytes = safetensors::serialize(ready, Some(metadata.into())).map_err(Error::plugin)?;
    write_whole(path, |file| file.write_all(&bytes))?;
    Ok(bytes.len())
}

/// Refuses a layout with a place that stays empty: its software would fill it with what it likes.
fn all_filled(
    backbone: &dyn Backbone,
    layout: &KeyMap,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let topology = backbone.topology()?;
    let fresh = topology
        .parameters()
        .filter(|p| matches!(p.origin, Origin::Fresh(_)));
    let fresh: BTreeSet<&str> = fresh.map(|p| p.name.as_str()).collect();
    let empty = layout.entries.iter().find(|entry| {
        let name = entry.canonical.as_str();
        !tensors.contains_key(name) && !fresh.contains(name)
    });
    match empty {
        None => Ok(()),
        Some(entry) => Err(Error::wrong_use(format!(
            "the layout `{}` is of models with `{}`, which this one does not have",
            layout.name, entry.external
        ))),
    }
}
