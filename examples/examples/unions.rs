//! The laws of every pair of adapters, with their default options, on a toy backbone:
//! `cargo run --release -p twinspan-examples --example unions > examples/results/unions.txt`.
//!
//! For each pair: what held, what was not put and why, what broke. The tests run a sample
//! (`cargo test -p twinspan --test unions`); this is the whole.

use std::process::ExitCode;

use twinspan as _;
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::registry::{self, AdapterEntry, Configured};
use twinspan::sdk::testkit::Toy;
use twinspan::sdk::testkit::laws::{Outcome, Verdict, of_union};

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for each pair; gives how many broke a law.
fn run() -> twinspan::sdk::Result<usize> {
    let toy = Configured::<dyn Backbone>::of(Toy::default())?;
    let names = registry::names::<AdapterEntry>()?;
    let (mut pairs, mut broken) = (0, 0);
    for (i, first) in names.iter().enumerate() {
        for second in &names[i + 1..] {
            let made = |name| registry::configured::<AdapterEntry>(name, Default::default());
            let verdicts = of_union(&[made(*first)?, made(*second)?], &toy);
            pairs += 1;
            broken += usize::from(
                verdicts
                    .iter()
                    .any(|v| matches!(v.outcome, Outcome::Broken(_))),
            );
            println!("{first} + {second}: {}", summary(&verdicts));
        }
    }
    println!(
        "{pairs} pairs of {} adapters, {broken} of them break a law",
        names.len()
    );
    Ok(broken)
}

/// What held, then what broke; where nothing was put, why.
fn summary(verdicts: &[Verdict]) -> String {
    let held = verdicts.iter().filter(|v| v.outcome == Outcome::Held);
    let held: Vec<String> = held.map(|v| v.law.to_string()).collect();
    let broken = verdicts.iter().filter_map(|v| match &v.outcome {
        Outcome::Broken(what) => Some(format!("BROKEN {}: {what}", v.law)),
        _ => None,
    });
    let mut parts: Vec<String> = broken.collect();
    if held.is_empty() {
        parts.extend(verdicts.iter().find_map(|v| match &v.outcome {
            Outcome::Skipped(why) => Some(format!("refused: {why}")),
            _ => None,
        }));
    } else {
        parts.insert(0, held.join(", "));
    }
    parts.join("; ")
}
