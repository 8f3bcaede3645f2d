//! From canonical tensors to a foreign layout.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::nearest::nearest;
use super::{Entry, KeyMap, KeyMapError};

impl KeyMap {
    /// The inverse of [`read`](Self::read): each tensor under its external name, transposed
    /// where the layout is, parts of a fused tensor gathered, dimensions of one put in front.
    /// External tensors of which no part is given are left out.
    ///
    /// # Errors
    /// A tensor without an entry, a fused tensor of which a part is missing, a shape that does
    /// not fit, or a map in which two entries claim the same rows.
    pub fn write(
        &self,
        mut tensors: BTreeMap<String, Tensor>,
    ) -> Result<BTreeMap<String, Tensor>, KeyMapError> {
        let mut groups: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for entry in &self.entries {
            if !names.insert(&entry.canonical) {
                return Err(KeyMapError::NotInvertible {
                    map: self.name,
                    problem: format!("`{}` has two entries", entry.canonical),
                });
            }
            groups.entry(&entry.external).or_default().push(entry);
        }
        let mut written = BTreeMap::new();
        for (external, mut entries) in groups {
            entries.sort_by_key(|entry| entry.rows.as_ref().map_or(0, |rows| rows.start));
            self.check_cover(external, &entries)?;
            let (given, missing): (Vec<&Entry>, Vec<&Entry>) = entries
                .into_iter()
                .partition(|entry| tensors.contains_key(&entry.canonical));
            if given.is_empty() {
                continue;
            }
            if !missing.is_empty() {
                return Err(KeyMapError::Incomplete {
                    map: self.name,
                    external: external.into(),
                    missing: missing
                        .iter()
                        .map(|entry| format!("`{}`", entry.canonical))
                        .collect(),
                });
            }
            let ones = given.first().and_then(|entry| entry.leading);
            let mut parts = Vec::with_capacity(given.len());
            for entry in given {
                if let Some(tensor) = tensors.remove(&entry.canonical) {
                    parts.push(self.part(entry, tensor)?);
                }
            }
            let whole = match &parts[..] {
                [whole] => Ok(whole.clone()),
                parts => Tensor::cat(parts, 0),
            };
            let whole = whole.and_then(|whole| behind_ones(&whole, ones.unwrap_or(0)));
            written.insert(
                external.into(),
                whole.map_err(|e| self.failed(external, e))?,
            );
        }
        match tensors.into_keys().next() {
            None => Ok(written),
            Some(name) => Err(KeyMapError::NoEntry {
                map: self.name,
                nearest: nearest(&name, self.entries.iter().map(|e| e.canonical.as_str()))
                    .map(String::from),
                name,
            }),
        }
    }

    /// One whole entry, or parts that follow each other from row 0 on.
    fn check_cover(&self, external: &str, entries: &[&Entry]) -> Result<(), KeyMapError> {
        let mut reached = 0;
        for pair in entries.windows(2) {
            if let [one, other] = pair
                && one.leading != other.leading
            {
                return Err(KeyMapError::NotInvertible {
                    map: self.name,
                    problem: format!(
                        "`{}` and `{}` are of `{external}` behind other dimensions of one",
                        one.canonical, other.canonical
                    ),
                });
            }
        }
        for entry in entries {
            match &entry.rows {
                None if entries.len() == 1 => return Ok(()),
                Some(rows) if rows.start == reached && rows.end >= reached => reached = rows.end,
                _ => {
                    return Err(KeyMapError::NotInvertible {
                        map: self.name,
                        problem: format!(
                            "`{}` does not continue `{external}` at row {reached}",
                            entry.canonical
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// The rows of the external tensor that `tensor` is.
    fn part(&self, entry: &Entry, tensor: Tensor) -> Result<Tensor, KeyMapError> {
        let misfit = |problem: String| KeyMapError::Shape {
            map: self.name,
            name: entry.canonical.clone(),
            shape: tensor.dims().to_vec(),
            problem,
        };
        let part = if entry.transposed {
            if tensor.rank() != 2 {
                return Err(misfit("only a matrix can be transposed".into()));
            }
            tensor
                .t()
                .and_then(|t| t.contiguous())
                .map_err(|e| self.failed(&entry.canonical, e))?
        } else {
            tensor.clone()
        };
        match &entry.rows {
            Some(rows) if part.dims().first() != Some(&rows.len()) => Err(misfit(format!(
                "rows {rows:?} of `{}` are {}",
                entry.external,
                rows.len()
            ))),
            _ => Ok(part),
        }
    }

    fn failed(&self, name: &str, source: candle_core::Error) -> KeyMapError {
        KeyMapError::Tensor {
            map: self.name,
            name: name.into(),
            source: source.into(),
        }
    }
}

/// The tensor with `count` dimensions of one in front.
fn behind_ones(tensor: &Tensor, count: usize) -> candle_core::Result<Tensor> {
    let shape = [&vec![1; count], tensor.dims()].concat();
    tensor.reshape(shape)
}
