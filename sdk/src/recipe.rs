//! Recipes: which backbone, adapters and task, and how to train. Pure data.
//!
//! Owns the TOML form, its defaults and its errors. Reads no weights and knows no plugin.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Training};
use crate::backbone::Backbone;
use crate::error::{Error, Result, nearest};
use crate::expression::{self, Term};
use crate::registry::{self, AdapterEntry, BackboneEntry, Configured, TaskEntry};
use crate::source::Source;
use crate::task::{Dataset, Task};
use crate::tuned::HEAD;

/// What a run is made of.
#[derive(Clone)]
pub struct Recipe {
    /// The backbone.
    pub backbone: Configured<dyn Backbone>,
    /// Where its weights and tokenizer are, and how its batch norms behave.
    pub weights: WeightsChoice,
    /// The adapters, in the order in which their hooks run.
    pub adapters: Vec<Configured<dyn Adapter>>,
    /// The task.
    pub task: Configured<dyn Task>,
    /// How to train.
    pub train: TrainOptions,
}

/// Weights that are part of the backbone: the default where it has some.
pub const EMBEDDED: &str = "embedded";

/// The tokenizer that a backbone has without a vocabulary file.
pub const BYTES: &str = "bytes";

/// What every backbone takes beside its own options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsChoice {
    /// What [`Source`] reads: a weight file or a folder, relative to the recipe, or a model of the
    /// hub; `random:SEED`; or [`EMBEDDED`]. A recipe that says nothing gets the embedded ones
    /// where there are some, `random:0` elsewhere.
    pub weights: String,
    /// More sources beside `weights`, whose tensors are united with its: a backbone of two towers
    /// that were released apart. No tensor may be in two of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_weights: Vec<String>,
    /// A vocabulary file or folder, relative to the recipe; [`BYTES`] for the backbone's own,
    /// which random and embedded weights take without being told. Where it is empty, other
    /// weights take the one beside them.
    pub tokenizer: String,
    /// The precision in which frozen weights are held, and to which their values are rounded.
    pub precision: Precision,
    /// What the batch norms of the frozen towers do while training.
    pub batch_norm: BatchNormChoice,
}

/// The precision in which frozen weights are held; what is computed with them is in the model's
/// own type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits: weights that are stored in fewer keep their values.
    #[default]
    F32,
    /// 16 bits with the range of 32: half the memory, 3 digits.
    Bf16,
    /// 16 bits: half the memory, 4 digits, up to 65504.
    F16,
}

impl Precision {
    /// The element type.
    pub fn dtype(self) -> candle_core::DType {
        match self {
            Precision::F32 => candle_core::DType::F32,
            Precision::Bf16 => candle_core::DType::BF16,
            Precision::F16 => candle_core::DType::F16,
        }
    }
}

impl Default for WeightsChoice {
    fn default() -> Self {
        Self {
            weights: "random:0".into(),
            more_weights: Vec::new(),
            tokenizer: String::new(),
            precision: Precision::F32,
            batch_norm: BatchNormChoice::Frozen,
        }
    }
}

/// What the batch norms of the frozen towers do while training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNormChoice {
    /// Use the base's statistics.
    #[default]
    Frozen,
    /// Use the batch's, and update running statistics in the overlay, as ETRIS was released.
    Train,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Optimiser steps; when 0, `epochs` counts. Where adapters have nothing that trains, none is
    /// taken whatever this says.
    pub steps: usize,
    /// Passes over the data, used when `steps` is 0.
    pub epochs: usize,
    /// Examples in a batch.
    pub batch: usize,
    /// Batches summed before an optimiser step.
    pub accumulate: usize,
    /// Seed of starts, order, choices and dropout.
    pub seed: u64,
    /// adam or adamw.
    pub optimizer: OptimizerChoice,
    /// Learning rate.
    pub rate: f64,
    /// Weight decay: decoupled with adamw, in the gradient with adam.
    pub weight_decay: f64,
    /// Adam's averages.
    pub betas: (f64, f64),
    /// Adam's epsilon.
    pub epsilon: f64,
    /// Gradients are scaled down to this norm; 0 leaves them.
    pub clip: f64,
    /// Schedule of the learning rate.
    pub schedule: ScheduleChoice,
    /// Rates and decays of single owners (adapter labels or `head`).
    pub groups: std::collections::BTreeMap<String, GroupOptions>,
    /// Split to train on.
    pub split: String,
    /// Threads that load batches ahead of the step; 0 loads in between. The results are the same.
    pub workers: usize,
    /// Split that is scored while training and at the end; empty for none.
    pub evaluate_split: String,
    /// Steps between evaluations; 0 evaluates at the end only.
    pub evaluate_every: usize,
    /// The score that says which evaluation is best, higher being better; empty for the task's
    /// first.
    pub metric: String,
    /// Evaluations in a row without a better one after which training stops; 0 for never.
    pub patience: usize,
    /// Decay of the average of the trained parameters that is scored and saved in their place
    /// ([`Averages`](crate::average::Averages)); 0 for none.
    pub ema: f64,
    /// Steps between saves of the last state; 0 saves after evaluations and at the end only.
    pub save_every: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 0,
            epochs: 50,
            batch: 8,
            accumulate: 1,
            seed: 0,
            optimizer: OptimizerChoice::Adam,
            rate: 1e-4,
            weight_decay: 0.0,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            clip: 0.0,
            schedule: ScheduleChoice::Constant,
            groups: Default::default(),
            split: "train".into(),
            workers: crate::loader::WORKERS,
            evaluate_split: String::new(),
            evaluate_every: 0,
            metric: String::new(),
            patience: 0,
            ema: 0.0,
            save_every: 200,
        }
    }
}

/// The optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerChoice {
    /// Adam (Kingma and Ba, 2015).
    #[default]
    Adam,
    /// AdamW (Loshchilov and Hutter, 2019).
    Adamw,
}

/// The schedule of the learning rate; fractions are of all steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum ScheduleChoice {
    /// The same at every step.
    #[default]
    Constant,
    /// Times `factor` at each of the fractions `at`: ETRIS's is `at = [0.7], factor = 0.1`.
    Step {
        /// Fractions of the run.
        at: Vec<f64>,
        /// Factor at each.
        factor: f64,
    },
    /// Linear from 0 over `warmup` of the run, then a half cosine down to `floor` times the rate.
    Cosine {
        /// Fraction of the run that warms up.
        #[serde(default)]
        warmup: f64,
        /// Last rate over the first.
        #[serde(default)]
        floor: f64,
    },
}

/// Rate and decay of one owner's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupOptions {
    /// Learning rate in place of `train.rate`.
    pub rate: Option<f64>,
    /// Weight decay in place of `train.weight_decay`.
    pub weight_decay: Option<f64>,
}

const SECTIONS: [&str; 4] = ["backbone", "adapter", "task", "train"];

impl Recipe {
    /// A recipe from TOML text; `origin` names it in messages.
    ///
    /// # Errors
    /// The text is not TOML, or names what does not exist.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::Recipe {
            origin: origin.to_string(),
            message: format!("not TOML: {}", one_line(&e.to_string())),
        })?;
        Self::from_table(table, origin)
    }

    /// A recipe from a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// The file cannot be read, or is not a recipe.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &[])
    }

    /// A recipe from a file, with `key = value` settings such as `train.steps=100` on top.
    ///
    /// # Errors
    /// The file cannot be read or is not a recipe; a setting is not `key=value`.
    pub fn open_with(path: &Path, settings: &[String]) -> Result<Self> {
        Self::open_adapted(path, None, settings)
    }

    /// The same, with the adapters of an [`expression`] in place of the file's,
    /// where one is given. Settings come on top of both.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with); the text is not an expression.
    pub fn open_adapted(path: &Path, adapters: Option<&str>, settings: &[String]) -> Result<Self> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| Error::Recipe {
            origin: origin.clone(),
            message: format!("cannot be read: {e}"),
        })?;
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::Recipe {
            origin: origin.clone(),
            message: format!("not TOML: {}", one_line(&e.to_string())),
        })?;
        if let Some(adapters) = adapters {
            let terms = expression::parse(adapters)?
                .iter()
                .map(|adapter| toml::Value::Table(Term::of(adapter).to_table()))
                .collect();
            table.insert("adapter".into(), toml::Value::Array(terms));
        }
        for setting in settings {
            set(&mut table, setting)?;
        }
        let mut recipe = Self::from_table(table, &origin)?;
        recipe
            .weights
            .anchor(path.parent().unwrap_or(Path::new("")))?;
        Ok(recipe)
    }

    /// A recipe from a TOML table.
    ///
    /// # Errors
    /// The table names what does not exist.
    pub fn from_table(mut table: toml::Table, origin: &str) -> Result<Self> {
        let wrong = |message: String| Error::Recipe {
            origin: origin.to_string(),
            message,
        };
        if let Some(key) = table.keys().find(|k| !SECTIONS.contains(&k.as_str())) {
            let near = nearest(key, SECTIONS.into_iter())
                .map(|n| format!(" (did you mean `{n}`?)"))
                .unwrap_or_default();
            return Err(wrong(format!(
                "unknown section `{key}`{near}; there are: {}",
                SECTIONS.join(", ")
            )));
        }
        let mut section = |name: &str| -> Result<toml::Table> {
            match table.remove(name) {
                Some(toml::Value::Table(t)) => Ok(t),
                Some(_) => Err(wrong(format!("`{name}` must be a table: write [{name}]"))),
                None => Err(wrong(format!("there is no [{name}]"))),
            }
        };
        let mut backbone = section("backbone")?;
        let task = section("task")?;
        let train = match table.remove("train") {
            None => TrainOptions::default(),
            Some(value) if !value.is_table() => {
                return Err(wrong("`train` must be a table: write [train]".into()));
            }
            Some(value) => value.try_into().map_err(|e: toml::de::Error| {
                wrong(format!("[train]: {}", one_line(&e.to_string())))
            })?,
        };
        let adapters = match table.remove("adapter") {
            None => Vec::new(),
            Some(toml::Value::Array(items)) => items,
            Some(_) => {
                return Err(wrong(
                    "write [[adapter]], with two brackets: there can be several".into(),
                ));
            }
        };
        let mut shared = toml::Table::new();
        for key in [
            "weights",
            "more_weights",
            "tokenizer",
            "precision",
            "batch_norm",
        ] {
            if let Some(value) = backbone.remove(key) {
                shared.insert(key.into(), value);
            }
        }
        let unnamed = !shared.contains_key("weights");
        let mut weights: WeightsChoice = shared.try_into().map_err(|e: toml::de::Error| {
            wrong(format!("[backbone]: {}", one_line(&e.to_string())))
        })?;
        type Known = Result<Vec<&'static str>>;
        let named =
            |mut t: toml::Table, what: &str, known: Known| -> Result<(String, toml::Table)> {
                match t.remove("use") {
                    Some(toml::Value::String(name)) => Ok((name, t)),
                    _ => Err(wrong(format!(
                        "{what} lacks `use = \"NAME\"`; there are: {}",
                        known?.join(", ")
                    ))),
                }
            };
        let known = registry::names::<BackboneEntry>();
        let (name, options) = named(backbone, "[backbone]", known)?;
        let backbone = registry::configured::<BackboneEntry>(&name, options)?;
        if unnamed && backbone.plugin.embedded().is_some() {
            weights.weights = EMBEDDED.into();
        }
        let adapters = adapters
            .into_iter()
            .map(|value| match value {
                toml::Value::Table(t) => {
                    let (name, options) =
                        named(t, "[[adapter]]", registry::names::<AdapterEntry>())?;
                    registry::configured::<AdapterEntry>(&name, options)
                }
                _ => Err(wrong("each [[adapter]] must be a table".into())),
            })
            .collect::<Result<_>>()?;
        let (name, options) = named(task, "[task]", registry::names::<TaskEntry>())?;
        let task = registry::configured::<TaskEntry>(&name, options)?;
        train_is_sound(&train).map_err(wrong)?;
        let recipe = Self {
            backbone,
            weights,
            adapters,
            task,
            train,
        };
        recipe.groups_exist().map_err(wrong)?;
        Ok(recipe)
    }

    fn groups_exist(&self) -> std::result::Result<(), String> {
        let mut owners = self.labels();
        owners.push(HEAD.to_string());
        let strange = self.train.groups.keys().find(|g| !owners.contains(g));
        strange.map_or(Ok(()), |group| {
            let near = nearest(group, owners.iter().map(String::as_str))
                .map(|n| format!(" (did you mean `{n}`?)"))
                .unwrap_or_default();
            Err(format!(
                "train.groups names `{group}`{near}; there are: {}",
                owners.join(", ")
            ))
        })
    }

    /// The same recipe without the adapter at `place`, counted from 0: the labels of those behind
    /// it close up, and `train.groups` follows them. One that is not there changes nothing.
    pub fn without(&self, place: usize) -> Self {
        let mut smaller = self.clone();
        let mut labels = self.labels();
        if place >= labels.len() {
            return smaller;
        }
        smaller.adapters.remove(place);
        let lost = labels.remove(place);
        smaller.train.groups.remove(&lost);
        for (old, new) in labels.into_iter().zip(smaller.labels()) {
            if let Some(group) = smaller.train.groups.remove(&old) {
                smaller.train.groups.insert(new, group);
            }
        }
        smaller
    }

    /// What of `data` this recipe trains on.
    pub fn training<'a>(&'a self, data: &'a dyn Dataset) -> Training<'a> {
        Training {
            data,
            split: &self.train.split,
        }
    }

    /// The recipe with what its adapters leave open filled in from the data that it trains on
    /// ([`Adapter::fitted`]).
    ///
    /// # Errors
    /// The data is not what an adapter is for.
    pub fn fitted(&self, data: &dyn Dataset) -> Result<Self> {
        let adapters = self.adapters.iter().cloned();
        Ok(Self {
            adapters: adapters
                .map(|adapter| adapter.fitted(self.training(data)))
                .collect::<Result<_>>()?,
            ..self.clone()
        })
    }

    /// The label of each adapter: its name, numbered from the second of a name on.
    pub fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for adapter in &self.adapters {
            let before = self.adapters[..labels.len()]
                .iter()
                .filter(|a| a.name == adapter.name)
                .count();
            labels.push(match before {
                0 => adapter.name.to_string(),
                n => format!("{}-{}", adapter.name, n + 1),
            });
        }
        labels
    }

    /// The recipe with every default filled in, as a table.
    ///
    /// # Errors
    /// An option cannot be written as TOML.
    pub fn to_table(&self) -> Result<toml::Table> {
        let with_use = |name: &str, options: &toml::Table| {
            let mut t = toml::Table::new();
            t.insert("use".into(), name.into());
            t.extend(options.clone());
            t
        };
        let mut backbone = with_use(self.backbone.name, &self.backbone.options);
        backbone.extend(table_of(&self.weights)?);
        let adapters: Vec<toml::Value> = self
            .adapters
            .iter()
            .map(|a| with_use(a.name, &a.options).into())
            .collect();
        let mut out = toml::Table::new();
        out.insert("backbone".into(), backbone.into());
        if !adapters.is_empty() {
            out.insert("adapter".into(), adapters.into());
        }
        out.insert(
            "task".into(),
            with_use(self.task.name, &self.task.options).into(),
        );
        out.insert("train".into(), table_of(&self.train)?.into());
        Ok(out)
    }

    /// The recipe with every default filled in, as TOML text.
    ///
    /// # Errors
    /// An option cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(&self.to_table()?).map_err(Error::plugin)
    }
}

impl WeightsChoice {
    /// The seed, when the weights are random.
    pub fn random(&self) -> Option<u64> {
        self.weights.strip_prefix("random:")?.parse().ok()
    }

    /// What names their source, when they are from one.
    pub fn named(&self) -> Option<&str> {
        let named = self.weights != EMBEDDED && !self.weights.starts_with("random:");
        named.then_some(&self.weights)
    }

    /// Where they are from, when they are from somewhere; relative to the folder one works in.
    ///
    /// # Errors
    /// The text names nothing.
    pub fn source(&self) -> Result<Option<Source>> {
        let source = |text| Source::parse(text, Path::new(""));
        Ok(self.named().map(source).transpose()?)
    }

    /// Where all of them are from, [`source`](Self::source) first; nothing where they are from
    /// nowhere.
    ///
    /// # Errors
    /// A text names nothing; there is more beside weights that are from nowhere.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let first = self.source()?;
        if first.is_none() && !self.more_weights.is_empty() {
            return Err(Error::Recipe {
                origin: "[backbone]".into(),
                message: format!(
                    "more_weights stand beside weights from a file; these are `{}`",
                    self.weights
                ),
            });
        }
        let mut sources: Vec<Source> = first.into_iter().collect();
        for text in &self.more_weights {
            sources.push(Source::parse(text, Path::new(""))?);
        }
        Ok(sources)
    }

    /// Makes relative paths relative to `folder`. A hub id stays, or gets its mark where it would
    /// be a path in the folder one works in.
    fn anchor(&mut self, folder: &Path) -> Result<()> {
        let anchored = |path: &str| {
            let joined = folder.join(path);
            let full = std::path::absolute(&joined).unwrap_or(joined);
            full.display().to_string()
        };
        let marked = |text: &str| -> Result<String> {
            Ok(match Source::parse(text, folder)? {
                Source::Hub(_) if !Path::new(text).exists() => text.to_string(),
                source => source.marked(),
            })
        };
        if let Some(text) = self.named() {
            self.weights = marked(text)?;
        }
        for text in &mut self.more_weights {
            *text = marked(text)?;
        }
        if !self.tokenizer.is_empty() && self.tokenizer != BYTES {
            self.tokenizer = anchored(&self.tokenizer);
        }
        Ok(())
    }
}

fn table_of(options: &impl Serialize) -> Result<toml::Table> {
    toml::Table::try_from(options).map_err(Error::plugin)
}

/// Batches in one step.
const MOST_BATCHES: usize = 1 << 12;
/// Threads that load.
const MOST_WORKERS: usize = 64;

fn train_is_sound(train: &TrainOptions) -> std::result::Result<(), String> {
    let positive = [
        ("batch", train.batch as f64),
        ("accumulate", train.accumulate as f64),
        ("epsilon", train.epsilon),
    ];
    if let Some((name, _)) = positive.iter().find(|(_, v)| !(v.is_finite() && *v > 0.0)) {
        return Err(format!("train.{name} must be a number above 0"));
    }
    if train.seed > i64::MAX as u64 {
        return Err(format!("train.seed must be at most {}", i64::MAX));
    }
    if train.accumulate > MOST_BATCHES {
        return Err(format!("train.accumulate must be at most {MOST_BATCHES}"));
    }
    if train.steps == 0 && train.epochs == 0 {
        return Err("train.steps or train.epochs must be above 0".into());
    }
    let finite = [
        ("rate", train.rate),
        ("weight_decay", train.weight_decay),
        ("clip", train.clip),
    ];
    if let Some((name, _)) = finite.iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
        return Err(format!("train.{name} must be a number from 0 up"));
    }
    if !(0.0..1.0).contains(&train.betas.0) || !(0.0..1.0).contains(&train.betas.1) {
        return Err("train.betas must lie in [0, 1)".into());
    }
    run_is_sound(train)?;
    for (name, group) in &train.groups {
        let set = [("rate", group.rate), ("weight_decay", group.weight_decay)];
        let wrong = |v: &f64| !v.is_finite() || *v < 0.0;
        if let Some((option, _)) = set.iter().find(|(_, v)| v.as_ref().is_some_and(wrong)) {
            return Err(format!(
                "train.groups.{name}.{option} must be a number from 0 up"
            ));
        }
    }
    let fraction = |v: &f64| (0.0..=1.0).contains(v);
    match &train.schedule {
        ScheduleChoice::Step { at, factor } if !at.iter().all(fraction) || !fraction(factor) => {
            Err("train.schedule: `at` and `factor` must lie in [0, 1]".into())
        }
        ScheduleChoice::Cosine { warmup, floor } if !fraction(warmup) || !fraction(floor) => {
            Err("train.schedule: `warmup` and `floor` must lie in [0, 1]".into())
        }
        _ => Ok(()),
    }
}

/// What concerns loading, evaluation and saving.
fn run_is_sound(train: &TrainOptions) -> std::result::Result<(), String> {
    if train.workers > MOST_WORKERS {
        return Err(format!("train.workers must be at most {MOST_WORKERS}"));
    }
    if !(0.0..1.0).contains(&train.ema) {
        return Err("train.ema must lie in [0, 1); 0 for no average".into());
    }
    let needs_split = [
        ("evaluate_every", train.evaluate_every > 0),
        ("metric", !train.metric.is_empty()),
        ("patience", train.patience > 0),
    ];
    match needs_split.iter().find(|(_, set)| *set) {
        Some((option, _)) if train.evaluate_split.is_empty() => Err(format!(
            "train.{option} is about evaluations: say on which split with train.evaluate_split"
        )),
        _ if train.patience > 0 && train.evaluate_every == 0 => {
            Err("train.patience counts evaluations while training: set train.evaluate_every".into())
        }
        _ => Ok(()),
    }
}

/// Sets `a.b.c=value` in a table; the value is TOML, or a string where it is not.
fn set(table: &mut toml::Table, setting: &str) -> Result<()> {
    let wrong = |message: String| Error::Recipe {
        origin: format!("--set {setting}"),
        message,
    };
    let Some((path, value)) = setting.split_once('=') else {
        return Err(wrong("write KEY=VALUE, as in train.steps=100".into()));
    };
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut keys: Vec<&str> = path.split('.').map(str::trim).collect();
    if keys.iter().any(|k| k.is_empty()) {
        return Err(wrong("write KEY=VALUE, as in train.steps=100".into()));
    }
    let last = keys.pop().unwrap_or_default();
    let mut here = table;
    let mut keys = keys.into_iter();
    while let Some(key) = keys.next() {
        let next = here
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        // Adapters are a list: `adapter.0.rank` counts them from 0.
        let next = match next {
            toml::Value::Array(items) => {
                let count = items.len();
                let index = keys.next().and_then(|i| i.parse::<usize>().ok());
                match index.and_then(|i| items.get_mut(i)) {
                    Some(item) => item,
                    None => {
                        return Err(wrong(format!(
                            "`{key}` is a list of {count}; write {key}.0.… for its first"
                        )));
                    }
                }
            }
            other => other,
        };
        here = match next {
            toml::Value::Table(t) => t,
            _ => return Err(wrong(format!("`{key}` is a value, not a table"))),
        };
    }
    here.insert(last.to_string(), value);
    Ok(())
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}
