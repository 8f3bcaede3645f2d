//! What the examples share: a batch made up on the spot and a few steps on it.
//!
//! The plugins that the examples write are in `examples/*.rs`, each whole in one file.

use candle_core::{DType, Device, Tensor};
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Batch;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Error, Result, random, weights};

/// Two pictures of a bright square on noise, each with a sentence of `words` ids.
///
/// # Errors
/// The tensors cannot be made.
pub fn squares(size: usize, words: usize) -> Result<Batch> {
    let (mut pixels, mut truth) = (Vec::new(), Vec::new());
    for picture in 0..2usize {
        let inside = |y: usize, x: usize| {
            let (top, left) = (picture * size / 2, size / 4);
            (top..top + size / 2).contains(&y) && (left..left + size / 2).contains(&x)
        };
        for i in 0..3 * size * size {
            let (y, x) = (i / size % size, i % size);
            let noise = random::uniform(picture as u64, i as u64) as f32;
            pixels.push(noise + if inside(y, x) { 2.0 } else { 0.0 });
            if i < size * size {
                truth.push(if inside(y, x) { 1f32 } else { 0.0 });
            }
        }
    }
    let images = Tensor::from_vec(pixels, (2, 3, size, size), &Device::Cpu)?;
    let target = Tensor::from_vec(truth, (2, 1, size, size), &Device::Cpu)?;
    let ids = (0..2 * words as u32)
        .map(|i| i % 13 + 1)
        .collect::<Vec<_>>();
    let tokens = Tensor::from_vec(ids, (2, words), &Device::Cpu)?.to_dtype(DType::U32)?;
    Batch::aligned(images, tokens, Some(target))
}

/// A batch on another device.
///
/// # Errors
/// The device cannot hold it.
pub fn moved(batch: &Batch, device: &Device) -> Result<Batch> {
    let target = batch.target.as_ref().map(|t| t.to_device(device));
    Ok(Batch {
        images: batch.images.to_device(device)?,
        tokens: batch.tokens.to_device(device)?,
        target: target.transpose()?,
        ..batch.clone()
    })
}

/// Trains a recipe on [`squares`] for some steps and says how the loss fell.
///
/// # Errors
/// The recipe does not fit, or the loss did not fall.
pub fn overfit(recipe: &Recipe, steps: usize) -> Result<()> {
    let size = recipe.backbone.plugin.preparation().size;
    let batch = squares(size, recipe.task.plugin.words())?;
    let mut tuned = Tuned::new(recipe, weights::open(recipe)?, Compute::default())?;
    let mut trainer = Trainer::new(&mut tuned, &recipe.train, steps)?;
    let first = trainer.step(std::slice::from_ref(&batch))?.loss;
    let mut last = first;
    for _ in 1..steps {
        last = trainer.step(std::slice::from_ref(&batch))?.loss;
    }
    println!("loss {first:.3} → {last:.3} in {steps} steps");
    match last < first {
        true => Ok(()),
        false => Err(Error::plugin("the loss did not fall")),
    }
}
