//! Runs: what a training leaves on disk while it goes, and how it goes on after a stop or a kill.
//!
//! Owns the run folder. The loop is [`crate::train`]'s, the model folders in it are
//! [`crate::artifact`]'s, the events [`crate::events`]'s.
//!
//! | in the folder | holds |
//! |---|---|
//! | `recipe.toml` | the recipe with every default filled in |
//! | `events.jsonl` | a JSON line a step and an evaluation, as they happen |
//! | `events.out.tfevents.…` | the same for TensorBoard |
//! | `last/` | the last saved model, with `state.safetensors`, from which the run goes on |
//! | `best/` | the model of the best evaluation, if there were evaluations |
//!
//! Where a model folder is asked for, a run folder stands for its `best` or else its `last`
//! ([`artifact::locate`]). Each of the two is replaced in one step of the file system, and the
//! state lies in the folder of the model that it belongs to: at any moment a kill leaves a whole
//! model and the state that goes with it.
//!
//! ```no_run
//! # use std::path::Path;
//! # use twinspan_sdk::{Result, recipe::Recipe, run::{Run, Start}, task::Dataset};
//! # use twinspan_sdk::{train::Unwatched, tuned::Compute, weights};
//! # fn f(recipe: &Recipe, data: &dyn Dataset) -> Result<()> {
//! let run = Run::claim(Path::new("out"), Start::Resume)?;
//! run.fits(recipe, data)?;
//! let base = weights::open(recipe)?;
//! let tokenizer = weights::tokenizer(recipe)?;
//! let mut tuned = run.model(recipe, base, Compute::default(), tokenizer.as_ref(), data)?;
//! let outcome = run.train(recipe, &mut tuned, data, &mut Unwatched)?;
//! println!("{:?} after {} steps", outcome.end, outcome.standing.step);
//! # Ok(())
//! # }
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::artifact::{self, Artifact, RECIPE, TUNED};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::events::{self, EVENTS, Event, Log, TENSORBOARD};
use crate::file::{self, FileError};
use crate::recipe::{Recipe, ScheduleChoice, TrainOptions};
use crate::state::{self, STATE, Seen, State};
use crate::task::Dataset;
use crate::tokenizer::Tokenizer;
use crate::train::{self, Evaluation, Keeper, Observer, Standing, StepReport, Trainer};
use crate::tuned::{Compute, Tuned};

/// The model of the best evaluation, in a run folder.
pub const BEST: &str = "best";
/// The last saved model and its state, in a run folder.
pub const LAST: &str = "last";

/// What becomes of a run or a model that is at a path already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// It is left alone, and claiming the path is an error.
    #[default]
    New,
    /// The run goes on. Where nothing was saved yet, one starts.
    Resume,
    /// A new run replaces it, once the new run saves for the first time.
    Overwrite,
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Steps,
    /// The last `train.patience` evaluations were no better than one before.
    Patience,
    /// The observer stopped it; it can go on.
    Stopped,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The steps done in this sitting.
    pub history: Vec<StepReport>,
    /// Where it stands.
    pub standing: Standing,
    /// Steps it was to take; none where adapters have nothing that trains.
    pub steps: usize,
    /// Why it is over.
    pub end: End,
}

/// A path for a run, with what is there of it.
#[derive(Debug)]
pub struct Run {
    out: PathBuf,
    last: Option<State>,
    /// Whether there is a model at the path that the run replaces.
    replaces: bool,
    lock: Option<File>,
}

/// Whether `path` is a run folder.
pub fn is_run(path: &Path) -> bool {
    path.join(RECIPE).is_file() && path.join(EVENTS).is_file()
}

impl Run {
    /// Takes `out` for a run: clears up after one that was killed there, and keeps other
    /// processes out while this value lives, where the system can. A new run writes nothing yet.
    ///
    /// # Errors
    /// Another process trains there; `start` does not allow what is there; nothing can be
    /// written there.
    pub fn claim(out: &Path, start: Start) -> Result<Self> {
        artifact::check_for_run(out)?;
        let lock = lock(out)?;
        file::settle(out)?;
        if is_run(out) {
            for name in [BEST, LAST, RECIPE, EVENTS, TENSORBOARD] {
                file::settle(&out.join(name))?;
            }
        }
        let [best, last] = [BEST, LAST].map(|name| out.join(name));
        let saved = artifact::is_model(&last);
        let holds = artifact::is_model(out) || artifact::is_model(&best) || saved;
        let wrong = |problem: String| Err(Error::wrong_use(format!("{} {problem}", out.display())));
        let mut run = Self {
            out: out.to_path_buf(),
            last: None,
            replaces: holds,
            lock,
        };
        match start {
            Start::Resume if saved => run.last = Some(State::read(&last)?),
            Start::Resume if artifact::is_model(out) => {
                return wrong(
                    "is a model without the state of a run: nothing can go on from it; \
                     name a new folder, or replace it with --overwrite"
                        .into(),
                );
            }
            Start::New if saved => {
                let step = State::read(&last)?.standing.step;
                return wrong(format!(
                    "holds a run of {step} steps: go on with it by --resume, replace it by \
                     --overwrite, or name a new folder"
                ));
            }
            Start::New if holds => {
                return wrong(
                    "holds a model: replace it by --overwrite, or name a new folder".into(),
                );
            }
            _ => {}
        }
        Ok(run)
    }

    /// Where the run stands that goes on; none for a new one.
    pub fn standing(&self) -> Option<&Standing> {
        self.last.as_ref().map(|state| &state.standing)
    }

    /// Refuses to go on with another recipe or other data, by which the run would come to
    /// neither's result. Free are the places of weights and vocabulary (their content is
    /// checked), `train.workers`, `train.save_every`, `train.metric` before the first evaluation
    /// and, with a constant schedule, `train.steps` and `train.epochs`.
    ///
    /// # Errors
    /// They differ; the message names the field and both values.
    pub fn fits(&self, recipe: &Recipe, data: &dyn Dataset) -> Result<()> {
        let examples = train::examples(data, &recipe.train)?;
        let Some(state) = &self.last else {
            return Ok(());
        };
        let at = self.out.display();
        let wrong = |problem: String| {
            Err(Error::wrong_use(format!(
                "{at} cannot go on: {problem}; name a new folder, or replace it with --overwrite"
            )))
        };
        let file = self.out.join(LAST).join(RECIPE);
        let text = std::fs::read_to_string(&file).map_err(|source| FileError::Io {
            action: "read",
            path: file.clone(),
            source,
        })?;
        let before: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::Recipe {
            origin: file.display().to_string(),
            message: e.message().to_string(),
        })?;
        let free = |key: &str| match key {
            "backbone.weights" | "backbone.tokenizer" => true,
            "train.workers" | "train.save_every" => true,
            "train.metric" => state.standing.evaluated == 0 && !state.standing.is_evaluated(),
            "train.steps" | "train.epochs" => recipe.train.schedule == ScheduleChoice::Constant,
            _ => false,
        };
        if let Some((key, before, now)) =
            difference("", &before.into(), &recipe.to_table()?.into(), &free)
        {
            let why = match key.as_str() {
                "train.steps" | "train.epochs" => {
                    " (its schedule is by fractions of all steps: other steps are other rates \
                     from the first on)"
                }
                _ => "",
            };
            return wrong(format!("{key} was {before} and is {now}{why}"));
        }
        if let Some(problem) = state::difference(&state.data, &state::seen(data, &recipe.train)?) {
            return wrong(problem);
        }
        let (done, steps) = (state.standing.step, train::steps(&recipe.train, examples));
        match done > steps {
            true => wrong(format!("{done} steps are done, and it is to take {steps}")),
            false => Ok(()),
        }
    }

    /// The model to train: as it was saved, or new and prepared.
    ///
    /// # Errors
    /// Those of [`artifact::open_on`], or of [`Tuned::new`] and [`Tuned::prepare`].
    pub fn model(
        &self,
        recipe: &Recipe,
        base: Base,
        compute: Compute,
        tokenizer: &dyn Tokenizer,
        data: &dyn Dataset,
    ) -> Result<Tuned> {
        if self.last.is_some() {
            return artifact::open_on(&self.out.join(LAST), recipe, base, compute);
        }
        let mut tuned = Tuned::new(recipe, base, compute)?;
        tuned.prepare(Some(tokenizer), Some(recipe.training(data)))?;
        Ok(tuned)
    }

    /// Trains the model of [`Run::model`], or goes on with it, and keeps in the folder what is
    /// needed. The folder of a new run appears with its first step, or, where it replaces a
    /// model, when it saves for the first time. When an error ends the run, what was saved
    /// stays, and the run can go on from there.
    ///
    /// # Errors
    /// A file is not what it should be or cannot be written, the loss diverges.
    pub fn train(
        self,
        recipe: &Recipe,
        tuned: &mut Tuned,
        data: &dyn Dataset,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let options = &recipe.train;
        let steps = train::steps_of(tuned, options, train::examples(data, options)?);
        let seen = state::seen(data, options)?;
        let mut trainer = Trainer::new(tuned, options, steps)?;
        let (mut standing, place) = match &self.last {
            None => (Standing::default(), Place::Waiting(Vec::new())),
            Some(state) => {
                let standing = state.standing.clone();
                let tensors = artifact::tensors(&self.out.join(LAST).join(STATE))?;
                trainer.restore(&tensors, standing.step)?;
                let log = self.reopen(recipe, &standing)?;
                (standing, Place::Open(log))
            }
        };
        let mut keeper = Folder {
            run: self,
            recipe,
            steps,
            seen,
            place,
            scored: None,
        };
        let history = train::drive(&mut trainer, data, &mut standing, observer, &mut keeper)?;
        Ok(Outcome {
            history,
            end: end(&standing, options, steps),
            standing,
            steps,
        })
    }

    /// Brings recipe and events to where the run stands.
    fn reopen(&self, recipe: &Recipe, standing: &Standing) -> Result<Log> {
        let text = recipe.to_toml()?;
        file::write_whole(&self.out.join(RECIPE), |f| f.write_all(text.as_bytes()))?;
        let kept = events::kept(&self.out, standing.step, standing.evaluated)?;
        events::write(&self.out, &kept)?;
        Log::open(&self.out)
    }
}

fn end(standing: &Standing, options: &TrainOptions, steps: usize) -> End {
    let evaluated = options.evaluate_split.is_empty() || standing.is_evaluated();
    match (
        standing.step >= steps && evaluated,
        standing.out_of_patience(options),
    ) {
        (true, _) => End::Steps,
        (false, true) => End::Patience,
        (false, false) => End::Stopped,
    }
}

/// Keeps other processes out of a folder until the file is closed. Where folders cannot be
/// locked, nothing is.
fn lock(folder: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(folder) else {
        return Ok(None);
    };
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::wrong_use(format!(
            "another process trains in {}: wait for it, or name another folder",
            folder.display()
        ))),
        _ => Ok(Some(file)),
    }
}

/// The first field, by its dotted name, in which two recipes differ, with both values.
fn difference(
    key: &str,
    before: &toml::Value,
    now: &toml::Value,
    free: &dyn Fn(&str) -> bool,
) -> Option<(String, String, String)> {
    use toml::Value::{Array, Table};
    let within = |name: &str| match key {
        "" => name.to_string(),
        key => format!("{key}.{name}"),
    };
    let absent = toml::Value::String("not there".into());
    match (before, now) {
        _ if before == now || free(key) => None,
        (Table(a), Table(b)) => {
            // What a table is comes before what is in it.
            let first = ["use", "kind"].into_iter().filter(|k| a.contains_key(*k));
            let others = a.keys().chain(b.keys()).map(String::as_str);
            first.chain(others).find_map(|name| {
                let [x, y] = [a, b].map(|t| t.get(name).unwrap_or(&absent));
                difference(&within(name), x, y, free)
            })
        }
        (Array(a), Array(b))
            if a.len() == b.len() && a.iter().chain(b).all(toml::Value::is_table) =>
        {
            a.iter()
                .zip(b)
                .enumerate()
                .find_map(|(i, (x, y))| difference(&within(&i.to_string()), x, y, free))
        }
        _ => Some((key.to_string(), before.to_string(), now.to_string())),
    }
}

/// The folder of a run that is going.
struct Folder<'a> {
    run: Run,
    recipe: &'a Recipe,
    steps: usize,
    seen: Seen,
    place: Place,
    /// The last evaluation.
    scored: Option<Evaluation>,
}

enum Place {
    /// Nothing is written yet; these events wait.
    Waiting(Vec<Event>),
    /// The folder is there.
    Open(Log),
}

impl Folder<'_> {
    fn add(&mut self, event: Event) -> Result<()> {
        match &mut self.place {
            Place::Open(log) => log.add(&event),
            Place::Waiting(events) => {
                events.push(event);
                match self.run.replaces {
                    true => Ok(()),
                    false => self.begin(None),
                }
            }
        }
    }

    /// Makes the folder, in the place of what was there, with what was to be kept so far.
    fn begin(&mut self, last: Option<(Artifact, Vec<u8>)>) -> Result<()> {
        let out = &self.run.out;
        let events = match &self.place {
            Place::Waiting(events) => events::contents(events)?,
            Place::Open(_) => return Ok(()),
        };
        let recipe = self.recipe.to_toml()?;
        // What is there was looked at when the run began; it may be another by now.
        artifact::check_for_run(out)?;
        file::write_folder(out, RECIPE, |folder| {
            std::fs::write(folder.join(RECIPE), &recipe)?;
            for (name, content) in &events {
                std::fs::write(folder.join(name), content)?;
            }
            if let Some((artifact, state)) = &last {
                let folder = folder.join(LAST);
                std::fs::create_dir(&folder)?;
                artifact.write(&folder)?;
                std::fs::write(folder.join(STATE), state)?;
            }
            Ok(())
        })?;
        self.run.lock = lock(out)?;
        self.place = Place::Open(Log::open(out)?);
        Ok(())
    }

    fn metrics(&self, standing: &Standing) -> Value {
        let mut metrics = Map::new();
        metrics.insert("step".into(), standing.step.into());
        metrics.insert("steps".into(), self.steps.into());
        metrics.insert("loss".into(), json!(standing.loss));
        metrics.insert(
            "seconds".into(),
            json!((standing.seconds * 100.0).round() / 100.0),
        );
        metrics.into()
    }
}

fn with_scores(mut metrics: Value, evaluation: &Evaluation) -> Value {
    let scores = evaluation.report.scores.iter();
    let scores: Map<_, _> = scores.map(|(n, v)| (n.clone(), json!(v))).collect();
    metrics[&evaluation.split] = scores.into();
    metrics
}

impl Keeper for Folder<'_> {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.add(Event::step(report))
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.scored = Some(evaluation.clone());
        self.add(Event::evaluation(evaluation))
    }

    fn best(&mut self, tuned: &Tuned, standing: &Standing, of: &Evaluation) -> Result<()> {
        let metrics = with_scores(self.metrics(standing), of);
        let artifact = Artifact::new(self.recipe, tuned, &metrics)?;
        file::write_folder(&self.run.out.join(BEST), TUNED, |f| artifact.write(f))?;
        Ok(())
    }

    fn last(&mut self, trainer: &mut Trainer, standing: &Standing) -> Result<()> {
        let metrics = match &self.scored {
            Some(scored) if scored.step == standing.step => {
                with_scores(self.metrics(standing), scored)
            }
            _ => self.metrics(standing),
        };
        let artifact = trainer.shown(|tuned| Artifact::new(self.recipe, tuned, &metrics))?;
        let state = State::new(standing, &self.seen).bytes(&trainer.state())?;
        match &self.place {
            Place::Waiting(_) => self.begin(Some((artifact, state))),
            Place::Open(log) => {
                // The events up to a state are there wherever the state is.
                log.sync()?;
                file::write_folder(&self.run.out.join(LAST), TUNED, |folder| {
                    artifact.write(folder)?;
                    std::fs::write(folder.join(STATE), &state)
                })?;
                Ok(())
            }
        }
    }
}
