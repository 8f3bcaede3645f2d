//! The two heads: similarity with prompts, and a linear map. Both learn by the
//! cross-entropy of the picture's class among all.

use candle_core::Tensor;
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Head};
use twinspan_sdk::topology::{Contrast, Topology};
use twinspan_sdk::{Error, Result, ops};

use super::Classification;

/// Similarities `[pictures, prompts]` to logits `[pictures, classes]`.
///
/// With several templates a class's vector is the mean of its prompts' unit
/// vectors, brought to length 1 again, as CLIP does. That is had from what the
/// model gives: the mean of the prompts' logits over the length of the mean
/// vector. A model trained pair by pair ([`Contrast::Sigmoid`]) adds a bias to
/// each logit, which that length would scale anew for every class; there the
/// mean of the logits is taken as it is, bias and all.
pub(super) struct SimilarityHead {
    templates: usize,
    contrast: Contrast,
}

impl SimilarityHead {
    pub fn new(task: &Classification, topology: &Topology) -> Self {
        Self {
            templates: task.templates.len(),
            contrast: topology.contrast,
        }
    }

    /// The mean over each class's prompts: `[.., classes * templates]` in
    /// `axis` 1 becomes `[.., classes]`.
    fn averaged(&self, logits: &Tensor) -> Result<Tensor> {
        let (pictures, prompts) = logits.dims2()?;
        let classes = prompts / self.templates;
        if classes * self.templates != prompts {
            return Err(Error::Shape {
                what: format!("the prompts of a batch, {} a class,", self.templates),
                expected: vec![pictures, classes * self.templates],
                got: vec![pictures, prompts],
            });
        }
        let by_class = logits.reshape((pictures, classes, self.templates))?;
        Ok((by_class.sum(2)? / self.templates as f64)?)
    }

    /// The length of each class's mean vector, `[1, classes]`, from the
    /// prompts' vectors `[prompts, E]`.
    fn lengths(&self, sentences: &Tensor) -> Result<Tensor> {
        let (prompts, width) = sentences.dims2()?;
        let units = ops::unit(sentences)?;
        let by_class = units.reshape((prompts / self.templates, self.templates, width))?;
        let mean = (by_class.sum(1)? / self.templates as f64)?;
        Ok(mean.sqr()?.sum(1)?.sqrt()?.unsqueeze(0)?)
    }
}

impl Head for SimilarityHead {
    fn forward(&self, features: &[Stream], _: &mut Pass) -> Result<Tensor> {
        let mut features = features.iter().map(|feature| &feature.data);
        let logits = features.next().ok_or_else(unread)?;
        if self.templates == 1 {
            return Ok(logits.clone());
        }
        let averaged = self.averaged(logits)?;
        match self.contrast {
            Contrast::Sigmoid => Ok(averaged),
            Contrast::Softmax => {
                let sentences = features.next().ok_or_else(unread)?;
                Ok(averaged.broadcast_div(&self.lengths(sentences)?)?)
            }
        }
    }

    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        Ok(ops::cross_entropy(logits, &right(batch)?)?)
    }
}

/// A linear map of the picture's vector to logits `[pictures, classes]`.
///
/// It starts at zero: all classes alike. Of the vector the direction counts
/// alone, which is what the backbone was trained by; it is given the length
/// √E, so that its elements are about 1 and one learning rate serves every
/// backbone.
pub(super) struct LinearHead {
    map: Linear,
}

impl LinearHead {
    pub fn make(task: &Classification, topology: &Topology, params: &mut Params) -> Result<Self> {
        let classes = task.classes.len();
        if classes == 0 {
            return Err(Error::Options {
                kind: "task",
                name: "classification".into(),
                message: "a linear head has a row a class: name them in `classes`, or train on data, which tells them".into(),
            });
        }
        Ok(Self {
            map: Linear::make(params, topology.joint, classes, Init::Zeros)?,
        })
    }
}

impl Head for LinearHead {
    fn forward(&self, features: &[Stream], pass: &mut Pass) -> Result<Tensor> {
        let picture = &features.first().ok_or_else(unread)?.data;
        let width = picture.dim(1)? as f64;
        self.map
            .forward(&(ops::unit(picture)? * width.sqrt())?, pass)
    }

    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        Ok(ops::cross_entropy(logits, &right(batch)?)?)
    }
}

/// The class of each picture of a batch.
pub(super) fn right(batch: &Batch) -> Result<Vec<u32>> {
    match &batch.target {
        Some(target) => Ok(target.to_vec1()?),
        None => Err(Error::plugin("the batch has no classes to learn from")),
    }
}

fn unread() -> Error {
    Error::plugin("the head of classification was not given what it reads")
}
