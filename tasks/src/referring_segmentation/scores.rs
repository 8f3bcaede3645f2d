//! Scores of a split: every answer brought back on its picture and compared
//! with the mask there, as ETRIS evaluates. What is counted is
//! [`metrics`](crate::metrics)'.

use std::collections::BTreeMap;

use candle_core::Tensor;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Group, Report, Scores};
use twinspan_sdk::{Error, Result};

use super::answer::Logits;
use super::dataset::{ReferringData, in_parallel};
use crate::metrics::{self, above, overlap};

/// Scores of the sentences of one split, and of each kind among them.
pub(super) struct ReferringScores<'a> {
    data: &'a ReferringData,
    split: String,
    counts: metrics::Scores,
    by_kind: BTreeMap<&'a str, metrics::Scores>,
}

impl<'a> ReferringScores<'a> {
    pub fn new(data: &'a ReferringData, split: &str) -> Self {
        Self {
            data,
            split: split.into(),
            counts: metrics::Scores::default(),
            by_kind: BTreeMap::new(),
        }
    }

    /// The kind of each pair's sentence. A batch has every sentence of an
    /// example behind each other, as [`Dataset::evaluate`] puts them.
    ///
    /// [`Dataset::evaluate`]: twinspan_sdk::task::Dataset::evaluate
    fn kinds(&self, batch: &Batch) -> Result<Vec<Option<&'a str>>> {
        let data = self.data;
        let mut kinds = Vec::with_capacity(batch.examples.len());
        for of_example in batch.examples.chunk_by(|a, b| a == b) {
            let record = data.record(&self.split, of_example[0])?;
            // Twice the same example in a row is twice all its sentences.
            let known: Vec<_> = data.kinds(record).collect();
            kinds.extend(known.iter().cycle().take(of_example.len()));
        }
        Ok(kinds)
    }
}

/// Scores by their names.
fn named(counts: &metrics::Scores) -> Option<Vec<(String, f64)>> {
    let scores = counts.finish()?;
    Some(scores.map(|(name, value)| (name.to_string(), value)).into())
}

impl Scores for ReferringScores<'_> {
    fn add(&mut self, batch: &Batch, _features: &[Stream], logits: &Tensor) -> Result<()> {
        let logits = Logits::of(logits)?;
        if logits.len() != batch.examples.len() {
            return Err(Error::Shape {
                what: "the logits of a batch".into(),
                expected: vec![batch.examples.len()],
                got: vec![logits.len()],
            });
        }
        let mut examples = batch.examples.clone();
        examples.sort_unstable();
        examples.dedup();
        let truths = in_parallel(&examples, |example| {
            let (letterbox, mask) = self.data.truth(self.data.record(&self.split, example)?)?;
            Ok((letterbox, mask.inside()))
        })?;
        let truths: BTreeMap<usize, _> = examples.into_iter().zip(truths).collect();

        let kinds = self.kinds(batch)?;
        let pairs: Vec<usize> = (0..batch.examples.len()).collect();
        let counted = in_parallel(&pairs, |pair| {
            let (letterbox, truth) = &truths[&batch.examples[pair]];
            let probability = logits.probability(pair, letterbox)?;
            let answer = above(&probability, self.data.threshold());
            overlap(&answer, truth).ok_or_else(|| Error::Shape {
                what: "an answer on its picture".into(),
                expected: vec![truth.len()],
                got: vec![answer.len()],
            })
        })?;
        for ((intersection, union), kind) in counted.into_iter().zip(kinds) {
            self.counts.add(intersection, union);
            if let Some(kind) = kind {
                let of_kind = self.by_kind.entry(kind).or_default();
                of_kind.add(intersection, union);
            }
        }
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let Some(scores) = named(&self.counts) else {
            return Err(Error::plugin(format!(
                "split `{}` has no scores: nothing was added",
                self.split
            )));
        };
        let groups = self.by_kind.iter().filter_map(|(kind, counts)| {
            Some(Group {
                name: kind.to_string(),
                count: counts.sentences() as usize,
                scores: named(counts)?,
            })
        });
        Ok(Report {
            count: self.counts.sentences() as usize,
            unit: "sentences",
            scores,
            groups: groups.collect(),
            part: "kind",
        })
    }
}
