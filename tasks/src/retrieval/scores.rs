//! Scores of retrieval: vectors of a whole split are kept and ranked at the
//! end, so that they do not depend on how the split is cut into batches.

use candle_core::Tensor;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Report, Scores};
use twinspan_sdk::{Error, Result};

use super::head::owners;
use crate::ranking::{Vectors, places, recall};

/// How many of the first are looked at.
const FIRST: [usize; 3] = [1, 5, 10];

/// The vectors so far.
pub(super) struct RetrievalScores {
    split: String,
    pictures: Vectors,
    sentences: Vectors,
    /// The picture of each sentence.
    owners: Vec<usize>,
}

impl RetrievalScores {
    pub fn new(split: &str) -> Self {
        Self {
            split: split.into(),
            pictures: Vectors::default(),
            sentences: Vectors::default(),
            owners: Vec::new(),
        }
    }
}

impl Scores for RetrievalScores {
    fn add(&mut self, batch: &Batch, features: &[Stream], _: &Tensor) -> Result<()> {
        let [pictures, sentences, ..] = features else {
            return Err(Error::Shape {
                what: "the features that retrieval ranks".into(),
                expected: vec![3],
                got: vec![features.len()],
            });
        };
        let before = self.pictures.len();
        let owners = owners(batch)?.into_iter();
        self.owners
            .extend(owners.map(|owner| before + owner as usize));
        self.pictures.push(&pictures.data)?;
        self.sentences.push(&sentences.data)
    }

    /// `T2I R@k`: sentences whose picture is among the k most similar of all
    /// pictures; `I2T R@k`: pictures of which a sentence is among the k most
    /// similar of all sentences. In percent; a tie counts against.
    fn report(&self) -> Result<Report> {
        if self.pictures.is_empty() {
            return Err(Error::plugin(format!(
                "split `{}` has no scores: nothing was added",
                self.split
            )));
        }
        let places = places(&self.pictures, &self.sentences, &self.owners)?;
        let named = |name: &str, places: &[usize]| {
            FIRST.map(|k| (format!("{name} R@{k}"), recall(places, k)))
        };
        let pictures = named("T2I", &places.pictures);
        let sentences = named("I2T", &places.sentences);
        Ok(Report {
            count: self.pictures.len(),
            unit: "pictures",
            scores: pictures.into_iter().chain(sentences).collect(),
            ..Report::default()
        })
    }
}
