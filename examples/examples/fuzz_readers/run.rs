//! The loop: draws inputs, has them read, and judges what happened.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::allocations;
use crate::draws::Draws;
use crate::readers::{Reader, Valid};

/// Bytes that a reader may hold for each byte of its file, beside its allowance.
///
/// The shortest value of a pickle is one byte long and takes 32 in its reader's memory and 12 on the
/// stack, that of JSON two and 96, as a list that grows is held twice and a half for a moment. On
/// top comes what is made of the values. Real files have longer ones: a checkpoint's are its
/// tensors, which are not held at all.
pub const TIMES: usize = 64;

/// Time that an input may take: a thousand times what most do, so that a busy machine is no
/// finding.
const SLOWEST: Duration = Duration::from_secs(2);

/// What came of a reader's inputs.
#[derive(Debug, Default)]
pub struct Report {
    pub inputs: u64,
    /// Inputs that were read without an error.
    pub read: u64,
    pub elapsed: Duration,
    pub slowest: Duration,
    /// The most bytes held for each of the file, beyond the reader's allowance.
    pub held: f64,
    /// What must not be, each with its input's number.
    pub findings: Vec<(u64, String)>,
}

/// Has `reader` read the inputs of these numbers; each that must not happen is kept in `kept`.
pub fn run(
    reader: &Reader,
    valid: &Valid,
    folder: &Path,
    seed: u64,
    inputs: std::ops::Range<u64>,
    kept: &Path,
) -> Report {
    let mut report = Report::default();
    let start = Instant::now();
    for number in inputs {
        let input = reader.draw(valid, &mut Draws::new(seed, number));
        let path = folder.join(input.file);
        fs::write(&path, &input.bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let begun = Instant::now();
        let (outcome, held) = allocations::peak(|| {
            catch_unwind(AssertUnwindSafe(|| reader.read(&path, &input.bytes)))
        });
        let took = begun.elapsed();
        report.inputs += 1;
        report.slowest = report.slowest.max(took);
        let over = held.saturating_sub(reader.allowance);
        report.held = report
            .held
            .max(over as f64 / input.bytes.len().max(1) as f64);
        report.read += u64::from(matches!(outcome, Ok(Ok(()))));
        let found = match &outcome {
            Err(_) => Some("it panicked".to_string()),
            _ if over > TIMES * input.bytes.len() => Some(format!("it held {held} bytes")),
            _ if took > SLOWEST => Some(format!("it took {took:?}")),
            _ => None,
        };
        if let Some(found) = found {
            let place = keep(kept, reader, number, &input.bytes);
            let size = input.bytes.len();
            let found = format!("{found} for {size} bytes; see {}", place.display());
            report.findings.push((number, found));
            if report.findings.len() == 10 {
                break;
            }
        }
    }
    report.elapsed = start.elapsed();
    report
}

fn keep(kept: &Path, reader: &Reader, number: u64, bytes: &[u8]) -> PathBuf {
    let place = kept.join(format!("{}-{number}.bin", reader.name));
    let written = fs::create_dir_all(kept).and_then(|()| fs::write(&place, bytes));
    if let Err(error) = written {
        eprintln!("{}: {error}", place.display());
    }
    place
}
