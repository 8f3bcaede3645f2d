//! Scores of a split: every answer brought back on its picture and compared
//! with the mask there, as ETRIS evaluates. What is counted is
//! [`metrics`](crate::metrics)'.

use std::collections::BTreeMap;

use candle_core::Tensor;
use twinspan_sdk::task::{Batch, Report, Scores};
use twinspan_sdk::{Error, Result};

use super::answer::Logits;
use super::dataset::{ReferringData, in_parallel};
use crate::metrics::{self, above, overlap};

/// Scores of the sentences of one split.
pub(super) struct ReferringScores<'a> {
    data: &'a ReferringData,
    split: String,
    counts: metrics::Scores,
}

impl<'a> ReferringScores<'a> {
    pub fn new(data: &'a ReferringData, split: &str) -> Self {
        Self {
            data,
            split: split.into(),
            counts: metrics::Scores::default(),
        }
    }
}

impl Scores for ReferringScores<'_> {
    fn add(&mut self, batch: &Batch, logits: &Tensor) -> Result<()> {
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
        for (intersection, union) in counted {
            self.counts.add(intersection, union);
        }
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let Some(scores) = self.counts.finish() else {
            return Err(Error::plugin(format!(
                "split `{}` has no scores: nothing was added",
                self.split
            )));
        };
        Ok(Report {
            count: self.counts.sentences() as usize,
            scores: scores.map(|(name, value)| (name.to_string(), value)).into(),
        })
    }
}
