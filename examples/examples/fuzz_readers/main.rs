//! Mutated and made-up files for every reader of foreign files: none may panic, hold more memory
//! than a small multiple of its file, or take long.
//!
//! `cargo run --release -p twinspan-examples --example fuzz_readers -- --inputs 1000000 --seed 1`
//!
//! Inputs depend on the seed and their number alone. One that must not happen is kept in
//! `--kept`, and made again with `READER --first NUMBER --inputs 1`. Should the process itself
//! die, its input is the last file in the folder that is printed first.

mod allocations;
mod archives;
mod draws;
mod mutate;
mod pickles;
mod readers;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use readers::{READERS, Valid};

#[global_allocator]
static ALLOCATOR: allocations::Counted = allocations::Counted;

/// Fuzzes the readers of foreign files.
#[derive(Parser)]
struct Arguments {
    /// The readers, by name; all where none is named.
    readers: Vec<String>,
    /// Inputs for each reader.
    #[arg(long, default_value_t = 100_000)]
    inputs: u64,
    /// What the inputs are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first input.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Where inputs that must not happen are kept.
    #[arg(long, default_value = "fuzz-findings")]
    kept: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    for name in &arguments.readers {
        if !READERS.iter().any(|reader| reader.name == name) {
            let known: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
            eprintln!(
                "there is no reader `{name}`; there are: {}",
                known.join(", ")
            );
            return ExitCode::FAILURE;
        }
    }
    // In memory where the system has such a folder: a million files are written.
    let place = match Path::new("/dev/shm") {
        memory if memory.is_dir() => memory.into(),
        _ => std::env::temp_dir(),
    };
    let folder = match tempfile::tempdir_in(place) {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("no folder to write inputs to: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("inputs are written to {}", folder.path().display());
    println!(
        "bound: an allowance and {} bytes for each of the file",
        run::TIMES
    );
    let valid = Valid::new(folder.path());
    let numbers = arguments.first..arguments.first + arguments.inputs;
    let mut sound = true;
    for reader in &READERS {
        if !arguments.readers.is_empty() && !arguments.readers.iter().any(|n| n == reader.name) {
            continue;
        }
        let report = run::run(
            reader,
            &valid,
            folder.path(),
            arguments.seed,
            numbers.clone(),
            &arguments.kept,
        );
        println!(
            "{:12} {} inputs in {:.1} s ({:.0} a second), {} read, slowest {:.1} ms, held {} kB and {:.1} times the file, {} findings",
            reader.name,
            report.inputs,
            report.elapsed.as_secs_f64(),
            report.inputs as f64 / report.elapsed.as_secs_f64(),
            report.read,
            report.slowest.as_secs_f64() * 1e3,
            reader.allowance >> 10,
            report.held,
            report.findings.len(),
        );
        for (number, found) in &report.findings {
            sound = false;
            println!("  input {number}: {found}");
        }
    }
    match sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
