//! Key maps: canonical names against the names and layouts of foreign checkpoints.
//!
//! Owns the correspondence and its inverse, and the errors when a checkpoint does not fit. Maps
//! are written where a backbone is; formats are read in [`checkpoint`](crate::checkpoint).

mod nearest;
mod read;
mod write;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;

/// One canonical tensor and where it lies in the foreign layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in this SDK.
    pub canonical: String,
    /// The name in the checkpoint.
    pub external: String,
    /// The rows of the external tensor's first dimension that are meant: query, key and value
    /// of a fused projection. `None` is the whole tensor. All parts of one external tensor
    /// together cover it.
    pub rows: Option<Range<usize>>,
    /// Whether the external matrix (after taking the rows) is the transpose of the canonical.
    pub transposed: bool,
    /// The dimensions of one in front of the external tensor's own: a batch of tables
    /// `[1, N, D]`, a scale `[1]`. `None` is none; otherwise as many are written, and any number
    /// is read.
    pub leading: Option<usize>,
}

impl Entry {
    /// The whole tensor `external`, as it is.
    pub fn whole(canonical: impl Into<String>, external: impl Into<String>) -> Self {
        Self {
            canonical: canonical.into(),
            external: external.into(),
            rows: None,
            transposed: false,
            leading: None,
        }
    }

    /// Only these rows of the external tensor.
    #[must_use]
    pub fn rows(mut self, rows: Range<usize>) -> Self {
        self.rows = Some(rows);
        self
    }

    /// The transpose of the external matrix.
    #[must_use]
    pub fn transposed(mut self) -> Self {
        self.transposed = true;
        self
    }

    /// The external tensor with `count` dimensions of one in front of its own; other files of the
    /// layout may have more or fewer of them, or none with `count` 0 as well.
    #[must_use]
    pub fn leading(mut self, count: usize) -> Self {
        self.leading = Some(count);
        self
    }
}

/// Names of which `*` stands for any number of any characters: `*.num_batches_tracked`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether `name` is one of them.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|start| name.strip_prefix(start)) else {
            return false;
        };
        let Some(end) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(end)
    }
}

impl From<&str> for Pattern {
    fn from(pattern: &str) -> Self {
        Self(pattern.into())
    }
}

/// An invertible correspondence between canonical tensors and those of one foreign layout.
#[derive(Clone, Debug)]
pub struct KeyMap {
    /// What errors and reports call the layout: `openai`, `transformers`.
    pub name: &'static str,
    /// Other names by which it may be asked for: `hf`, or `open_clip` for what that writes too.
    pub also: &'static [&'static str],
    /// One entry per canonical tensor.
    pub entries: Vec<Entry>,
    /// External names that are known and not needed.
    pub ignored: Vec<Pattern>,
}

impl KeyMap {
    /// How many of the external names the checkpoint has.
    pub fn matches(&self, checkpoint: &Checkpoint) -> usize {
        let names = self.external().into_iter();
        names.filter(|name| checkpoint.get(name).is_some()).count()
    }

    /// The layout of a checkpoint: the map of which it has the most external names.
    ///
    /// # Errors
    /// [`KeyMapError::NoLayout`] if there is no map, or the checkpoint has less than a quarter of
    /// the best one's names: it is a file of another model, and a list of what is missing would
    /// mislead.
    pub fn of<'m>(maps: &'m [Self], checkpoint: &Checkpoint) -> Result<&'m Self, KeyMapError> {
        let best = maps.iter().max_by_key(|map| map.matches(checkpoint));
        let (nearest, found, whole) = best.map_or(("", 0, 0), |map| {
            (map.name, map.matches(checkpoint), map.external().len())
        });
        match best {
            Some(map) if found * ENOUGH >= whole => Ok(map),
            _ => Err(KeyMapError::NoLayout {
                path: checkpoint.path().into(),
                tried: maps.iter().map(|map| format!("`{}`", map.name)).collect(),
                nearest,
                found,
                whole,
                names: (checkpoint.names().take(OWN))
                    .map(|name| format!("`{name}`"))
                    .collect(),
            }),
        }
    }

    /// Whether it goes by this name.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.also.contains(&name)
    }

    fn external(&self) -> BTreeSet<&str> {
        self.entries.iter().map(|e| e.external.as_str()).collect()
    }
}

/// A checkpoint that has one in so many of a layout's names is probably meant to be in it: a file
/// of one of the two towers has about half.
const ENOUGH: usize = 4;

/// Names of a checkpoint in no layout that its error shows.
const OWN: usize = 3;

/// A canonical tensor that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The canonical name.
    pub name: String,
    /// The canonical shape.
    pub shape: Vec<usize>,
    /// Whether the first dimension may differ: a position table, resized after reading.
    pub any_rows: bool,
}

impl Expected {
    /// A tensor of exactly this shape.
    pub fn exactly(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            any_rows: false,
        }
    }

    /// A tensor of this shape but for the length of its first dimension.
    pub fn any_rows(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            any_rows: true,
            ..Self::exactly(name, shape)
        }
    }

    fn fits(&self, shape: &[usize]) -> bool {
        let from = usize::from(self.any_rows);
        shape.len() == self.shape.len() && shape.get(from..) == self.shape.get(from..)
    }
}

/// Why tensors did not pass through a key map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyMapError {
    /// A checkpoint that does not have what is expected. The first line says how much is wrong
    /// and shows the first problem; up to nine more follow, one a line.
    #[error("{} does not fit the layout `{map}` ({summary}): {}", path.display(), list(problems, *more))]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The key map's name.
        map: &'static str,
        /// How many tensors are missing, mis-shaped and extra.
        summary: String,
        /// The first ten problems, each naming its tensor.
        problems: Vec<String>,
        /// How many there are beyond those.
        more: usize,
    },
    /// A checkpoint that is of none of the layouts.
    #[error(
        "{} is in none of the layouts {}: of the tensors of `{nearest}` it has {found} of {whole}{}",
        path.display(), tried.join(", "), instead(names)
    )]
    NoLayout {
        /// The checkpoint.
        path: PathBuf,
        /// The key maps' names.
        tried: Vec<String>,
        /// The key map that fits best.
        nearest: &'static str,
        /// How many of its external tensors the checkpoint has.
        found: usize,
        /// How many it has in all.
        whole: usize,
        /// The first names of the checkpoint.
        names: Vec<String>,
    },
    /// A tensor to be written for which the map has no entry.
    #[error("the layout `{map}` has no place for `{name}`{}", offer("nearest known", nearest.as_deref()))]
    NoEntry {
        /// The key map's name.
        map: &'static str,
        /// The canonical name.
        name: String,
        /// The nearest canonical name of the map.
        nearest: Option<String>,
    },
    /// A fused tensor of which only some parts were given.
    #[error("the layout `{map}` cannot write `{external}`: it also needs {}", missing.join(", "))]
    Incomplete {
        /// The key map's name.
        map: &'static str,
        /// The fused tensor's external name.
        external: String,
        /// The canonical names that were not given.
        missing: Vec<String>,
    },
    /// A tensor whose shape does not fit its entry.
    #[error("the layout `{map}` cannot place `{name}` of shape {shape:?}: {problem}")]
    Shape {
        /// The key map's name.
        map: &'static str,
        /// The canonical name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What does not fit.
        problem: String,
    },
    /// A key map that contradicts itself.
    #[error("the layout `{map}` is not invertible: {problem}")]
    NotInvertible {
        /// The key map's name.
        map: &'static str,
        /// The entries that clash.
        problem: String,
    },
    /// An operation on a tensor failed.
    #[error("the layout `{map}`, `{name}`: {source}")]
    Tensor {
        /// The key map's name.
        map: &'static str,
        /// The tensor that was worked on.
        name: String,
        /// candle's error.
        source: Box<candle_core::Error>,
    },
}

fn list(problems: &[String], more: usize) -> String {
    let mut list = problems.join("\n  ");
    if more > 0 {
        list.push_str(&format!("\n  and {more} more"));
    }
    list
}

fn instead(names: &[String]) -> String {
    match names {
        [] => "; it holds no tensor".into(),
        _ => format!("; its own are {}, …", names.join(", ")),
    }
}

fn offer(what: &str, nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; {what}: `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*.n", "x.y.n", true),
            ("*.n", "n", false),
            ("a*", "a", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(
                Pattern::from(pattern).matches(name),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
