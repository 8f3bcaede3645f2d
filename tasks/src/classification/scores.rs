//! Scores of classification: how often the right class comes first.

use candle_core::{DType, Tensor};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Group, Report, Scores};
use twinspan_sdk::{Error, Result};

use super::dataset::LabelledData;
use super::head::right;
use crate::ranking::{before, recall};

/// With more classes than these, the first of so many count too.
const SEVERAL: usize = 5;

/// Places of the right class, by class.
pub(super) struct ClassScores<'a> {
    data: &'a LabelledData,
    split: String,
    /// Of each class's pictures, counted from 0.
    places: Vec<Vec<usize>>,
}

impl<'a> ClassScores<'a> {
    pub fn new(data: &'a LabelledData, split: &str) -> Self {
        Self {
            data,
            split: split.into(),
            places: vec![Vec::new(); data.classes().len()],
        }
    }

    /// `top-1`, and `top-5` where there are more than five classes, in
    /// percent.
    fn shares(&self, places: &[usize]) -> Vec<(String, f64)> {
        let mut shares = vec![("top-1".into(), recall(places, 1))];
        if self.places.len() > SEVERAL {
            shares.push((format!("top-{SEVERAL}"), recall(places, SEVERAL)));
        }
        shares
    }
}

impl Scores for ClassScores<'_> {
    fn add(&mut self, batch: &Batch, _: &[Stream], logits: &Tensor) -> Result<()> {
        let right = right(batch)?;
        let rows: Vec<Vec<f32>> = logits.to_dtype(DType::F32)?.to_vec2()?;
        let expected = vec![right.len(), self.places.len()];
        if logits.dims() != expected {
            return Err(Error::Shape {
                what: "the logits of a batch".into(),
                expected,
                got: logits.dims().to_vec(),
            });
        }
        for (row, class) in rows.into_iter().zip(right) {
            let class = class as usize;
            let (Some(own), Some(places)) = (row.get(class), self.places.get_mut(class)) else {
                continue;
            };
            let others = row.iter().enumerate().filter(|(other, _)| *other != class);
            places.push(before(others.map(|(_, logit)| *logit), *own));
        }
        Ok(())
    }

    /// Of all pictures; `per-class`, the mean of the classes' `top-1`; and of
    /// the pictures of each class.
    fn report(&self) -> Result<Report> {
        let all = self.places.concat();
        if all.is_empty() {
            return Err(Error::plugin(format!(
                "split `{}` has no scores: nothing was added",
                self.split
            )));
        }
        let classes = self.data.classes().iter().zip(&self.places);
        let mut groups: Vec<Group> = classes
            .filter(|(_, places)| !places.is_empty())
            .map(|(class, places)| Group {
                name: class.clone(),
                count: places.len(),
                scores: self.shares(places),
            })
            .collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        let firsts = self.places.iter().filter(|places| !places.is_empty());
        let sum: f64 = firsts.map(|places| recall(places, 1)).sum();
        let mut scores = self.shares(&all);
        scores.push(("per-class".into(), sum / groups.len() as f64));
        Ok(Report {
            count: all.len(),
            unit: "pictures",
            scores,
            groups,
            part: "class",
        })
    }
}
