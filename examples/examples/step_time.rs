//! How long a training step takes with one set of adapters and with another: both are trained in
//! turn, over one base of random weights, so that they see the same machine.
//!
//! ```text
//! cargo run --release -p twinspan-examples --example step_time -- adapter lst
//! ```
//!
//! A step is pictures, each with a sentence, contrasted with each other: forward, backward and the
//! optimiser's write. Adapters are written as on the command line of the program.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use twinspan::sdk::expression;
use twinspan::sdk::parameter::Init;
use twinspan::sdk::prelude::*;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::weights;

/// As in the program: training asks for the same large tensors at every step.
#[global_allocator]
static MEMORY: twinspan::sdk::ops::Recycler = twinspan::sdk::ops::Recycler::new();

/// Time training steps with the first adapters, and with others against them
#[derive(Parser)]
struct Arguments {
    /// Adapters, as in `adapter`, `lst` or `lora[rank=8]@text`
    #[arg(required = true)]
    adapters: Vec<String>,
    /// The model of CLIP
    #[arg(long, default_value = "ViT-B/16")]
    preset: String,
    /// Pictures of a step, and sentences
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Steps with each that are timed, behind one that is not
    #[arg(long, default_value_t = 9)]
    steps: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rest = recipe(&arguments.preset)?;
    let topology = rest.backbone.plugin.topology()?;
    let base = weights::random(&topology, 0)?;
    let mut models = Vec::new();
    for adapters in &arguments.adapters {
        let adapters = expression::parse(adapters)?;
        let recipe = Recipe {
            adapters,
            ..rest.clone()
        };
        models.push(Tuned::new(&recipe, base.clone(), Compute::default())?);
    }
    let counts: Vec<usize> = models.iter().map(trained).collect();
    let size = rest.backbone.plugin.preparation().size;
    let batch = batch(arguments.batch, size, topology.text.context)?;
    let trainers = models.iter_mut();
    let mut trainers = trainers
        .map(|model| Trainer::new(model, &rest.train, arguments.steps + 1))
        .collect::<Result<Vec<_>>>()?;
    let mut seconds = vec![Vec::new(); trainers.len()];
    for turn in 0..=arguments.steps {
        for (trainer, seconds) in trainers.iter_mut().zip(&mut seconds) {
            let begin = Instant::now();
            trainer.step(std::slice::from_ref(&batch))?;
            if turn > 0 {
                seconds.push(begin.elapsed().as_secs_f64());
            }
        }
    }
    println!(
        "{}, {} pictures and sentences a step, median (least to most) of {} steps each in turn",
        arguments.preset, arguments.batch, arguments.steps
    );
    let mut first = None;
    for ((adapters, seconds), count) in arguments.adapters.iter().zip(&mut seconds).zip(counts) {
        seconds.sort_by(f64::total_cmp);
        let at = |i: usize| seconds.get(i).copied().unwrap_or(f64::NAN);
        let median = at(seconds.len() / 2);
        let (least, most) = (at(0), at(seconds.len().saturating_sub(1)));
        let ratio = median / *first.get_or_insert(median);
        println!(
            "{adapters:24} {count:9} trained {median:7.3} s ({least:.3} to {most:.3}) {ratio:.3} of the first"
        );
    }
    Ok(())
}

fn recipe(preset: &str) -> Result<Recipe> {
    let text = format!(
        "backbone = {{ use = \"clip\", preset = {preset:?}, tokenizer = \"bytes\" }}\ntask = {{ use = \"retrieval\" }}"
    );
    Recipe::parse(&text, "step_time")
}

/// Values that train.
fn trained(model: &Tuned) -> usize {
    let trained = model.overlay.trained.values();
    trained.map(|t| t.var.elem_count()).sum()
}

/// Pictures of noise, each with a sentence that fills the context.
fn batch(items: usize, size: usize, words: usize) -> Result<Batch> {
    let device = Device::Cpu;
    let shape = [items, 3, size, size];
    let images = Init::Normal(1.0).tensor(0, "pictures", &shape, DType::F32, &device)?;
    // The highest id ends a sentence.
    let ids: Vec<u32> = (0..items).flat_map(|_| 1..=words as u32).collect();
    let tokens = Tensor::from_vec(ids, (items, words), &device)?;
    let owners = Tensor::arange(0u32, items as u32, &device)?;
    Batch::aligned(images, tokens, Some(owners))
}
