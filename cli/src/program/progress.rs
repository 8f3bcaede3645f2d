//! Progress bars on stderr; where stderr is no terminal, a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use twinspan::sdk::Result;
use twinspan::sdk::train::{Observer, StepReport};

/// A bar over `len` units of work.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    len: usize,
    started: Instant,
    told: Instant,
}

/// How often a line is written where there is no terminal.
const QUIET: Duration = Duration::from_secs(20);

impl Progress {
    /// A bar called `what`.
    pub fn new(what: &'static str, len: usize) -> Self {
        let bar = ProgressBar::new(len as u64);
        let template = "{prefix} {bar:32} {pos}/{len}  {msg}  {eta_precise} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Self {
            bar,
            what,
            len,
            started: Instant::now(),
            told: Instant::now(),
        }
    }

    /// `done` units are done.
    pub fn at(&mut self, done: usize, message: String) {
        if self.bar.is_hidden() && (self.told.elapsed() > QUIET || done == self.len) {
            self.told = Instant::now();
            let share = done as f64 / self.len.max(1) as f64;
            let left = self.started.elapsed().as_secs_f64() * (1.0 / share.max(1e-9) - 1.0);
            eprintln!(
                "{} {done}/{}  {message}  {left:.0} s left",
                self.what, self.len
            );
        }
        self.bar.set_message(message);
        self.bar.set_position(done as u64);
    }

    /// The work is done.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Shows the loss, averaged over the last steps so that it can be read.
pub struct TrainProgress {
    what: &'static str,
    progress: Option<Progress>,
    loss: f64,
}

impl TrainProgress {
    /// A bar that learns its length from the first step.
    pub fn new() -> Self {
        Self::called("train")
    }

    /// The same under another name than `train`.
    pub fn called(what: &'static str) -> Self {
        Self {
            what,
            progress: None,
            loss: f64::NAN,
        }
    }
}

impl Observer for TrainProgress {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.loss = match self.loss.is_nan() {
            true => report.loss,
            false => 0.9 * self.loss + 0.1 * report.loss,
        };
        let loss = self.loss;
        let progress = self
            .progress
            .get_or_insert_with(|| Progress::new(self.what, report.steps));
        progress.at(
            report.step + 1,
            format!("loss {loss:.4}  rate {:.1e}", report.rate),
        );
        if report.step + 1 == report.steps {
            progress.finish();
        }
        Ok(())
    }
}
