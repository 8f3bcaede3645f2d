//! The base of a tuned model: its frozen tensors and their digest.
//!
//! Owns the canonical tensors and what identifies them. Knows neither files' layouts (see
//! [`KeyMap`](crate::key_map::KeyMap)) nor what a tensor is for.

mod cache;
mod digest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Result, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::frozen::Frozen;

/// Frozen tensors by canonical name, immutable and shared: a clone is the same base.
#[derive(Clone, Debug)]
pub struct Base(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tensors: BTreeMap<String, Frozen>,
    /// The file beside which the digest is cached.
    file: Option<PathBuf>,
    /// Of the stored values: shared between precisions.
    digest: Arc<OnceLock<String>>,
}

impl Base {
    /// A base of tensors as they were read.
    pub fn from_frozen(tensors: BTreeMap<String, Frozen>) -> Self {
        Self::new(tensors, None)
    }

    /// A base of tensors in memory; no gradient passes into them.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::from_frozen(
            tensors
                .into_iter()
                .map(|(name, tensor)| (name, Frozen::dense(&tensor)))
                .collect(),
        )
    }

    /// Opens the weight file `path`, gives it to `read` for its canonical tensors (usually a key
    /// map's), and keeps the digest beside it in `PATH.digest`.
    ///
    /// The cached digest holds for the file's length and modification time, the canonical names
    /// and shapes, and a sample of the values; if any differs it is computed anew. Where the
    /// cache cannot be written, nothing is, silently: it only saves time.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and of `read`.
    pub fn open_with_cache<E: From<CheckpointError>>(
        path: impl AsRef<Path>,
        read: impl FnOnce(&Checkpoint) -> std::result::Result<BTreeMap<String, Frozen>, E>,
    ) -> std::result::Result<Self, E> {
        let checkpoint = Checkpoint::open(&path)?;
        let tensors = read(&checkpoint)?;
        Ok(Self::new(tensors, Some(path.as_ref().into())))
    }

    fn new(tensors: BTreeMap<String, Frozen>, file: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            tensors,
            file,
            digest: Arc::default(),
        }))
    }

    /// The same base with its values rounded to `precision` (`f32`, `f16` or `bf16`) and held in
    /// it, which for the halves takes half the memory. Nothing is read yet, and the digest stays:
    /// it is of the stored values.
    #[must_use]
    pub fn in_precision(&self, precision: DType) -> Self {
        let tensors = self.0.tensors.iter();
        Self(Arc::new(Inner {
            tensors: tensors
                .map(|(name, tensor)| (name.clone(), tensor.in_precision(precision)))
                .collect(),
            file: self.0.file.clone(),
            digest: self.0.digest.clone(),
        }))
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Frozen> {
        self.0.tensors.get(name)
    }

    /// The canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.tensors.keys().map(String::as_str)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.0.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.0.tensors.is_empty()
    }

    /// The file it was read from, where [`open_with_cache`](Self::open_with_cache) made it.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// What identifies the stored values: 64 hexadecimal digits, computed once.
    ///
    /// SHA-256 over the tensors in order of their names: each name, shape, and the SHA-256 of
    /// the values as little-endian `f32`. Equal values give equal digests whatever file, layout
    /// or element type they were stored in.
    ///
    /// # Errors
    /// A tensor's values cannot be brought to the CPU as `f32`.
    pub fn digest(&self) -> Result<&str> {
        if let Some(digest) = self.0.digest.get() {
            return Ok(digest);
        }
        let digest = match &self.0.file {
            Some(file) => cache::digest(file, &self.0.tensors)?,
            None => digest::of(&self.0.tensors)?,
        };
        Ok(self.0.digest.get_or_init(|| digest))
    }
}
