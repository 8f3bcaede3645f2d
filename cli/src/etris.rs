//! Released ETRIS checkpoints as models.
//!
//! Owns the reading of sizes off shapes and the correspondence of names; the whole model is in
//! such a file, so both the base and the overlay come from it. It lives here because it names a
//! backbone, an adapter and a task at once.
//!
//! Source: <https://github.com/kkakkkka/ETRIS>, arXiv 2307.11545.

mod names;
mod sizes;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use candle_core::{Device, Tensor};
use twinspan_backbones::clip::Clip;
use twinspan_sdk::base::Base;
use twinspan_sdk::checkpoint::Checkpoint;
use twinspan_sdk::key_map::{Expected, KeyMap, Pattern};
use twinspan_sdk::parameter::Overlay;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::recipe::Recipe;
use twinspan_sdk::topology::{Origin, Topology};
use twinspan_sdk::tuned::{Compute, Tuned, planned_overlay};
use twinspan_sdk::{Error, Result, artifact, weights};

use sizes::Sizes;

/// The base's file in an imported model folder.
const BASE: &str = "base.safetensors";
/// The folder of the vocabulary in an imported model folder.
const VOCABULARY: &str = "vocabulary";
/// What a folder can hold of a vocabulary. The first two are halves of one.
const FILES: [&str; 4] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "bpe_simple_vocab_16e6.txt.gz",
];

/// What no shape in a checkpoint tells.
#[derive(Clone, Copy, Debug)]
pub struct Untold {
    /// Heads of the bridge's attention; as released where none: 8 for ViT, 4 for ResNet.
    pub bridge_heads: Option<usize>,
    /// Side of the input in pixels; 416 where none, for a ViT what its positions say.
    pub input_size: Option<usize>,
    /// Ids a sentence is cut to: 17, or 22 for G-Ref.
    pub words: usize,
}

impl Untold {
    /// Sizes that make no model: wrong use where some were told, else the checkpoint is damaged.
    fn unfit(&self, checkpoint: &Checkpoint, error: Error) -> Error {
        let path = checkpoint.path().display();
        let told = self.bridge_heads.is_some()
            || self.input_size.is_some()
            || self.words != Self::default().words;
        match told {
            true => Error::wrong_use(format!(
                "{path}: its shapes and the sizes given make no model: {error}"
            )),
            false => Error::plugin(format!("{path}: its shapes make no model: {error}")),
        }
    }
}

impl Default for Untold {
    fn default() -> Self {
        Self {
            bridge_heads: None,
            input_size: None,
            words: 17,
        }
    }
}

/// What was imported, for the user's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// ViT or ResNet.
    pub kind: &'static str,
    /// Values in the model.
    pub values: usize,
    /// Values that were trained.
    pub trained: usize,
}

/// A checkpoint, read.
pub struct Etris {
    /// ViT or ResNet.
    pub kind: &'static str,
    /// The recipe that makes its model.
    pub recipe: Recipe,
    /// The frozen weights.
    pub base: Base,
    /// What was trained, and buffers, under the overlay's names.
    pub overlay: BTreeMap<String, Tensor>,
    /// How its names correspond to ours.
    pub names: KeyMap,
}

impl Etris {
    /// Reads a checkpoint's state dict, `module.` prefix or not.
    ///
    /// # Errors
    /// It is not ETRIS's: a tensor is missing, too many or of another shape.
    pub fn read(checkpoint: &Checkpoint, untold: &Untold) -> Result<Self> {
        let checkpoint = &checkpoint.strip_prefix("module.")?;
        let sizes = Sizes::of(checkpoint, untold)?;
        let unfit = |error: Error| untold.unfit(checkpoint, error);
        let recipe = Recipe::from_table(sizes.recipe(), "its recipe").map_err(unfit)?;
        let clip = Clip::from_options(&recipe.backbone.options)?;
        let topology = recipe.backbone.plugin.topology().map_err(unfit)?;
        let planned = planned_overlay(&recipe).map_err(unfit)?;
        let names = key_map(&clip, checkpoint, &sizes)?;
        let mut read = names.read(checkpoint, &expected(&topology, &planned))?;

        let mut overlay = BTreeMap::new();
        for name in planned.tensors().into_keys() {
            let weight = read
                .get(&name)
                .ok_or(Error::WeightMissing { name: name.clone() })?;
            overlay.insert(name, weight.tensor(weight.dtype(), &Device::Cpu)?);
        }
        let in_base: Vec<&str> = topology
            .parameters()
            .filter(|p| !matches!(p.origin, Origin::Fresh(_)))
            .map(|p| p.name.as_str())
            .collect();
        read.retain(|name, _| in_base.contains(&name.as_str()));
        Ok(Self {
            kind: sizes.kind(),
            recipe,
            base: Base::from_frozen(read),
            overlay,
            names,
        })
    }

    /// The model.
    ///
    /// # Errors
    /// The device cannot hold it.
    pub fn model(&self, compute: Compute) -> Result<Tuned> {
        let mut tuned = Tuned::new(&self.recipe, self.base.clone(), compute)?;
        tuned.overlay.restore(&self.overlay)?;
        Ok(tuned)
    }
}

/// Reads a checkpoint and writes a model folder that needs nothing else.
///
/// # Errors
/// The checkpoint or tokenizer is not one, or the folder cannot be written; nothing is left then.
pub fn import(
    checkpoint: &Path,
    tokenizer: &Path,
    out: &Path,
    untold: &Untold,
) -> Result<Imported> {
    let mut etris = Etris::read(&Checkpoint::open(checkpoint)?, untold)?;
    etris.recipe.backbone.plugin.tokenizer(Some(tokenizer))?;
    let tuned = etris.model(Compute::default())?;
    etris.recipe.weights.weights = BASE.to_string();
    etris.recipe.weights.tokenizer = match tokenizer.file_name() {
        Some(name) if !tokenizer.is_dir() => format!("{VOCABULARY}/{}", name.to_string_lossy()),
        _ => VOCABULARY.to_string(),
    };
    let base = serialize(&tuned.base)?;
    let metrics = serde_json::json!({});
    artifact::save(out, &etris.recipe, &tuned, &metrics, &|folder| {
        std::fs::write(folder.join(BASE), &base)?;
        copy(tokenizer, &folder.join(VOCABULARY))
    })?;
    let trained = tuned.overlay.trained.values();
    Ok(Imported {
        kind: etris.kind,
        values: tuned.topology.parameter_count()
            + tuned
                .overlay
                .tensors()
                .values()
                .map(Tensor::elem_count)
                .sum::<usize>(),
        trained: trained.map(|t| t.var.elem_count()).sum(),
    })
}

/// The names of the whole model: the backbone's as CLIP has them, then what was trained.
fn key_map(clip: &Clip, checkpoint: &Checkpoint, sizes: &Sizes) -> Result<KeyMap> {
    let mut map = clip.openai_map("backbone.")?;
    map.name = "etris";
    map.entries.extend(names::of(checkpoint, sizes));
    map.ignored.push(Pattern::from("*.num_batches_tracked"));
    Ok(map)
}

fn expected(topology: &Topology, planned: &Overlay) -> Vec<Expected> {
    let mut expected = weights::expected(topology);
    for (name, tensor) in planned.tensors() {
        if !expected.iter().any(|e| e.name == name) {
            expected.push(Expected::exactly(name, tensor.dims().to_vec()));
        }
    }
    expected
}

fn serialize(base: &Base) -> Result<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for name in base.names() {
        if let Some(weight) = base.get(name) {
            tensors.insert(name, weight.tensor(weight.dtype(), &Device::Cpu)?);
        }
    }
    safetensors::serialize(tensors, None).map_err(Error::plugin)
}

/// Copies a vocabulary, which is a file, two of a pair, or a folder with one of these.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    let (folder, parts) = match (from.is_dir(), from.file_name()) {
        (false, Some(name)) => {
            std::fs::copy(from, to.join(name))?;
            (from.parent().unwrap_or(Path::new("")), &FILES[..2])
        }
        _ => (from, &FILES[..]),
    };
    for name in parts {
        if folder.join(name).is_file() {
            std::fs::copy(folder.join(name), to.join(name))?;
        }
    }
    Ok(())
}
