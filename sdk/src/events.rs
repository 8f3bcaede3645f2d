//! What happened in a run, as it happens: `events.jsonl`, and the same for TensorBoard.
//!
//! Owns both files. The JSON lines are the record; TensorBoard's file is made from them and made
//! anew where a run goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::{FileError, write_whole};
use crate::tensorboard;
use crate::train::{Evaluation, StepReport};

/// The record: a JSON line an event.
pub const EVENTS: &str = "events.jsonl";
/// The same for TensorBoard, which knows its files by a part of this name.
pub const TENSORBOARD: &str = "events.out.tfevents.0.twinspan";

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An optimiser step.
    Step {
        /// Steps done with this one.
        step: usize,
        /// Mean loss before the update.
        loss: f64,
        /// Learning rate.
        rate: f64,
        /// 2-norm of the gradients before clipping.
        norm: f64,
        /// How long it took, with waiting for data.
        seconds: f64,
        /// Seconds since 1970.
        time: f64,
    },
    /// A split was scored.
    Evaluation {
        /// Steps done.
        step: usize,
        /// The split.
        split: String,
        /// What was scored: sentences, pictures.
        count: usize,
        /// Scores by name; null where there is no number.
        scores: BTreeMap<String, Option<f64>>,
        /// Whether it is the best so far.
        best: bool,
        /// How long it took.
        seconds: f64,
        /// Seconds since 1970.
        time: f64,
    },
}

impl Event {
    /// The event of a step.
    pub fn step(report: &StepReport) -> Self {
        Event::Step {
            step: report.step + 1,
            loss: report.loss,
            rate: report.rate,
            norm: report.norm,
            seconds: report.seconds,
            time: now(),
        }
    }

    /// The event of an evaluation.
    pub fn evaluation(evaluation: &Evaluation) -> Self {
        let scores = evaluation.report.scores.iter();
        Event::Evaluation {
            step: evaluation.step,
            split: evaluation.split.clone(),
            count: evaluation.report.count,
            scores: scores
                .map(|(name, value)| (name.clone(), value.is_finite().then_some(*value)))
                .collect(),
            best: evaluation.best,
            seconds: evaluation.seconds,
            time: now(),
        }
    }

    fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self).map_err(Error::plugin)? + "\n")
    }

    fn record(&self) -> Vec<u8> {
        match self {
            Event::Step {
                step,
                loss,
                rate,
                norm,
                time,
                ..
            } => {
                let values = [
                    ("train/loss", *loss),
                    ("train/rate", *rate),
                    ("train/norm", *norm),
                ];
                tensorboard::scalars(*time, *step, values)
            }
            Event::Evaluation {
                step,
                split,
                scores,
                time,
                ..
            } => {
                let named: Vec<(String, f64)> = scores
                    .iter()
                    .filter_map(|(name, value)| Some((format!("{split}/{name}"), (*value)?)))
                    .collect();
                let values = named.iter().map(|(tag, value)| (tag.as_str(), *value));
                tensorboard::scalars(*time, *step, values)
            }
        }
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

/// The events of `folder` up to and with step `step` and the evaluation after `evaluated` steps.
/// What a kill cut short, or what does not belong to a run, is left out.
///
/// # Errors
/// The file cannot be read.
pub fn kept(folder: &Path, step: usize, evaluated: usize) -> Result<Vec<Event>> {
    let path = folder.join(EVENTS);
    let bytes = std::fs::read(&path).map_err(|source| FileError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let lines = bytes.split(|b| *b == b'\n');
    let events = lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok());
    let belongs = |event: &Event| match event {
        Event::Step { step: at, .. } => *at <= step,
        Event::Evaluation { step: at, .. } => *at <= evaluated,
    };
    Ok(events.filter(belongs).collect())
}

/// The content of both files, by their names.
///
/// # Errors
/// An event cannot be written as JSON.
pub fn contents(events: &[Event]) -> Result<[(&'static str, Vec<u8>); 2]> {
    let lines: String = events.iter().map(Event::line).collect::<Result<_>>()?;
    let mut records = tensorboard::start(now());
    records.extend(events.iter().flat_map(Event::record));
    Ok([(EVENTS, lines.into_bytes()), (TENSORBOARD, records)])
}

/// Writes both files of `folder` whole.
///
/// # Errors
/// A file cannot be written; it is as before then.
pub fn write(folder: &Path, events: &[Event]) -> Result<()> {
    for (name, content) in contents(events)? {
        write_whole(&folder.join(name), |file| file.write_all(&content))?;
    }
    Ok(())
}

/// Both files, open at their ends.
#[derive(Debug)]
pub struct Log {
    files: [(PathBuf, File); 2],
}

impl Log {
    /// Opens the files that [`write`](fn@write) made.
    ///
    /// # Errors
    /// One is not there.
    pub fn open(folder: &Path) -> Result<Self> {
        let open = |name: &str| -> Result<(PathBuf, File)> {
            let path = folder.join(name);
            match File::options().append(true).open(&path) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(failed("open", path, source)),
            }
        };
        Ok(Self {
            files: [open(EVENTS)?, open(TENSORBOARD)?],
        })
    }

    /// Appends an event; whoever reads the files sees it at once.
    ///
    /// # Errors
    /// The disk is full.
    pub fn add(&mut self, event: &Event) -> Result<()> {
        let contents = [event.line()?.into_bytes(), event.record()];
        for ((path, file), content) in self.files.iter_mut().zip(contents) {
            file.write_all(&content)
                .map_err(|source| failed("write", path.clone(), source))?;
        }
        Ok(())
    }

    /// Waits until what was appended is on the disk.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn sync(&self) -> Result<()> {
        for (path, file) in &self.files {
            file.sync_data()
                .map_err(|source| failed("sync", path.clone(), source))?;
        }
        Ok(())
    }
}

fn failed(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    FileError::Io {
        action,
        path,
        source,
    }
    .into()
}
