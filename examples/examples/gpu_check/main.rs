//! Whether a device computes what the CPU computes, and how fast: every operation that training
//! uses, a model in training, and a ViT-B/16 of CLIP at 416 pixels.
//!
//! ```text
//! cargo run --release -p twinspan-examples --features cuda --example gpu_check -- --device cuda:0
//! ```
//!
//! The reference is the CPU in f64. With `--device cpu`, where no GPU is needed, the CPU is compared
//! with itself, which checks this program. Owns the bounds above which a difference is a fault.

mod cases;
mod compare;
mod operations;
mod speed;
mod training;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use twinspan::sdk::{Error, Result, device};

/// As in the program: training asks for the same large tensors at every step.
#[global_allocator]
static MEMORY: twinspan::sdk::ops::Recycler = twinspan::sdk::ops::Recycler::new();

/// Compare a device with the CPU, and time both
#[derive(Parser)]
struct Arguments {
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// What is done; by default operations and training, and on a GPU all
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Steps of training that are compared
    #[arg(long, default_value_t = 6)]
    steps: usize,
    #[command(flatten)]
    speed: speed::Sizes,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Values and gradients of every operation
    Operations,
    /// Losses and gradients of a small model over some steps
    Training,
    /// Times of every operation at the shapes of ViT-B/16 at 416 pixels
    Kernels,
    /// Times of a step and of inference of ViT-B/16 at 416 pixels
    Model,
}

fn run(arguments: &Arguments) -> Result<bool> {
    let device = device::device(&arguments.device)?;
    let name = arguments.device.as_str();
    let parts = match (&arguments.part[..], device.is_cpu()) {
        ([], true) => vec![Part::Operations, Part::Training],
        ([], false) => Part::value_variants().to_vec(),
        (chosen, _) => chosen.to_vec(),
    };
    let mut right = true;
    for part in parts {
        right &= match part {
            Part::Operations => operations::check(name, &device)?,
            Part::Training => training::check(name, &device, arguments.steps)?,
            Part::Kernels => speed::operations(name, &device).map(|()| true)?,
            Part::Model => speed::model(name, &device, &arguments.speed).map(|()| true)?,
        };
    }
    Ok(right)
}

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { twinspan::sdk::ops::sleep_soon() };
    let said: Result<()> = run(&Arguments::parse()).and_then(|right| match right {
        true => Ok(()),
        false => Err(Error::plugin("differences above the bounds, marked with !")),
    });
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
