//! What going on needs beside a model: `state.safetensors` in the last model of a run.
//!
//! Owns that file, and what tells a run's data from others. The tensors are the trainer's.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::artifact;
use crate::error::{Error, Result};
use crate::recipe::TrainOptions;
use crate::task::{Batch, Dataset};
use crate::train::Standing;

/// The state's file, in the same folder as the model that it goes with: one cannot be newer.
pub const STATE: &str = "state.safetensors";

/// The version of the file that this crate writes.
const FORMAT: u32 = 1;
/// Examples by which data is known again.
const PROBED: usize = 4;

/// All of a state but its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    pub standing: Standing,
    pub data: Seen,
}

/// What the data of a run looks like, by split.
pub(crate) type Seen = BTreeMap<String, Split>;

/// What a split looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Split {
    examples: usize,
    /// SHA-256 over some examples as the model gets them.
    digest: String,
}

impl State {
    pub fn new(standing: &Standing, data: &Seen) -> Self {
        Self {
            format: FORMAT,
            standing: standing.clone(),
            data: data.clone(),
        }
    }

    /// The file's content.
    pub fn bytes(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
        let note = serde_json::to_string(self).map_err(Error::plugin)?;
        artifact::serialize(tensors, note)
    }

    /// Reads the state in a model folder, without its tensors.
    ///
    /// # Errors
    /// It is not there, damaged, or of another version.
    pub fn read(model: &Path) -> Result<Self> {
        let file = model.join(STATE);
        let unfit = |why: String| {
            Error::plugin(format!(
                "{}: {why}; nothing can go on from it",
                file.display()
            ))
        };
        let note = artifact::note(&file)?;
        let state: Self = serde_json::from_str(&note).map_err(|e| unfit(e.to_string()))?;
        match state.format == FORMAT {
            true => Ok(state),
            false => Err(unfit(format!(
                "its format is {}, and this program reads {FORMAT}",
                state.format
            ))),
        }
    }
}

/// Looks at the splits that `options` name: how many examples, and what some of them become.
///
/// # Errors
/// A split does not exist, or a file is not what it should be.
pub(crate) fn seen(data: &dyn Dataset, options: &TrainOptions) -> Result<Seen> {
    let mut seen = Seen::new();
    for name in [&options.split, &options.evaluate_split] {
        if name.is_empty() || seen.contains_key(name) {
            continue;
        }
        let examples = data.len(name)?;
        let mut probed: Vec<usize> = (0..PROBED).map(|i| i * examples / PROBED).collect();
        probed.dedup();
        // Every sentence of an example is in its batch for evaluation, its target in the other.
        let mut hash = Sha256::new();
        hash.update(bytes(data.evaluate(name, &probed)?)?);
        if *name == options.split {
            hash.update(bytes(data.train(name, &probed, options.seed)?)?);
        }
        let digest = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        seen.insert(name.clone(), Split { examples, digest });
    }
    Ok(seen)
}

fn bytes(batch: Batch) -> Result<Vec<u8>> {
    let pairs = format!("{:?} {:?}", batch.pairs, batch.examples);
    let mut tensors: BTreeMap<String, Tensor> = [
        ("images".to_string(), batch.images),
        ("tokens".to_string(), batch.tokens),
    ]
    .into();
    tensors.extend(batch.target.map(|t| ("target".to_string(), t)));
    artifact::serialize(&tensors, pairs)
}

/// In what the data of a run and that at hand differ.
pub(crate) fn difference(before: &Seen, now: &Seen) -> Option<String> {
    now.iter().find_map(|(name, now)| match before.get(name) {
        None => Some(format!("split `{name}` was not looked at")),
        Some(before) if before.examples != now.examples => Some(format!(
            "split `{name}` had {} examples and has {}",
            before.examples, now.examples
        )),
        Some(before) if before != now => Some(format!(
            "the examples of split `{name}` are not those of before"
        )),
        Some(_) => None,
    })
}
