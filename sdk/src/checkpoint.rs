//! Weight files as named frozen tensors.
//!
//! Owns opening a file, recognising its format by its content, and the names. What the names
//! mean is [`KeyMap`](crate::key_map::KeyMap)'s; how a tensor is read is
//! [`Frozen`]'s. Nothing in a file is ever executed, and what is
//! allocated while opening one is bounded by its size.

mod kind;
mod safetensors;
mod shards;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use memmap2::Mmap;

use crate::frozen::Frozen;
use kind::Kind;

/// The named tensors of one weight file.
///
/// Opening maps the file and reads its directory only; values are read where they are used.
/// The file must not be changed or cut while it is open: as with every mapping, the system
/// would show the new bytes or end the program. Replacing it by a rename is safe.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, Frozen>,
    skipped: BTreeMap<String, String>,
}

/// Why a weight file was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file could not be opened or mapped.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The content is not a weight file of a kind that is read.
    #[error(
        "{} looks like {looks_like}; accepted are a .safetensors file, a state dict or TorchScript \
         module written by torch (.pt, .pth, .bin), and an index of shards (.index.json)",
        path.display()
    )]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// What its first bytes suggest.
        looks_like: &'static str,
    },
    /// A kind of weight file that is known and not read.
    #[error("{} is {kind}, which is not read yet; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
    /// The file is shorter than its own header says.
    #[error("{} is cut short: {missing} of its {whole} bytes are missing; fetch it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises behind the end of the file.
        missing: u64,
        /// Bytes of the whole file.
        whole: u64,
    },
    /// The file contradicts itself.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The file was read, and holds no state dict.
    #[error(
        "{} holds no state dict: {found}; accepted are tensors by name, directly or under \
         `state_dict` or `model`", path.display()
    )]
    NoStateDict {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// An index names files that are not there.
    #[error(
        "{} is an index of {whole} shards, of which {} {} not beside it; fetch what is missing",
        path.display(), missing.join(", "), if missing.len() == 1 { "is" } else { "are" }
    )]
    MissingShards {
        /// The index.
        path: PathBuf,
        /// Names of files, as the index has them.
        missing: Vec<String>,
        /// How many files the index names.
        whole: usize,
    },
    /// Two tensors would get the same name.
    #[error("renaming {}: `{first}` and `{second}` both become `{name}`", path.display())]
    SameName {
        /// The file.
        path: PathBuf,
        /// The tensor that has the name already.
        first: String,
        /// The tensor that would get it too.
        second: String,
        /// The name.
        name: String,
    },
}

impl Checkpoint {
    /// Opens a weight file: `.safetensors`; a state dict that `torch.save` wrote, directly or
    /// under `state_dict` or `model`; a module that `torch.jit.save` wrote, its tensors under
    /// dotted names; or an index of shards (`model.safetensors.index.json`), which are opened
    /// together.
    ///
    /// The format is recognised by content, whatever the file is called. Tensors of types that
    /// are never weights here (booleans, complex, quantised) are left out; see
    /// [`skipped`](Self::skipped). Where every name begins with `module.`, as a parallel model's
    /// do, that is taken off.
    ///
    /// # Errors
    /// Each variant of [`CheckpointError`] but `SameName`; all name the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let map = map(path)?;
        let named = match kind::of(&map) {
            Kind::Json => shards::read(path, &map)?,
            _ => read(path, &map)?,
        };
        let Named { tensors, skipped } = named;
        let read = Self {
            path: path.into(),
            tensors,
            skipped,
        };
        let mut names = read.tensors.keys().chain(read.skipped.keys());
        match names.all(|name| name.starts_with(PARALLEL)) {
            true => read.strip_prefix(PARALLEL),
            false => Ok(read),
        }
    }

    /// Tensors that are in memory already, under the `path` that errors shall name.
    pub fn from_frozen(path: impl Into<PathBuf>, tensors: BTreeMap<String, Frozen>) -> Self {
        Self {
            path: path.into(),
            tensors,
            skipped: BTreeMap::new(),
        }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Frozen> {
        self.tensors.get(name)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names of the tensors that were left out, with the element type that is the reason.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &str)> {
        self.skipped.iter().map(|(n, t)| (n.as_str(), t.as_str()))
    }

    /// The element type for which the tensor called `name` was left out.
    pub(crate) fn skipped_type(&self, name: &str) -> Option<&str> {
        self.skipped.get(name).map(String::as_str)
    }

    /// Renames every tensor; `None` leaves it out. The values are shared, not copied.
    ///
    /// # Errors
    /// [`CheckpointError::SameName`].
    pub fn map_names(
        &self,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CheckpointError> {
        let mut sources: BTreeMap<String, &str> = BTreeMap::new();
        let mut tensors = BTreeMap::new();
        for (old, tensor) in &self.tensors {
            let Some(name) = rename(old) else { continue };
            if let Some(first) = sources.insert(name.clone(), old) {
                return Err(CheckpointError::SameName {
                    path: self.path.clone(),
                    first: first.into(),
                    second: old.clone(),
                    name,
                });
            }
            tensors.insert(name, tensor.clone());
        }
        let skipped = self
            .skipped
            .iter()
            .filter_map(|(old, reason)| Some((rename(old)?, reason.clone())))
            .collect();
        Ok(Self {
            path: self.path.clone(),
            tensors,
            skipped,
        })
    }

    /// Takes `prefix` off every name that begins with it: `module.` of a parallel model.
    ///
    /// # Errors
    /// [`CheckpointError::SameName`].
    pub fn strip_prefix(&self, prefix: &str) -> Result<Self, CheckpointError> {
        self.map_names(|name| Some(name.strip_prefix(prefix).unwrap_or(name).into()))
    }
}

/// The most dimensions of a tensor that is read, which is more than any weight has.
const HIGHEST_RANK: usize = 8;

/// What PyTorch's parallel models put in front of every name.
const PARALLEL: &str = "module.";

/// Maps a file that is not empty.
fn map(path: &Path) -> Result<Arc<Mmap>, CheckpointError> {
    let failed = |source| CheckpointError::Io {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(unrecognised(path, "a folder"));
    }
    if metadata.len() == 0 {
        return Err(unrecognised(path, "an empty file"));
    }
    // SAFETY: the mapping is read only; the documentation of `Checkpoint` says that the file must
    // not be changed while it is open.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    Ok(Arc::new(map))
}

/// Reads a file of a kind that holds tensors itself.
fn read(path: &Path, map: &Arc<Mmap>) -> Result<Named, CheckpointError> {
    let read = match kind::of(map) {
        Kind::Safetensors => safetensors::read(map),
        Kind::Zip => torch::read(map),
        Kind::LegacyTorch => torch::legacy::read(map),
        Kind::Json => return Err(unrecognised(path, "JSON text")),
        Kind::Other(looks_like) => return Err(unrecognised(path, looks_like)),
    };
    read.map_err(|refused| refused.at(path))
}

fn unrecognised(path: &Path, looks_like: &'static str) -> CheckpointError {
    CheckpointError::Unrecognised {
        path: path.into(),
        looks_like,
    }
}

/// What a format's reader gives: the tensors, and those left out with their element type.
#[derive(Debug, Default)]
struct Named {
    tensors: BTreeMap<String, Frozen>,
    skipped: BTreeMap<String, String>,
}

/// Why a format's reader gave up; it does not know the path.
#[derive(Debug)]
enum Refused {
    Truncated {
        missing: u64,
        whole: u64,
    },
    Damaged(String),
    Unsupported {
        kind: &'static str,
        advice: &'static str,
    },
    NoStateDict(String),
}

impl Refused {
    fn at(self, path: &Path) -> CheckpointError {
        let path = path.to_path_buf();
        match self {
            Self::Truncated { missing, whole } => CheckpointError::Truncated {
                path,
                missing,
                whole,
            },
            Self::Damaged(problem) => CheckpointError::Damaged { path, problem },
            Self::Unsupported { kind, advice } => {
                CheckpointError::Unsupported { path, kind, advice }
            }
            Self::NoStateDict(found) => CheckpointError::NoStateDict { path, found },
        }
    }
}

/// Shorthand for the commonest refusal.
fn damaged(problem: impl Into<String>) -> Refused {
    Refused::Damaged(problem.into())
}

/// A name as it is safe to print: a damaged file may hold a name of any length.
fn shown(name: &str) -> String {
    let mut short: String = name
        .chars()
        .take(120)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(120).is_some() {
        short.push('…');
    }
    short
}

/// Bytes of a dense tensor, or `None` where a size does not fit the machine.
///
/// The product is over the dimensions that are not zero, so that every later product of any of
/// them fits too.
fn byte_count(shape: &[usize], dtype: DType) -> Option<usize> {
    let filled = shape
        .iter()
        .filter(|&&d| d != 0)
        .try_fold(dtype.size_in_bytes(), |n, &d| n.checked_mul(d))
        .filter(|&n| isize::try_from(n).is_ok())?;
    Some(if shape.contains(&0) { 0 } else { filled })
}
