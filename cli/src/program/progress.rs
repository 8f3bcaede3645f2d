//! Progress bars on stderr; where stderr is no terminal, a line now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use twinspan::sdk::Result;
use twinspan::sdk::hub;
use twinspan::sdk::train::{Evaluation, Observer, StepReport};

use super::signals::Signals;

/// A bar over `len` units of work.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    before: usize,
    len: usize,
    started: Instant,
    told: Instant,
}

/// How often a line is written where there is no terminal.
const QUIET: Duration = Duration::from_secs(20);

impl Progress {
    /// A bar called `what`.
    pub fn new(what: &'static str, len: usize) -> Self {
        Self::from(what, 0, len)
    }

    /// A bar of work of which `before` units were done at another time.
    pub fn from(what: &'static str, before: usize, len: usize) -> Self {
        let bar = ProgressBar::new(len as u64);
        let template = "{prefix} {bar:32} {pos}/{len}  {msg}  {eta_precise} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.set_position(before as u64);
        bar.reset_eta();
        Self {
            bar,
            what,
            before,
            len,
            started: Instant::now(),
            told: Instant::now(),
        }
    }

    /// The same as one of several at once.
    pub fn among(self, bars: &MultiProgress) -> Self {
        Self {
            bar: bars.add(self.bar),
            ..self
        }
    }

    /// `done` units are done.
    pub fn at(&mut self, done: usize, message: String) {
        if self.bar.is_hidden() && (self.told.elapsed() > QUIET || done == self.len) {
            self.told = Instant::now();
            let by_unit = self.started.elapsed().as_secs_f64()
                / (done.saturating_sub(self.before)).max(1) as f64;
            let left = by_unit * self.len.saturating_sub(done) as f64;
            eprintln!(
                "{} {done}/{}  {message}  {left:.0} s left",
                self.what, self.len
            );
        }
        self.bar.set_message(message);
        self.bar.set_position(done as u64);
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match self.bar.is_hidden() {
            true => eprintln!("{text}"),
            false => self.bar.println(text),
        }
    }

    /// What the work is at, beside how much is done.
    pub fn message(&self, message: String) {
        self.bar.set_message(message);
    }

    /// The work is done.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Shows downloads, one file behind the other; nothing where there is none.
#[derive(Default)]
pub struct DownloadProgress(Mutex<Option<(String, ProgressBar)>>);

impl DownloadProgress {
    fn bar(file: &str, done: u64, total: Option<u64>) -> ProgressBar {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template =
            "{prefix} {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta_precise} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(file.to_string());
        bar.set_position(done);
        bar.reset_eta();
        if bar.is_hidden() {
            eprintln!("downloading {file}");
        }
        bar
    }
}

impl hub::Progress for DownloadProgress {
    fn advance(&self, file: &str, done: u64, total: Option<u64>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(name, _)| name != file) {
            *shown = Some((file.to_string(), Self::bar(file, done, total)));
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.set_position(done);
            if total == Some(done) {
                bar.finish_and_clear();
            }
        }
    }

    fn note(&self, note: &str) {
        eprintln!("{note}");
    }
}

/// Shows the loss, averaged over the last steps so that it can be read, and evaluations.
pub struct TrainProgress<'a> {
    what: &'static str,
    bars: Option<&'a MultiProgress>,
    progress: Option<Progress>,
    loss: f64,
    signals: Option<&'a Signals>,
}

impl<'a> TrainProgress<'a> {
    /// A bar that learns its length from the first step.
    pub fn new() -> Self {
        Self {
            what: "train",
            bars: None,
            progress: None,
            loss: f64::NAN,
            signals: None,
        }
    }

    /// The same under another name, as one of several at once.
    pub fn among(bars: &'a MultiProgress, what: &'static str) -> Self {
        Self {
            what,
            bars: Some(bars),
            ..Self::new()
        }
    }

    /// The same, which stops the run when a signal asks for it.
    pub fn watching(signals: &'a Signals) -> Self {
        Self {
            signals: Some(signals),
            ..Self::new()
        }
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
    }
}

impl Observer for TrainProgress<'_> {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.loss = match self.loss.is_nan() {
            true => report.loss,
            false => 0.9 * self.loss + 0.1 * report.loss,
        };
        let loss = self.loss;
        let progress = self.progress.get_or_insert_with(|| {
            let bar = Progress::from(self.what, report.step, report.steps);
            match self.bars {
                Some(bars) => bar.among(bars),
                None => bar,
            }
        });
        progress.at(
            report.step + 1,
            format!("loss {loss:.4}  rate {:.1e}", report.rate),
        );
        Ok(())
    }

    fn evaluating(&mut self, done: usize, examples: usize) {
        if let Some(progress) = &self.progress {
            progress.message(format!("evaluating {done}/{examples}"));
        }
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let scores = evaluation.report.scores.iter();
        let scores: Vec<String> = scores.map(|(n, v)| format!("{n} {v:.2}")).collect();
        let text = format!(
            "after step {}, on {}: {}{}",
            evaluation.step,
            evaluation.split,
            scores.join("  "),
            if evaluation.best { "  (best)" } else { "" }
        );
        match &self.progress {
            Some(progress) => progress.line(&text),
            None => eprintln!("{text}"),
        }
        Ok(())
    }

    fn stop(&self) -> bool {
        self.signals.is_some_and(|s| s.asked().is_some())
    }
}
