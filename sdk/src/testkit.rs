//! Small parts for tests and examples: a toy backbone, a toy task, adapters made of closures; and
//! the [`laws`] that every plugin keeps.
//!
//! For the tests of this crate and of plugin crates. Not registered: code uses them through
//! [`Configured::of`](crate::registry::Configured::of), and [`recipe`] puts them together.

pub mod laws;
mod scripted;
mod silent;
mod toy;
mod toy_block;
mod toy_task;

pub use scripted::{By, Scripted};
pub use silent::silent_places;
pub use toy::{Toy, Words};
pub use toy_task::{Look, ToyTask};

use candle_core::{DType, Device};

use crate::adapter::Adapter;
use crate::backbone::Backbone;
use crate::error::Result;
use crate::parameter::Init;
use crate::recipe::{Recipe, TrainOptions, WeightsChoice};
use crate::registry::Configured;
use crate::task::{Batch, Task};
use crate::tuned::{Compute, Tuned};
use crate::weights;

/// A recipe of the toy backbone and `task` with `adapters`.
///
/// # Errors
/// The options cannot be written as TOML.
pub fn recipe(task: ToyTask, adapters: Vec<Configured<dyn Adapter>>) -> Result<Recipe> {
    Ok(Recipe {
        backbone: Configured::<dyn Backbone>::of(Toy::default())?,
        weights: WeightsChoice::default(),
        adapters,
        task: Configured::<dyn Task>::of(task)?,
        train: TrainOptions::default(),
    })
}

/// The model of a recipe over random weights, computed in f64.
///
/// # Errors
/// The recipe does not fit its backbone.
pub fn tuned(recipe: &Recipe) -> Result<Tuned> {
    let base = weights::random(&recipe.backbone.plugin.topology()?, 0)?;
    let compute = Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    };
    Tuned::new(recipe, base, compute)
}

/// A batch of `pictures` and `sentences` for the toy, drawn from `seed`, with these pairs.
///
/// # Errors
/// The device cannot hold it.
pub fn batch(pictures: usize, sentences: usize, pairs: &[(u32, u32)], seed: u64) -> Result<Batch> {
    let shape = [pictures, 3, Toy::SIDE, Toy::SIDE];
    let images = Init::Normal(1.0).tensor(seed, "pictures", &shape, DType::F64, &Device::Cpu)?;
    let ids: Vec<u32> = (0..sentences)
        .flat_map(|s| {
            // Sentences differ in length, so that padding and end positions do.
            let words = 1 + s % (Toy::WORDS - 2);
            let key = crate::random::key(seed, &format!("sentence {s}"));
            let word = move |i: usize| 1 + (crate::random::uniform(key, i as u64) * 13.0) as u32;
            let mut ids = vec![Toy::START];
            ids.extend((0..words).map(word));
            ids.push(Toy::END);
            ids.resize(Toy::WORDS, 0);
            ids
        })
        .collect();
    Ok(Batch {
        images,
        tokens: candle_core::Tensor::from_vec(ids, (sentences, Toy::WORDS), &Device::Cpu)?,
        pairs: pairs.to_vec(),
        target: None,
        examples: (0..pairs.len()).collect(),
    })
}
