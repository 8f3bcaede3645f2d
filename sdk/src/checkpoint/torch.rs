//! The tensors in files that torch wrote: state dicts, and the modules of TorchScript.
//!
//! Owns the two containers: the zip archives of `torch.save` and `torch.jit.save`, and the files
//! of `torch.save` before PyTorch 1.6 (`legacy.rs`). What is named is found in `entries.rs`, what
//! is a tensor in `rebuilt.rs`, its elements in `storages.rs`; pickles are read in
//! [`crate::pickle`].

mod entries;
pub(super) mod legacy;
mod rebuilt;
mod storages;
mod zip;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::{Named, Refused, damaged, shown};
use crate::frozen::Frozen;
use crate::pickle::{Id, Pickle, Value};
use rebuilt::{Saved, tensor};
use storages::{Place, Storages};
use zip::Archive;

/// Sizes of OpenAI's models beside their weights: tensors in some files, plain numbers in others.
const SIZES: [&str; 3] = ["input_resolution", "context_length", "vocab_size"];

/// Reads a zip archive.
pub(super) fn read(map: &Arc<Mmap>) -> Result<Named, Refused> {
    let archive = Archive::read(map)?;
    let Some(pickle) = archive
        .names()
        .filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
        .min_by_key(|name| (name.len(), *name))
    else {
        let found = match archive.names().find(|name| name.ends_with(".npy")) {
            Some(_) => "it is a NumPy archive (.npz)",
            None => "it is a zip archive without data.pkl",
        };
        return Err(Refused::NoStateDict(found.into()));
    };
    let root = pickle.strip_suffix("data.pkl").unwrap_or_default();
    let place = |name: &str| archive.place(&format!("{root}{name}"));
    if let Some(order) = place("byteorder")?
        && map[order] != *b"little"
    {
        return Err(Refused::Unsupported {
            kind: "a file of a big-endian machine",
            advice: "save it again on a little-endian one",
        });
    }
    let bytes = place("data.pkl")?.unwrap_or_default();
    let pickle = Pickle::read(&map[bytes]).map_err(|error| damaged(error.to_string()))?;
    named(map, &pickle, &|key| {
        match place(&format!("data/{key}"))? {
            // TorchScript's key of a storage that its code uses too has the folder in front.
            None if key.starts_with("constants/") => place(key),
            found => Ok(found),
        }
    })
}

/// The tensors that `pickle` names, of the storages at `place`.
fn named(map: &Arc<Mmap>, pickle: &Pickle<'_>, place: &Place<'_>) -> Result<Named, Refused> {
    let mut storages = Storages::new(map, place);
    let mut read = Named::default();
    // Tied weights are one tensor under two names.
    let mut known: HashMap<Id, Frozen> = HashMap::new();
    for (name, id) in entries::of(pickle, map.len())? {
        if let Some(tensor) = known.get(&id) {
            read.tensors.insert(name, tensor.clone());
            continue;
        }
        if let Value::Int(size) = pickle.get(id)
            && SIZES.contains(&name.as_str())
        {
            let size = Tensor::new(*size, &Device::Cpu).map_err(|e| damaged(e.to_string()))?;
            read.tensors.insert(name, Frozen::dense(&size));
            continue;
        }
        let at = |problem: String| damaged(format!("`{}` {problem}", shown(&name)));
        match tensor(pickle, id) {
            None => {}
            Some(Saved::Skipped(reason)) => {
                read.skipped.insert(name, reason.into());
            }
            Some(Saved::Damaged(problem)) => return Err(at(problem.into())),
            Some(Saved::Strided(tensor)) => {
                let frozen = storages.load(&tensor)?.map_err(at)?;
                known.insert(id, frozen.clone());
                read.tensors.insert(name, frozen);
            }
        }
    }
    Ok(read)
}
