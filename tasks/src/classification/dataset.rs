//! Classification's data as batches: some pictures, and the prompts of all
//! classes. Owns how they stand together; which pictures there are is
//! `division`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use twinspan_sdk::task::{Batch, Dataset, Kit, Scores};
use twinspan_sdk::{Error, Result};

use super::Classification;
use super::division::{Examples, divided};
use super::scores::ClassScores;
use crate::batches::{Sentences, all_pairs, example, pictures};
use crate::folders::Labelled;
use crate::record::NoSuchSplit;

/// Opened data.
pub(super) struct LabelledData {
    path: PathBuf,
    splits: BTreeMap<String, Examples>,
    classes: Vec<String>,
    prompts: Sentences,
    notes: Vec<String>,
    kit: Kit,
}

impl LabelledData {
    pub fn new(task: &Classification, data: Labelled, kit: Kit) -> Result<Self> {
        let prompts = Sentences::encode(&task.prompts(), task.words, &kit);
        Ok(Self {
            path: data.path.clone(),
            notes: data.notes.clone(),
            splits: divided(task, data)?,
            classes: task.classes.clone(),
            prompts,
            kit,
        })
    }

    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    fn split(&self, name: &str) -> Result<&Examples> {
        self.splits.get(name).ok_or_else(|| {
            Error::wrong_use(NoSuchSplit {
                file: self.path.clone(),
                asked: name.into(),
                splits: self.splits(),
                unit: "picture",
            })
        })
    }

    fn batch(&self, split: &str, indices: &[usize]) -> Result<Batch> {
        let examples = self.split(split)?;
        let chosen = indices.iter().map(|index| example(examples, split, *index));
        let chosen = chosen.collect::<Result<Vec<_>>>()?;
        let paths: Vec<_> = chosen.iter().map(|(path, _)| path.as_path()).collect();
        let classes: Vec<u32> = chosen.iter().map(|(_, class)| *class).collect();
        let prompts: Vec<usize> = (0..self.prompts.len()).collect();
        let target = Tensor::from_vec(classes, chosen.len(), &Device::Cpu)?;
        Ok(Batch {
            images: pictures(&paths, &self.kit)?,
            tokens: self.prompts.tokens(&prompts, &self.kit)?,
            pairs: all_pairs(chosen.len(), prompts.len()),
            target: Some(target.to_device(&self.kit.device)?),
            examples: indices
                .iter()
                .flat_map(|index| prompts.iter().map(|_| *index))
                .collect(),
        })
    }
}

impl Dataset for LabelledData {
    fn splits(&self) -> BTreeMap<String, usize> {
        let splits = self.splits.iter();
        splits.map(|(name, of)| (name.clone(), of.len())).collect()
    }

    /// Pictures.
    fn len(&self, split: &str) -> Result<usize> {
        Ok(self.split(split)?.len())
    }

    fn train(&self, split: &str, indices: &[usize], _seed: u64) -> Result<Batch> {
        self.batch(split, indices)
    }

    fn evaluate(&self, split: &str, indices: &[usize]) -> Result<Batch> {
        self.batch(split, indices)
    }

    fn scores(&self, split: &str) -> Result<Box<dyn Scores + '_>> {
        self.split(split)?;
        Ok(Box::new(ClassScores::new(self, split)))
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notes.clone();
        warnings.extend(self.prompts.cut("prompts"));
        warnings
    }
}
