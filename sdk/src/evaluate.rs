//! The evaluation loop: every example of a split, every sentence of each, once.

use crate::error::Result;
use crate::loader;
use crate::task::{Dataset, Report};
use crate::tuned::Tuned;

/// Scores of `tuned` on a split, by `batch` examples at a time, which a thread loads ahead;
/// `progress` is told examples done and examples in all.
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
    let mut watch = |done, examples| {
        progress(done, examples);
        true
    };
    match watched(tuned, data, split, batch, loader::WORKERS, &mut watch)? {
        Some(report) => Ok(report),
        // Nobody stopped it.
        None => data.scores(split)?.report(),
    }
}

/// The same with `workers` threads; none where `watch` says false before the end.
pub(crate) fn watched(
    tuned: &Tuned,
    data: &dyn Dataset,
    split: &str,
    batch: usize,
    workers: usize,
    watch: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Report>> {
    let examples = data.len(split)?;
    let mut scores = data.scores(split)?;
    let size = batch.max(1);
    let requests = (0..examples)
        .step_by(size)
        .map(|start| (start..examples.min(start.saturating_add(size))).collect::<Vec<_>>());
    let load = |indices: Vec<usize>| Ok((indices.len(), data.evaluate(split, &indices)?));
    loader::ahead(workers, requests, load, |batches| {
        let mut done = 0;
        for loaded in batches {
            let (count, batch) = loaded?;
            let (features, logits) = tuned.predict(&batch)?;
            scores.add(&batch, &features, &logits)?;
            done += count;
            if !watch(done, examples) && done < examples {
                return Ok(None);
            }
        }
        scores.report().map(Some)
    })
}
