//! Small models in training on the CPU and on the device, from the same seed.
//!
//! Owns their recipes: every kind of tower, adapter and loss, dropout, clipping and averages.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plugin::Plugin;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Batch;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Error, Result, weights};
use twinspan::tasks::retrieval::Retrieval;
use twinspan_examples::{moved, squares};

use crate::compare::{DOUBLE, apart, largest, marked};

/// What is trained, and its recipe.
const MODELS: [(&str, &str); 4] = [
    (
        "pocket + bridger + lora, referring segmentation",
        r#"
        backbone = { use = "pocket" }
        adapter = [
            { use = "bridger", dim = 16, heads = 2 },
            { use = "lora", rank = 4, dropout = 0.1 },
        ]
        task = { use = "referring-segmentation", width = 32, layers = 1, heads = 2, ffn = 32 }
        train = { rate = 1e-4, clip = 1.0, ema = 0.9 }"#,
    ),
    (
        "ResNet, batch norms in training + bridger + unfreeze, referring segmentation",
        r#"
        adapter = [{ use = "bridger", dim = 8, heads = 2 }, { use = "unfreeze", roles = ["norm"] }]
        task = { use = "referring-segmentation", words = 8, width = 16, heads = 2, global = false }
        train = { rate = 1e-4 }
        [backbone]
        use = "clip"
        weights = "random:1"
        connect = true
        batch_norm = "train"
        [backbone.model]
        embed_dim = 16
        vision = { kind = "resnet", layers = [1, 1, 2, 1], width = 4, head_width = 32, image_size = 64 }
        text = { layers = 2, width = 16, heads = 2, context = 8, vocabulary = 514 }"#,
    ),
    (
        "pocket + lora + unfreeze, retrieval",
        r#"
        backbone = { use = "pocket" }
        adapter = [{ use = "lora", rank = 4 }, { use = "unfreeze", roles = ["bias", "position"] }]
        task = { use = "retrieval", words = 16 }
        train = { rate = 1e-4, optimizer = "adam", weight_decay = 0.1 }"#,
    ),
    (
        "SigLIP + lora, retrieval",
        r#"
        adapter = [{ use = "lora", rank = 2 }]
        task = { use = "retrieval", words = 16 }
        train = { rate = 1e-4 }
        [backbone]
        use = "siglip"
        weights = "random:1"
        [backbone.model]
        vision = { layers = 3, width = 24, heads = 2, patch = 8, image_size = 35 }
        text = { layers = 3, width = 24, heads = 3, mlp = 40, context = 16, vocabulary = 260, padding = 0 }"#,
    ),
];

/// What f32 may lie off more on the device than it does on the CPU: sums are taken in another order.
const FACTOR: f64 = 10.0;
/// What is rounding in f32 where the CPU happens to be closer.
const SINGLE: f64 = 1e-5;

/// Two pictures and two sentences: each others' where pictures are looked for, else in three
/// pairs, so that items are repeated.
fn batch(recipe: &Recipe) -> Result<Batch> {
    let size = recipe.backbone.plugin.preparation().size;
    let mut batch = squares(size, recipe.task.plugin.words())?;
    if recipe.task.name == Retrieval::NAME {
        batch.target = Some(Tensor::new(&[0u32, 1], &Device::Cpu)?);
        return Ok(batch);
    }
    batch.pairs.push((0, 1));
    batch.examples.push(2);
    if let Some(masks) = &batch.target {
        batch.target = Some(Tensor::cat(&[masks, &masks.narrow(0, 0, 1)?], 0)?);
    }
    Ok(batch)
}

/// Gradients by owner, each owner's behind one another.
type Gradients = BTreeMap<String, Tensor>;

struct Run {
    /// Before the first step.
    gradients: Gradients,
    losses: Vec<f64>,
    /// In prediction, with the averages of what was trained.
    logits: Tensor,
}

fn gradients(tuned: &Tuned, batch: &Batch) -> Result<Gradients> {
    let store = tuned.loss(batch, &mut Pass::train(9))?.backward()?;
    let mut flat: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for (name, trained) in &tuned.overlay.trained {
        let gradient = store
            .get(&trained.var)
            .ok_or_else(|| Error::NoGradient { name: name.clone() })?;
        let all = flat.entry(trained.owner.clone()).or_default();
        all.push(gradient.detach().flatten_all()?);
    }
    flat.into_iter()
        .map(|(owner, all)| Ok((owner, Tensor::cat(&all, 0)?)))
        .collect()
}

fn run(recipe: &Recipe, dtype: DType, device: &Device, steps: usize) -> Result<Run> {
    let batch = moved(&batch(recipe)?, device)?;
    let device = device.clone();
    let compute = Compute { dtype, device };
    let mut tuned = Tuned::new(recipe, weights::open(recipe)?, compute)?;
    let gradients = gradients(&tuned, &batch)?;
    let mut trainer = Trainer::new(&mut tuned, &recipe.train, steps)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        losses.push(trainer.step(std::slice::from_ref(&batch))?.loss);
    }
    let logits = trainer.shown(|tuned| Ok(tuned.predict(&batch)?.1))?;
    Ok(Run {
        gradients,
        losses,
        logits,
    })
}

/// How far `found` lies from `right`, row by row of the table.
fn rows(found: &Run, right: &Run) -> Result<Vec<(String, f64)>> {
    let mut rows = Vec::new();
    for (owner, right) in &right.gradients {
        let apart = match found.gradients.get(owner) {
            Some(found) => apart(found, right)?,
            None => f64::NAN,
        };
        rows.push((format!("gradients of {owner}"), apart));
    }
    for (i, (found, right)) in found.losses.iter().zip(&right.losses).enumerate() {
        rows.push((format!("loss of step {i}"), ((found - right) / right).abs()));
    }
    let logits = apart(&found.logits, &right.logits)?;
    rows.push(("logits of the averages".to_string(), logits));
    Ok(rows)
}

/// Prints losses and differences of every model; whether the device computes what the CPU
/// computes.
pub fn check(name: &str, device: &Device, steps: usize) -> Result<bool> {
    let mut right = true;
    for (model, recipe) in MODELS {
        println!("\n{model}, {steps} steps");
        right &= one(&Recipe::parse(recipe, "gpu_check")?, name, device, steps)?;
    }
    Ok(right)
}

fn one(recipe: &Recipe, name: &str, device: &Device, steps: usize) -> Result<bool> {
    let reference = run(recipe, DType::F64, &Device::Cpu, steps)?;
    let single = run(recipe, DType::F32, &Device::Cpu, steps)?;
    let here = run(recipe, DType::F32, device, steps)?;
    let double = run(recipe, DType::F64, device, steps)?;

    println!(
        "{:4} {:>12} {:>12} {:>12}",
        "step",
        "cpu f64",
        "cpu f32",
        format!("{name} f32")
    );
    let losses = reference.losses.iter().zip(&single.losses);
    for (step, ((a, b), c)) in losses.zip(&here.losses).enumerate() {
        println!("{step:4} {a:12.7} {b:12.7} {c:12.7}");
    }
    println!("\ndifference from the CPU in f64, over the largest element");
    println!(
        "{:32} {:>10} {:>10} {:>10}",
        "",
        "cpu f32",
        format!("{name} f32"),
        format!("{name} f64")
    );
    let mut right = true;
    let single = rows(&single, &reference)?;
    let (here, double) = (rows(&here, &reference)?, rows(&double, &reference)?);
    // Rounding grows from row to row: through the layers, then from step to step.
    let mut bound = SINGLE;
    for (((what, single), (_, here)), (_, double)) in single.into_iter().zip(here).zip(double) {
        bound = bound.max(FACTOR * single);
        let all = largest([here / bound, double / DOUBLE].into_iter());
        right &= all <= 1.0;
        println!(
            "{what:32} {} {} {}",
            marked(single, f64::INFINITY),
            marked(here, bound),
            marked(double, DOUBLE)
        );
    }
    Ok(right)
}
