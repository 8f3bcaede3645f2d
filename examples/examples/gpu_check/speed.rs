//! How long operations, a step of training and inference take on the CPU and on the device.
//!
//! Owns the model that is timed: CLIP's ViT-B/16 at 416 pixels with drawn weights, a bridge and
//! the head of referring segmentation.

use std::time::{Duration, Instant};

use candle_core::Device;
use clap::Args;
use twinspan::sdk::ops::bench;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Batch;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Result, weights};
use twinspan_examples::{moved, squares};

const RECIPE: &str = r#"
    backbone = { use = "clip", preset = "ViT-B/16", input_size = 416, tokenizer = "bytes" }
    adapter = [{ use = "bridger", dim = 64 }]
    task = { use = "referring-segmentation", words = 17 }"#;

/// What is timed, and how often.
#[derive(Args)]
pub struct Sizes {
    /// Pairs of a batch on the device
    #[arg(long, value_delimiter = ',', default_value = "8,32")]
    batch: Vec<usize>,
    /// Pairs of a batch on the CPU; 0 leaves it out
    #[arg(long, default_value_t = 8)]
    cpu_batch: usize,
    /// The most times that are taken of each
    #[arg(long, default_value_t = 20)]
    repeats: usize,
}

/// Nothing is repeated for longer, but three times.
const LONG: Duration = Duration::from_secs(20);

/// The middle time of `call` in seconds, after two calls that are not timed.
fn median(device: &Device, repeats: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut once = || -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        call()?;
        // A device works on by itself.
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    for _ in 0..2 {
        once()?;
    }
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || (times.len() < repeats && begin.elapsed() < LONG) {
        times.push(once()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// `pairs` pictures with a sentence each.
fn batch(recipe: &Recipe, pairs: usize) -> Result<Batch> {
    let size = recipe.backbone.plugin.preparation().size;
    let two = squares(size, recipe.task.plugin.words())?;
    let turns = pairs.div_ceil(2);
    let target = match &two.target {
        Some(masks) => Some(masks.repeat((turns, 1, 1, 1))?.narrow(0, 0, pairs)?),
        None => None,
    };
    Batch::aligned(
        two.images.repeat((turns, 1, 1, 1))?.narrow(0, 0, pairs)?,
        two.tokens.repeat((turns, 1))?.narrow(0, 0, pairs)?,
        target,
    )
}

/// Seconds of a step, and of inference.
struct Times {
    step: f64,
    inference: f64,
}

fn times(recipe: &Recipe, device: &Device, pairs: usize, repeats: usize) -> Result<Times> {
    let batch = moved(&batch(recipe, pairs)?, device)?;
    let topology = recipe.backbone.plugin.topology()?;
    let compute = Compute {
        device: device.clone(),
        ..Compute::default()
    };
    let mut tuned = Tuned::new(recipe, weights::random(&topology, 1)?, compute)?;
    tuned.warm()?;
    let inference = median(device, repeats, || tuned.predict(&batch).map(drop))?;
    let mut trainer = Trainer::new(&mut tuned, &recipe.train, repeats + 3)?;
    let step = median(device, repeats, || {
        trainer.step(std::slice::from_ref(&batch)).map(drop)
    })?;
    Ok(Times { step, inference })
}

/// Prints how long a step and inference take.
pub fn model(name: &str, device: &Device, sizes: &Sizes) -> Result<()> {
    let recipe = Recipe::parse(RECIPE, "gpu_check")?;
    println!("\nCLIP ViT-B/16 at 416 pixels, bridger dim=64, referring segmentation, f32: median");
    println!("seconds, and pairs in a second");
    println!(
        "{:8} {:>5} {:>9} {:>9} {:>9} {:>9}",
        "", "pairs", "step", "pairs/s", "inference", "pairs/s"
    );
    let line = |name: &str, pairs: usize, t: &Times| {
        let rate = |seconds: f64| pairs as f64 / seconds;
        println!(
            "{name:8} {pairs:5} {:9.4} {:9.2} {:9.4} {:9.2}",
            t.step,
            rate(t.step),
            t.inference,
            rate(t.inference)
        );
    };
    let cpu = match sizes.cpu_batch {
        0 => None,
        pairs => Some(times(&recipe, &Device::Cpu, pairs, sizes.repeats)?),
    };
    if let Some(cpu) = &cpu {
        line("cpu", sizes.cpu_batch, cpu);
    }
    if device.is_cpu() {
        return Ok(());
    }
    for &pairs in &sizes.batch {
        match times(&recipe, device, pairs, sizes.repeats) {
            Ok(found) => {
                line(name, pairs, &found);
                let Some(cpu) = &cpu else { continue };
                let by_pair = pairs as f64 / sizes.cpu_batch as f64;
                println!(
                    "         times as fast as the CPU, by pair: step {:.1}, inference {:.1}",
                    by_pair * cpu.step / found.step,
                    by_pair * cpu.inference / found.inference
                );
            }
            Err(error) => println!("{name:8} {pairs:5} {error}"),
        }
    }
    Ok(())
}

/// Prints how long every operation takes.
pub fn operations(name: &str, device: &Device) -> Result<()> {
    let here = bench::run(None, device, &mut |_| ())?;
    let cpu = bench::run(None, &Device::Cpu, &mut |_| ())?;
    println!("\noperations at the shapes of ViT-B/16 at 416 pixels, f32: median milliseconds");
    println!(
        "{:24} {:38} {:16} {name:>9} {:>9} {:>7}",
        "", "", "", "cpu", "ratio"
    );
    for (a, b) in here.iter().zip(&cpu) {
        let (a_time, b_time) = (a.milliseconds_median, b.milliseconds_median);
        println!(
            "{:24} {:38} {:16} {a_time:9.3} {b_time:9.3} {:7.1}",
            a.name,
            a.shape,
            a.pass,
            b_time / a_time
        );
    }
    Ok(())
}
