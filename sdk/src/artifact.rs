//! Artifacts: a tuned model as a folder, whole or absent.
//!
//! Owns what is in the folder and the checks on opening it; a run, which holds several, is
//! [`crate::run`]'s. The base is not copied; a model remembers where its weights were and the
//! digest of their values.
//!
//! | file | holds |
//! |---|---|
//! | `recipe.toml` | the recipe with every default filled in |
//! | `tuned.safetensors` | the overlay: trained parameters, buffers, constants |
//! | `metrics.json` | what was measured |
//! | `README.md` | a model card |

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::file::{self, FileError};
use crate::recipe::Recipe;
use crate::run;
use crate::tuned::{Compute, Tuned};
use crate::weights;

/// The recipe's file.
pub const RECIPE: &str = "recipe.toml";
/// The overlay's file.
pub const TUNED: &str = "tuned.safetensors";
/// What was measured.
pub const METRICS: &str = "metrics.json";
/// The model card.
pub const CARD: &str = "README.md";

/// The version of the format that this crate writes.
const FORMAT: u32 = 1;
/// The one key in the safetensors metadata; several would be written in no fixed order.
const KEY: &str = "twinspan";

/// What the overlay's file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// Version of the crate that wrote it.
    pub sdk: String,
    /// Digest of the base's canonical tensors.
    pub base: String,
}

/// Writes a model as the folder `path`; `extra` adds files to it before it appears.
///
/// # Errors
/// The folder cannot be written, or holds something else; nothing is left then.
pub fn save(
    path: &Path,
    recipe: &Recipe,
    tuned: &Tuned,
    metrics: &serde_json::Value,
    extra: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<()> {
    let artifact = Artifact::new(recipe, tuned, metrics)?;
    replaceable(path)?;
    file::write_folder(path, RECIPE, |folder| {
        artifact.write(folder)?;
        extra(folder)
    })?;
    Ok(())
}

/// An artifact in memory: the content of its files.
pub(crate) struct Artifact {
    recipe: String,
    overlay: Vec<u8>,
    metrics: String,
    card: String,
}

impl Artifact {
    /// What `tuned` is now.
    ///
    /// # Errors
    /// The model holds values that are no numbers.
    pub fn new(recipe: &Recipe, tuned: &Tuned, metrics: &serde_json::Value) -> Result<Self> {
        let header = Header {
            format: FORMAT,
            sdk: env!("CARGO_PKG_VERSION").to_string(),
            base: tuned.base.digest()?.to_string(),
        };
        let note = serde_json::to_string(&header).map_err(Error::plugin)?;
        finite(&tuned.overlay.tensors())?;
        Ok(Self {
            recipe: recipe.to_toml()?,
            overlay: serialize(&tuned.overlay.tensors(), note)?,
            metrics: serde_json::to_string_pretty(metrics).map_err(Error::plugin)? + "\n",
            card: card(recipe, tuned, metrics, &header),
        })
    }

    /// Writes its files into a folder that is there.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::write(folder.join(RECIPE), &self.recipe)?;
        std::fs::write(folder.join(TUNED), &self.overlay)?;
        std::fs::write(folder.join(METRICS), &self.metrics)?;
        std::fs::write(folder.join(CARD), &self.card)
    }
}

/// Whether an artifact can be written at `path`: asked before the work, not after it. A folder is
/// replaced only if it is empty or a model: one with a recipe alone is somebody's project.
///
/// # Errors
/// There is something else at `path`, or nothing can be written beside it.
pub fn check(path: &Path) -> Result<()> {
    writable(path)?;
    replaceable(path)
}

/// The same for what may also replace a run.
pub(crate) fn check_for_run(path: &Path) -> Result<()> {
    writable(path)?;
    match run::is_run(path) {
        true => Ok(()),
        false => replaceable(path),
    }
}

/// An error if nothing can be written beside `path`.
fn writable(path: &Path) -> Result<()> {
    let wrong = |problem: String| Err(Error::wrong_use(format!("{}{problem}", path.display())));
    if path.file_name().is_none() {
        return wrong(": the path does not end in a name; name a new folder".into());
    }
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return wrong(format!(": the folder {} does not exist", parent.display()));
    }
    match tempfile::tempdir_in(parent) {
        Ok(_) => Ok(()),
        Err(source) => Err(FileError::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        }
        .into()),
    }
}

/// An error if something lies at `path` that is no model.
fn replaceable(path: &Path) -> Result<()> {
    let occupied = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some() && !is_model(path),
        Err(_) => path.exists(),
    };
    if !occupied {
        return Ok(());
    }
    let what = match run::is_run(path) {
        true => "holds a run of training",
        false => "exists and is not a model folder",
    };
    Err(Error::wrong_use(format!(
        "{} {what}; name a new one",
        path.display()
    )))
}

/// Whether `path` is a model folder itself, as opposed to a run that holds some.
pub fn is_model(path: &Path) -> bool {
    path.join(RECIPE).is_file() && path.join(TUNED).is_file()
}

/// The model folder that `path` means: itself, or the best model of a run, or its last.
///
/// # Errors
/// There is none.
pub fn locate(path: &Path) -> Result<PathBuf> {
    let [best, last] = [run::BEST, run::LAST].map(|name| path.join(name));
    if let Some(found) = [path, &best, &last].into_iter().find(|p| is_model(p)) {
        return Ok(found.to_path_buf());
    }
    Err(Error::wrong_use(match run::is_run(path) {
        true => format!("{} is a run that has not saved a model yet", path.display()),
        false => format!(
            "{} is not a model folder: it needs {RECIPE} and {TUNED}",
            path.display()
        ),
    }))
}

fn finite(tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        let sum = tensor.to_dtype(candle_core::DType::F64)?.sum_all()?;
        if !sum.to_scalar::<f64>()?.is_finite() {
            return Err(Error::plugin(format!(
                "`{name}` holds values that are no numbers: the run diverged, and nothing is saved"
            )));
        }
    }
    Ok(())
}

/// Tensors as a safetensors file with `note` in its metadata, where [`note`] finds it.
pub(crate) fn serialize(tensors: &BTreeMap<String, Tensor>, note: String) -> Result<Vec<u8>> {
    let mut ready = BTreeMap::new();
    for (name, tensor) in tensors {
        ready.insert(name.as_str(), tensor.to_device(&Device::Cpu)?.contiguous()?);
    }
    let metadata = [(KEY.to_string(), note)].into_iter().collect();
    safetensors::serialize(ready, Some(metadata)).map_err(Error::plugin)
}

/// Every tensor of a safetensors file, on the CPU.
pub(crate) fn tensors(file: &Path) -> Result<BTreeMap<String, Tensor>> {
    let checkpoint = Checkpoint::open(file)?;
    let mut stored = BTreeMap::new();
    for name in checkpoint.names() {
        if let Some(tensor) = checkpoint.get(name) {
            let tensor = tensor.tensor(tensor.dtype(), &Device::Cpu)?;
            stored.insert(name.to_string(), tensor);
        }
    }
    Ok(stored)
}

/// The recipe of a model folder, or of the model that a run folder stands for ([`locate`]).
///
/// # Errors
/// The folder is not a model.
pub fn recipe(path: &Path, weights: Option<&Path>) -> Result<Recipe> {
    let path = locate(path)?;
    let mut recipe = Recipe::open(&path.join(RECIPE))?;
    if let Some(weights) = weights {
        recipe.weights.weights = weights.display().to_string();
    }
    Ok(recipe)
}

/// Opens the model in `path` ([`locate`]), on the weights its recipe names.
///
/// # Errors
/// The folder is not a model, its weights are not there or are others, or it is damaged.
pub fn open(path: &Path, recipe: &Recipe, compute: Compute) -> Result<Tuned> {
    let base = weights::open(recipe)?;
    open_on(path, recipe, base, compute)
}

/// Opens the model in `path` on a base that is open already.
///
/// # Errors
/// As [`open`].
pub fn open_on(path: &Path, recipe: &Recipe, base: Base, compute: Compute) -> Result<Tuned> {
    let path = locate(path)?;
    let file = path.join(TUNED);
    let stored = tensors(&file)?;
    let header = header(&file)?;
    if header.format > FORMAT {
        return Err(Error::plugin(format!(
            "{} has format {}, written by twinspan {}; this program reads up to {FORMAT}",
            file.display(),
            header.format,
            header.sdk
        )));
    }
    let digest = base.digest()?;
    if digest != header.base {
        return Err(Error::OtherBase {
            model: path,
            expected: header.base,
            got: digest.to_string(),
        });
    }
    let mut tuned = Tuned::new(recipe, base, compute)?;
    tuned.overlay.restore(&stored)?;
    Ok(tuned)
}

/// What the overlay's file says of itself.
///
/// # Errors
/// The file was not written as an artifact.
pub fn header(file: &Path) -> Result<Header> {
    serde_json::from_str(&note(file)?).map_err(|_| foreign(file))
}

fn foreign(file: &Path) -> Error {
    Error::plugin(format!(
        "{} was not written as a twinspan artifact: it lacks the metadata `{KEY}`",
        file.display()
    ))
}

/// What [`serialize`] was given as a note.
pub(crate) fn note(file: &Path) -> Result<String> {
    use std::io::Read;
    let read = || -> io::Result<Vec<u8>> {
        let mut source = std::fs::File::open(file)?;
        let size = source.metadata()?.len();
        let mut length = [0; 8];
        source.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length).min(size);
        let mut json = Vec::new();
        source.take(length).read_to_end(&mut json)?;
        Ok(json)
    };
    let json = read().map_err(|e| Error::plugin(format!("{}: {e}", file.display())))?;
    let json: serde_json::Value = serde_json::from_slice(&json).map_err(|_| foreign(file))?;
    let note = json["__metadata__"][KEY].as_str();
    Ok(note.ok_or_else(|| foreign(file))?.to_string())
}

fn card(recipe: &Recipe, tuned: &Tuned, metrics: &serde_json::Value, header: &Header) -> String {
    let mut lines = vec![
        "# A model tuned with twinspan".to_string(),
        String::new(),
        format!(
            "- backbone: `{}`, frozen; digest of its weights `{}`",
            recipe.backbone.name, header.base
        ),
        format!("- task: `{}`", recipe.task.name),
    ];
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for trained in tuned.overlay.trained.values() {
        *owners.entry(&trained.owner).or_default() += trained.var.elem_count();
    }
    for (owner, count) in owners {
        lines.push(format!("- `{owner}`: {count} trained parameters"));
    }
    if let Some(scores) = metrics.as_object().filter(|m| !m.is_empty()) {
        lines.push(String::new());
        lines.push("Measured:".into());
        lines.push(String::new());
        for (name, value) in scores {
            lines.push(format!("- {name}: {value}"));
        }
    }
    lines.push(String::new());
    lines.push(format!(
        "`recipe.toml` says how it was made, `tuned.safetensors` holds what was trained (twinspan {}).",
        header.sdk
    ));
    lines.join("\n") + "\n"
}
