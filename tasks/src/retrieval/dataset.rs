//! Retrieval's data as batches: pictures and what is said of them. Owns which
//! sentence a visit in training shows; where they come from is
//! [`captions`](crate::captions)'s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use twinspan_sdk::task::{Batch, Dataset, Kit, Scores};
use twinspan_sdk::{Error, Result, random};

use super::Retrieval;
use super::scores::RetrievalScores;
use crate::batches::{Sentences, all_pairs, example, pictures};
use crate::captions::Captions;
use crate::record::NoSuchSplit;

/// A picture and the places of its sentences.
struct Example {
    image: PathBuf,
    sentences: std::ops::Range<usize>,
}

/// Opened data.
pub(super) struct CaptionData {
    path: PathBuf,
    splits: BTreeMap<String, Vec<Example>>,
    sentences: Sentences,
    kit: Kit,
}

impl CaptionData {
    pub fn new(task: &Retrieval, captions: Captions, kit: Kit) -> Self {
        let mut sentences: Vec<String> = Vec::new();
        let mut splits = BTreeMap::new();
        for (split, pictures) in captions.splits {
            let mut examples = Vec::with_capacity(pictures.len());
            for picture in pictures {
                let first = sentences.len();
                sentences.extend(picture.sentences);
                examples.push(Example {
                    image: picture.image,
                    sentences: first..sentences.len(),
                });
            }
            splits.insert(split, examples);
        }
        Self {
            path: captions.path,
            splits,
            sentences: Sentences::encode(&sentences, task.words, &kit),
            kit,
        }
    }

    fn split(&self, name: &str) -> Result<&[Example]> {
        match self.splits.get(name) {
            Some(examples) => Ok(examples),
            None => Err(Error::wrong_use(NoSuchSplit {
                file: self.path.clone(),
                asked: name.into(),
                splits: self.splits(),
                unit: "picture",
            })),
        }
    }

    /// The pictures `indices`, each with those of its sentences that `shown`
    /// chooses; all pairs between them.
    fn batch(
        &self,
        split: &str,
        indices: &[usize],
        shown: impl Fn(usize, &Example) -> std::ops::Range<usize>,
    ) -> Result<Batch> {
        let examples = self.split(split)?;
        let mut paths = Vec::with_capacity(indices.len());
        let (mut sentences, mut owners) = (Vec::new(), Vec::new());
        for (picture, index) in indices.iter().enumerate() {
            let example = example(examples, split, *index)?;
            paths.push(example.image.as_path());
            for sentence in shown(*index, example) {
                sentences.push(sentence);
                owners.push(picture as u32);
            }
        }
        let count = sentences.len();
        let target = Tensor::from_vec(owners, count, &Device::Cpu)?;
        Ok(Batch {
            images: pictures(&paths, &self.kit)?,
            tokens: self.sentences.tokens(&sentences, &self.kit)?,
            pairs: all_pairs(paths.len(), count),
            target: Some(target.to_device(&self.kit.device)?),
            examples: indices
                .iter()
                .flat_map(|index| std::iter::repeat_n(*index, count))
                .collect(),
        })
    }
}

impl Dataset for CaptionData {
    fn splits(&self) -> BTreeMap<String, usize> {
        let splits = self.splits.iter();
        splits.map(|(name, of)| (name.clone(), of.len())).collect()
    }

    /// Pictures.
    fn len(&self, split: &str) -> Result<usize> {
        Ok(self.split(split)?.len())
    }

    /// One sentence of each picture, drawn anew at every visit.
    fn train(&self, split: &str, indices: &[usize], seed: u64) -> Result<Batch> {
        self.batch(split, indices, |index, example| {
            let count = example.sentences.len();
            let drawn = random::uniform(random::mix(seed, index as u64), 0);
            let sentence = example.sentences.start + (drawn * count as f64) as usize;
            sentence..sentence + 1
        })
    }

    /// Every sentence of each picture.
    fn evaluate(&self, split: &str, indices: &[usize]) -> Result<Batch> {
        self.batch(split, indices, |_, example| example.sentences.clone())
    }

    fn scores(&self, split: &str) -> Result<Box<dyn Scores + '_>> {
        self.split(split)?;
        Ok(Box::new(RetrievalScores::new(split)))
    }

    fn warnings(&self) -> Vec<String> {
        self.sentences.cut("sentences").into_iter().collect()
    }
}
