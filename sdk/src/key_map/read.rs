//! From a checkpoint's tensors to canonical ones.

use std::collections::BTreeMap;

use candle_core::Device;

use super::nearest::nearest;
use super::{Entry, Expected, KeyMap, KeyMapError, offer};
use crate::checkpoint::Checkpoint;
use crate::frozen::Frozen;

/// How many problems one error shows.
const SHOWN: usize = 10;

/// What does not fit, in the order in which it is shown.
#[derive(Default)]
struct Problems<'a> {
    /// External names (canonical where the map has none) that are not in the checkpoint.
    missing: Vec<&'a str>,
    shapes: Vec<String>,
    extra: Vec<&'a str>,
}

impl KeyMap {
    /// The expected tensors under their canonical names. Whole tensors and rows share the
    /// checkpoint's storage, also behind dimensions of one; transposed ones are copied.
    ///
    /// Tensors that the map knows and nobody expects are left out, so that one tower can be
    /// read from a file of two.
    ///
    /// # Errors
    /// [`KeyMapError::Mismatch`] lists tensors that are missing, of another shape, or unknown to
    /// the map; [`KeyMapError::Tensor`] if a copy fails.
    pub fn read(
        &self,
        checkpoint: &Checkpoint,
        expected: &[Expected],
    ) -> Result<BTreeMap<String, Frozen>, KeyMapError> {
        let entries: BTreeMap<&str, &Entry> = self
            .entries
            .iter()
            .map(|entry| (entry.canonical.as_str(), entry))
            .collect();
        let rows = self.fused_rows();
        let mut problems = Problems::default();
        let mut read = BTreeMap::new();
        for wanted in expected {
            let Some(entry) = entries.get(wanted.name.as_str()) else {
                problems.missing.push(&wanted.name);
                continue;
            };
            let Some(tensor) = checkpoint.get(&entry.external) else {
                problems.missing.push(&entry.external);
                continue;
            };
            match entry.misfit(tensor.shape().dims(), wanted, &rows) {
                Some(problem) => problems.shapes.push(problem),
                None => {
                    let tensor = entry
                        .canonical(tensor, wanted.shape.len())
                        .map_err(|source| KeyMapError::Tensor {
                            map: self.name,
                            name: entry.external.clone(),
                            source: Box::new(source),
                        })?;
                    read.insert(wanted.name.clone(), tensor);
                }
            }
        }
        let known = self.external();
        let ignored = |name: &str| self.ignored.iter().any(|pattern| pattern.matches(name));
        problems.extra.extend(
            checkpoint
                .names()
                .filter(|name| !known.contains(name) && !ignored(name)),
        );
        problems.missing.sort_unstable();
        problems.missing.dedup();
        match problems.into_error(self.name, checkpoint) {
            Some(error) => Err(error),
            None => Ok(read),
        }
    }

    /// The rows that each external tensor has in all, where parts of it are meant.
    fn fused_rows(&self) -> BTreeMap<&str, usize> {
        let mut rows = BTreeMap::new();
        for entry in &self.entries {
            if let Some(part) = &entry.rows {
                let all = rows.entry(entry.external.as_str()).or_insert(0);
                *all = part.end.max(*all);
            }
        }
        rows
    }
}

impl Entry {
    /// What is wrong with an external tensor of shape `found`, if anything.
    fn misfit(
        &self,
        found: &[usize],
        wanted: &Expected,
        fused: &BTreeMap<&str, usize>,
    ) -> Option<String> {
        let mut shape = self.inner(found, wanted.shape.len()).to_vec();
        let all = fused.get(self.external.as_str());
        let covered = match (&self.rows, shape.first_mut(), all) {
            (Some(rows), Some(first), Some(&all)) => {
                let whole = *first == all;
                *first = rows.len();
                whole
            }
            (None, ..) => true,
            _ => false,
        };
        if self.transposed && shape.len() == 2 {
            shape.reverse();
        }
        if covered && wanted.fits(&shape) && (!self.transposed || shape.len() == 2) {
            return None;
        }
        let mut problem = format!(
            "`{}` has shape {found:?}, which does not give `{}` {:?}",
            self.external, self.canonical, wanted.shape
        );
        if let (Some(rows), Some(all)) = (&self.rows, all) {
            problem.push_str(&format!(" from rows {rows:?} of {all}"));
        }
        if self.transposed {
            problem.push_str(" by transposition");
        }
        if self.leading.is_some() {
            problem.push_str(" (behind any dimensions of one)");
        }
        if wanted.any_rows {
            problem.push_str(" (any first dimension)");
        }
        Some(problem)
    }

    /// The sizes behind the dimensions of one in front of a tensor of `rank`.
    fn inner<'s>(&self, found: &'s [usize], rank: usize) -> &'s [usize] {
        let front = found.len().saturating_sub(rank);
        match found.split_at(front) {
            (ones, inner) if self.leading.is_some() && ones.iter().all(|&d| d == 1) => inner,
            _ => found,
        }
    }

    /// The canonical tensor of `rank` in an external one that fits.
    fn canonical(&self, external: &Frozen, rank: usize) -> candle_core::Result<Frozen> {
        let inner = self.inner(external.shape().dims(), rank);
        let external = external.reshape(inner)?;
        let part = match &self.rows {
            Some(rows) => external.rows(rows.clone())?,
            None => external,
        };
        if !self.transposed {
            return Ok(part);
        }
        let dense = part.tensor(part.dtype(), &Device::Cpu)?;
        Ok(Frozen::dense(&dense.t()?.contiguous()?))
    }
}

impl<'a> Problems<'a> {
    fn into_error(self, map: &'static str, checkpoint: &Checkpoint) -> Option<KeyMapError> {
        let counts = [
            (self.missing.len(), "missing"),
            (self.shapes.len(), "of another shape"),
            (self.extra.len(), "extra"),
        ];
        let summary: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if summary.is_empty() {
            return None;
        }
        let missing = self
            .missing
            .iter()
            .map(|name| match checkpoint.skipped_type(name) {
                Some(dtype) => format!("`{name}` is stored as {dtype}, which is not read"),
                // A name that the map uses elsewhere is not a misspelling of this one.
                None => format!(
                    "`{name}` is missing{}",
                    offer("nearest unused", nearest(name, self.extra.iter().copied()))
                ),
            });
        let extra = self.extra.iter().map(|name| {
            format!(
                "`{name}` is not known{}",
                offer(
                    "nearest missing",
                    nearest(name, self.missing.iter().copied())
                )
            )
        });
        // Lazily: comparing names takes time, and most problems are not shown.
        let problems: Vec<String> = missing
            .chain(self.shapes.iter().cloned())
            .chain(extra)
            .take(SHOWN)
            .collect();
        let all: usize = counts.iter().map(|(count, _)| count).sum();
        Some(KeyMapError::Mismatch {
            path: checkpoint.path().into(),
            map,
            summary: summary.join(", "),
            more: all - problems.len(),
            problems,
        })
    }
}
