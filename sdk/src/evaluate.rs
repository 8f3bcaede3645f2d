//! The evaluation loop: every example of a split, every sentence of each, once.

use crate::error::Result;
use crate::pass::Pass;
use crate::task::{Dataset, Report};
use crate::tuned::Tuned;

/// Scores of `tuned` on a split; `progress` is told examples done and examples in all.
///
/// # Errors
/// There is no such split, or a file is not what it should be.
pub fn evaluate(
    tuned: &Tuned,
    data: &dyn Dataset,
    split: &str,
    batch: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let examples = data.len(split)?;
    let mut scores = data.scores(split)?;
    let all: Vec<usize> = (0..examples).collect();
    let mut done = 0;
    for indices in all.chunks(batch.max(1)) {
        let batch = data.evaluate(split, indices)?;
        let logits = tuned.logits(&batch, &mut Pass::predict())?;
        scores.add(&batch, &logits)?;
        done += indices.len();
        progress(done, examples);
    }
    scores.report()
}
