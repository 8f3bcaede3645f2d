//! The contrast of pictures and sentences, which the backbone was trained by.

use candle_core::{Device, Tensor};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Head};
use twinspan_sdk::topology::Contrast;
use twinspan_sdk::{Error, Result, ops};

/// Passes the similarities `[pictures, sentences]` on.
pub(super) struct ContrastHead {
    pub contrast: Contrast,
}

impl Head for ContrastHead {
    fn forward(&self, features: &[Stream], _: &mut Pass) -> Result<Tensor> {
        match features.last() {
            Some(logits) => Ok(logits.data.clone()),
            None => Err(Error::plugin("retrieval was not given what it reads")),
        }
    }

    /// [`Contrast::Softmax`]: the mean of the cross-entropy of each picture's
    /// sentence among all, and of each sentence's picture (CLIP, figure 3).
    /// [`Contrast::Sigmoid`]: the binary cross-entropy of every pair, summed,
    /// over the number of pictures (SigLIP, algorithm 1); scale and bias are
    /// in the logits already.
    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        let (pictures, sentences) = logits.dims2()?;
        let owners = owners(batch)?;
        let in_order = owners
            .iter()
            .enumerate()
            .all(|(i, owner)| i == *owner as usize);
        if pictures != sentences || owners.len() != sentences || !in_order {
            return Err(Error::plugin(format!(
                "{sentences} sentences for {pictures} pictures: a batch to learn from has one of each, in their order"
            )));
        }
        Ok(match self.contrast {
            Contrast::Softmax => {
                let by_picture = ops::cross_entropy(logits, &owners)?;
                let by_sentence = ops::cross_entropy(&logits.t()?, &owners)?;
                (ops::add(&by_picture, &by_sentence)? * 0.5)?
            }
            Contrast::Sigmoid => {
                let right = Tensor::eye(pictures, logits.dtype(), logits.device())?;
                (ops::bce_with_logits(logits, &right)? * sentences as f64)?
            }
        })
    }
}

/// The picture of each sentence of a batch.
pub(super) fn owners(batch: &Batch) -> Result<Vec<u32>> {
    match &batch.target {
        Some(target) => Ok(target.to_device(&Device::Cpu)?.to_vec1()?),
        None => Err(Error::plugin(
            "the batch does not say which sentence is of which picture",
        )),
    }
}
