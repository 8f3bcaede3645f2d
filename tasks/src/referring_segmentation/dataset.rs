//! Referring segmentation's data: records as batches.
//!
//! Owns which pictures, sentences and masks go together and in which order
//! they stand. Where they come from is [`record`](crate::record)'s, preparation of
//! pixels [`letterbox`](crate::letterbox)'s.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use twinspan_sdk::task::{Batch, DataSource, Dataset, Kit, Scores};
use twinspan_sdk::tokenizer::Encoded;
use twinspan_sdk::{Error, Result, random};

use super::scores::ReferringScores;
use super::{Objects, ReferringSegmentation, Sentences};
use crate::batches::example;
use crate::letterbox::{Letterbox, Normalisation};
use crate::mask::Mask;
use crate::record::{Records, Sentence};

/// An opened data file.
pub(super) struct ReferringData {
    records: Records,
    /// The lines of each split, in order.
    splits: BTreeMap<String, Vec<usize>>,
    /// The examples of each split by picture, and which of these each example is of.
    pictures: BTreeMap<String, (Vec<Vec<usize>>, Vec<usize>)>,
    /// The sentences of each line as ids.
    tokens: Vec<Vec<Encoded>>,
    /// Width and height of each line's picture, once it was opened.
    sizes: Vec<OnceLock<(u32, u32)>>,
    task: ReferringSegmentation,
    kit: Kit,
}

/// A pair of a batch.
struct Pair {
    /// The object's number in its split.
    example: usize,
    /// Its line.
    record: usize,
    /// Which of its sentences.
    sentence: usize,
}

impl ReferringData {
    /// Reads the records, finds that all they name exists, and encodes every
    /// sentence.
    pub fn open(task: &ReferringSegmentation, source: &DataSource, kit: Kit) -> Result<Self> {
        let records = Records::of(source)?;
        let mut splits: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.records.iter().enumerate() {
            splits.entry(record.split.clone()).or_default().push(index);
        }
        let by_picture = splits.iter().map(|(name, lines)| {
            let images = lines.iter().map(|line| &records.records[*line].image);
            let (firsts, numbers) = distinct(images);
            let mut groups = vec![Vec::new(); firsts.len()];
            let of: Vec<usize> = numbers.into_iter().map(|number| number as usize).collect();
            for (example, group) in of.iter().enumerate() {
                groups[*group].push(example);
            }
            (name.clone(), (groups, of))
        });
        let pictures = by_picture.collect();
        let encode = |sentence: &Sentence| kit.tokenizer.encode(&sentence.text, task.words);
        let tokens = records
            .records
            .par_iter()
            .map(|record| record.sentences.iter().map(encode).collect())
            .collect();
        Ok(Self {
            splits,
            pictures,
            tokens,
            sizes: records.records.iter().map(|_| OnceLock::new()).collect(),
            records,
            task: task.clone(),
            kit,
        })
    }

    /// The lines of a split.
    fn split(&self, name: &str) -> Result<&[usize]> {
        match self.splits.get(name) {
            Some(lines) => Ok(lines),
            None => Err(Error::wrong_use(self.records.no_such_split(name))),
        }
    }

    /// The line of example `index` of a split.
    pub(super) fn record(&self, split: &str, index: usize) -> Result<usize> {
        example(self.split(split)?, split, index).copied()
    }

    /// The examples that a visit of `indices` in training shows, each once.
    fn shown(&self, split: &str, indices: &[usize]) -> Result<Vec<usize>> {
        for &index in indices {
            self.record(split, index)?;
        }
        let (Objects::All, Some((groups, of))) = (self.task.objects, self.pictures.get(split))
        else {
            return Ok(indices.to_vec());
        };
        let (firsts, _) = distinct(indices.iter().map(|index| of[*index]));
        let pictures = firsts.into_iter().map(|place| &groups[of[indices[place]]]);
        Ok(pictures.flatten().copied().collect())
    }

    /// A pixel belongs to the answer if its probability exceeds this.
    pub(super) fn threshold(&self) -> f32 {
        self.task.threshold as f32
    }

    /// How a line's picture lies on the input, and the object's mask on the
    /// picture.
    pub(super) fn truth(&self, record: usize) -> Result<(Letterbox, Mask)> {
        let line = &self.records.records[record];
        let size = match self.sizes[record].get() {
            Some(size) => *size,
            None => line.open_picture().map_err(Error::plugin)?.dimensions(),
        };
        let mask = line.open_mask(size).map_err(Error::plugin)?;
        Ok((self.letterbox(size)?, mask))
    }

    /// The kinds of the sentences of a line, in order.
    pub(super) fn kinds(&self, record: usize) -> impl Iterator<Item = Option<&str>> {
        let sentences = self.records.records[record].sentences.iter();
        sentences.map(|sentence| sentence.kind.as_deref())
    }

    fn letterbox(&self, (width, height): (u32, u32)) -> Result<Letterbox> {
        let size = self.kit.preparation.size;
        Letterbox::new(size, width as usize, height as usize).map_err(Error::plugin)
    }

    /// The picture of a line as the tower takes it, `[3, N, N]`.
    fn picture(&self, record: usize) -> Result<Vec<f32>> {
        let picture = self.records.records[record]
            .open_picture()
            .map_err(Error::plugin)?;
        let size = *self.sizes[record].get_or_init(|| picture.dimensions());
        let normalisation = Normalisation::from(&self.kit.preparation);
        self.letterbox(size)?
            .picture(&picture, &normalisation)
            .map_err(Error::plugin)
    }

    /// The mask of a line on the input, `[N, N]`, grey.
    fn mask(&self, record: usize) -> Result<Vec<u8>> {
        let (letterbox, mask) = self.truth(record)?;
        letterbox.mask(&mask.values).map_err(Error::plugin)
    }

    /// A batch of `pairs`; pairs on one picture share it.
    fn batch(&self, pairs: &[Pair], masks: bool) -> Result<Batch> {
        let lines = &self.records.records;
        let path = |pair: &Pair| lines[pair.record].image.as_path();
        let (firsts, pictures) = distinct(pairs.iter().map(path));
        let owners: Vec<usize> = firsts.iter().map(|&pair| pairs[pair].record).collect();
        let planes = in_parallel(&owners, |record| self.picture(record))?.concat();
        for (pair, &picture) in pairs.iter().zip(&pictures) {
            if let Some(size) = self.sizes[owners[picture as usize]].get() {
                self.sizes[pair.record].get_or_init(|| *size);
            }
        }
        let ids = pairs.iter().flat_map(|pair| {
            let encoded = &self.tokens[pair.record][pair.sentence];
            encoded.ids.iter().copied()
        });
        let size = self.kit.preparation.size;
        let images = Tensor::from_vec(planes, (owners.len(), 3, size, size), &Device::Cpu)?;
        let tokens = Tensor::from_vec(
            ids.collect::<Vec<u32>>(),
            (pairs.len(), self.task.words),
            &Device::Cpu,
        )?;
        let target = match masks {
            true => Some(self.place(&self.masks(pairs)?)?),
            false => None,
        };
        Ok(Batch {
            images: self.place(&images)?,
            tokens: tokens.to_device(&self.kit.device)?,
            pairs: pictures.into_iter().zip(0..).collect(),
            target,
            examples: pairs.iter().map(|pair| pair.example).collect(),
        })
    }

    /// The masks of `pairs`, `[P, 1, N, N]` in [0, 1].
    fn masks(&self, pairs: &[Pair]) -> Result<Tensor> {
        let (firsts, objects) = distinct(pairs.iter().map(|pair| pair.record));
        let owners: Vec<usize> = firsts.iter().map(|&pair| pairs[pair].record).collect();
        let masks = in_parallel(&owners, |record| self.mask(record))?;
        let size = self.kit.preparation.size;
        let mut values = Vec::with_capacity(pairs.len() * size * size);
        for object in objects {
            let mask = &masks[object as usize];
            values.extend(mask.iter().map(|&grey| f32::from(grey) / 255.0));
        }
        Ok(Tensor::from_vec(
            values,
            (pairs.len(), 1, size, size),
            &Device::Cpu,
        )?)
    }

    fn place(&self, tensor: &Tensor) -> Result<Tensor> {
        let tensor = match self.kit.dtype {
            DType::F32 => tensor.clone(),
            dtype => tensor.to_dtype(dtype)?,
        };
        Ok(tensor.to_device(&self.kit.device)?)
    }
}

impl Dataset for ReferringData {
    fn splits(&self) -> BTreeMap<String, usize> {
        self.records.splits()
    }

    /// Objects: lines of the file.
    fn len(&self, split: &str) -> Result<usize> {
        Ok(self.split(split)?.len())
    }

    fn train(&self, split: &str, indices: &[usize], seed: u64) -> Result<Batch> {
        let mut pairs = Vec::with_capacity(indices.len());
        for example in self.shown(split, indices)? {
            let record = self.record(split, example)?;
            let count = self.tokens[record].len();
            let chosen = match self.task.sentences {
                Sentences::All => 0..count,
                Sentences::Random => {
                    let drawn = random::uniform(random::mix(seed, example as u64), 0);
                    let sentence = (drawn * count as f64) as usize;
                    sentence..sentence + 1
                }
            };
            pairs.extend(chosen.map(|sentence| Pair {
                example,
                record,
                sentence,
            }));
        }
        self.batch(&pairs, true)
    }

    /// Without masks: scores compare with those of the pictures' own size.
    fn evaluate(&self, split: &str, indices: &[usize]) -> Result<Batch> {
        let mut pairs = Vec::new();
        for &example in indices {
            let record = self.record(split, example)?;
            pairs.extend((0..self.tokens[record].len()).map(|sentence| Pair {
                example,
                record,
                sentence,
            }));
        }
        self.batch(&pairs, false)
    }

    fn scores(&self, split: &str) -> Result<Box<dyn Scores + '_>> {
        self.split(split)?;
        Ok(Box::new(ReferringScores::new(self, split)))
    }

    /// The records' notes; how many sentences are longer than `words`, and the
    /// first of them.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.records.notes.clone();
        let of_line = self.tokens.iter().zip(&self.records.records);
        let sentences = of_line.flat_map(|(tokens, line)| tokens.iter().zip(&line.sentences));
        let mut cut = sentences.filter(|(encoded, _)| encoded.cut);
        let Some((_, first)) = cut.next() else {
            return warnings;
        };
        let all: usize = self.tokens.iter().map(Vec::len).sum();
        let start: String = first.text.chars().take(60).collect();
        let more = if start.len() < first.text.len() {
            "…"
        } else {
            ""
        };
        warnings.push(format!(
            "{}: {} of {all} sentences do not fit task.words = {} and are cut, the first being `{start}{more}`",
            self.records.file.display(),
            1 + cut.count(),
            self.task.words,
        ));
        warnings
    }
}

/// The place of the first of each distinct item, and for each item which of
/// the distinct ones it is.
fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> (Vec<usize>, Vec<u32>) {
    let mut known = BTreeMap::new();
    let mut firsts = Vec::new();
    let mut numbers = Vec::new();
    for (place, item) in items.enumerate() {
        numbers.push(*known.entry(item).or_insert_with(|| {
            firsts.push(place);
            firsts.len() as u32 - 1
        }));
    }
    (firsts, numbers)
}

/// `make` for every item; of several errors, the first item's.
pub(super) fn in_parallel<T: Send>(
    items: &[usize],
    make: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let made: Vec<Result<T>> = items.par_iter().map(|&item| make(item)).collect();
    made.into_iter().collect()
}
