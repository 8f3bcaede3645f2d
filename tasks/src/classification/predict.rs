//! Pictures in, probabilities of classes out. Owns the chunks in which
//! pictures go through the model, and how logits become probabilities; opens
//! and writes no files.

use candle_core::{DType, Tensor};
use image::RgbImage;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::task::{Batch, Kit};
use twinspan_sdk::topology::Contrast;
use twinspan_sdk::tuned::Tuned;
use twinspan_sdk::{Error, Result, ops};

use super::{Classification, HeadChoice};
use crate::batches::{Sentences, all_pairs, prepared};

/// Pictures that go through the model together.
const TOGETHER: usize = 8;

/// The probability of each of the task's classes for each picture:
/// `[pictures][classes]`.
///
/// # Errors
/// The task has no classes; a picture is empty; an operation failed.
pub fn classify(
    tuned: &Tuned,
    task: &Classification,
    kit: &Kit,
    pictures: &[RgbImage],
) -> Result<Vec<Vec<f32>>> {
    if task.classes.is_empty() {
        return Err(Error::wrong_use(
            "there are no classes to tell apart: name them in task.classes",
        ));
    }
    task.check()?;
    let prompts = Sentences::encode(&task.prompts(), task.words, kit);
    let all: Vec<usize> = (0..prompts.len()).collect();
    let tokens = prompts.tokens(&all, kit)?;
    let contrast = match task.head {
        HeadChoice::Linear => Contrast::Softmax,
        HeadChoice::Similarity => tuned.topology.contrast,
    };
    let mut found = Vec::with_capacity(pictures.len());
    for pictures in pictures.chunks(TOGETHER) {
        let batch = Batch {
            images: prepared(pictures, kit)?,
            tokens: tokens.clone(),
            pairs: all_pairs(pictures.len(), prompts.len()),
            target: None,
            examples: Vec::new(),
        };
        let logits = tuned.logits(&batch, &mut Pass::predict())?;
        let probabilities = probabilities(&logits, contrast)?;
        found.extend(probabilities.to_dtype(DType::F32)?.to_vec2::<f32>()?);
    }
    Ok(found)
}

/// Logits `[pictures, classes]` as probabilities, as the model was trained:
/// among all classes, which then sum to 1, or each for itself, which they then
/// do not.
///
/// # Errors
/// An operation failed.
pub fn probabilities(logits: &Tensor, contrast: Contrast) -> Result<Tensor> {
    Ok(match contrast {
        Contrast::Softmax => ops::softmax(logits)?,
        Contrast::Sigmoid => ops::sigmoid(logits)?,
    })
}
