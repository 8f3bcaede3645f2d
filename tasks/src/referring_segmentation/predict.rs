//! A picture and sentences in, masks out. Owns the chunks in which sentences
//! go through the model; opens and writes no files.

use candle_core::{Device, Tensor};
use image::RgbImage;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::task::{Batch, Kit};
use twinspan_sdk::tuned::Tuned;
use twinspan_sdk::{Error, Result};

use super::ReferringSegmentation;
use super::answer::Logits;
use crate::letterbox::{Letterbox, Normalisation};
use crate::metrics::above;

/// Sentences that go through the model together.
const TOGETHER: usize = 8;

/// What a sentence means in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The sentence.
    pub sentence: String,
    /// Whether a pixel is meant, row by row: `width * height` of them.
    pub mask: Vec<bool>,
    /// Pixels across, as in the picture.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Mean probability within the mask, 0 where the mask is empty.
    pub score: f64,
    /// Whether the sentence was too long and its end was not read.
    pub cut: bool,
}

/// The pixels of `picture` that each of `sentences` means, and their logits
/// `[S, 1, h, w]` on the letterboxed input.
///
/// # Errors
/// There is no sentence, or one is blank; the picture is empty; an operation
/// failed.
pub fn segment(
    tuned: &Tuned,
    task: &ReferringSegmentation,
    kit: &Kit,
    picture: &RgbImage,
    sentences: &[String],
) -> Result<(Vec<Prediction>, Tensor)> {
    if sentences.is_empty() {
        return Err(Error::wrong_use("there is no sentence; give at least one"));
    }
    if let Some(blank) = sentences.iter().position(|s| s.trim().is_empty()) {
        return Err(Error::wrong_use(format!(
            "sentence {} (`{}`) is blank; say what to look for",
            blank + 1,
            sentences[blank]
        )));
    }
    let size = kit.preparation.size;
    let (width, height) = picture.dimensions();
    let letterbox = Letterbox::new(size, width as usize, height as usize).map_err(Error::plugin)?;
    let normalisation = Normalisation::from(&kit.preparation);
    let planes = letterbox
        .picture(picture, &normalisation)
        .map_err(Error::plugin)?;
    let image = Tensor::from_vec(planes, (1, 3, size, size), &Device::Cpu)?
        .to_dtype(kit.dtype)?
        .to_device(&kit.device)?;

    let mut predictions = Vec::with_capacity(sentences.len());
    let mut all = Vec::new();
    for sentences in sentences.chunks(TOGETHER) {
        let encoded: Vec<_> = sentences
            .iter()
            .map(|sentence| kit.tokenizer.encode(sentence, task.words))
            .collect();
        let ids: Vec<u32> = encoded.iter().flat_map(|e| e.ids.clone()).collect();
        let count = sentences.len();
        let batch = Batch {
            images: image.clone(),
            tokens: Tensor::from_vec(ids, (count, task.words), &Device::Cpu)?
                .to_device(&kit.device)?,
            pairs: (0..count as u32).map(|sentence| (0, sentence)).collect(),
            target: None,
            examples: vec![0; count],
        };
        let logits = tuned.logits(&batch, &mut Pass::predict())?.detach();
        let answers = Logits::of(&logits)?;
        for (index, sentence) in sentences.iter().enumerate() {
            let probability = answers.probability(index, &letterbox)?;
            let mask = above(&probability, task.threshold as f32);
            predictions.push(Prediction {
                score: mean_within(&mask, &probability),
                sentence: sentence.clone(),
                mask,
                width,
                height,
                cut: encoded[index].cut,
            });
        }
        all.push(logits);
    }
    Ok((predictions, Tensor::cat(&all, 0)?))
}

/// The mean of `probability` where `mask` is; 0 where it is nowhere.
fn mean_within(mask: &[bool], probability: &[f32]) -> f64 {
    let within = mask.iter().zip(probability).filter(|(inside, _)| **inside);
    let (count, sum) = within.fold((0u64, 0.0), |(count, sum), (_, p)| {
        // Cubic sampling overshoots.
        (count + 1, sum + f64::from(p.clamp(0.0, 1.0)))
    });
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_mean_within_the_mask() {
        let score = mean_within(&[true, false, true], &[0.5, 0.9, 1.25]);
        assert!((score - 0.75).abs() < 1e-9);
        assert_eq!(mean_within(&[false, false], &[0.1, 0.2]), 0.0);
    }
}
