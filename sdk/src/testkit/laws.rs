//! The laws that every plugin keeps, checked without a line of test code of its own.
//!
//! Owns the laws of adapters, backbones and tasks, and which of them are skipped: what a plugin's
//! declared capabilities do not promise, and what the backbone at hand has no place for. No
//! plugin is named. How a law is put to a model is in `trial`.
//!
//! ```
//! use twinspan_sdk::adapter::Want;
//! use twinspan_sdk::backbone::Backbone;
//! use twinspan_sdk::registry::Configured;
//! use twinspan_sdk::testkit::laws::{Outcome, of_adapter};
//! use twinspan_sdk::testkit::{Scripted, Toy};
//!
//! let idle = Scripted::new("idle", vec![Want::Pooled { towers: vec![] }], |_, _, _| Ok(()));
//! let verdicts = of_adapter(&idle.configured(), &Configured::<dyn Backbone>::of(Toy::default())?);
//! // It says that it trains, and has nothing that does.
//! assert!(verdicts.iter().any(|v| matches!(v.outcome, Outcome::Broken(_))));
//! # Ok::<(), twinspan_sdk::Error>(())
//! ```

mod trial;

use std::fmt;

use crate::adapter::Adapter;
use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::plugin::Capabilities;
use crate::registry::{self, AdapterEntry, BackboneEntry, Configured, Kind, TaskEntry};
use crate::task::Task;

use trial::{Choice, Trial};

/// A law of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// Options, written as TOML with every default filled in, read as the same options.
    RoundTrip,
    /// Before training, the model gives what it gives without the adapter.
    Start,
    /// What trains gets a gradient, every bit of it, and nothing else does.
    Gradients,
    /// A model trained a little, saved and loaded gives the same bits.
    Saved,
    /// Pictures, sentences and pairs in another order give the results in that order. Sentences
    /// that an adapter knows by their places stay where they are.
    Permutation,
    /// The backbone over folded weights gives what the adapter gives beside the frozen ones.
    Merge,
    /// A few steps on one batch lower its loss, by what the adapter trains alone.
    Learning,
    /// Every place that the topology offers runs its hooks.
    Places,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Law::RoundTrip => "round trip",
            Law::Start => "identity at the start",
            Law::Gradients => "gradients",
            Law::Saved => "saved and loaded",
            Law::Permutation => "permutation",
            Law::Merge => "merged",
            Law::Learning => "learning",
            Law::Places => "places",
        })
    }
}

/// How a law went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Held,
    /// It was not put, for this reason.
    Skipped(String),
    /// It does not hold: this is what was seen.
    Broken(String),
}

/// How one law went for one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// adapter, backbone or task.
    pub kind: &'static str,
    /// The plugin; of a union, the names joined by ` + `.
    pub plugin: String,
    /// The backbone it was tried on; none where the law needs no backbone.
    pub backbone: Option<&'static str>,
    /// The law.
    pub law: Law,
    /// How it went.
    pub outcome: Outcome,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.plugin)?;
        if let Some(backbone) = self.backbone {
            write!(f, " on {backbone}")?;
        }
        write!(f, ", {}: ", self.law)?;
        match &self.outcome {
            Outcome::Held => f.write_str("held"),
            Outcome::Skipped(why) => write!(f, "skipped, {why}"),
            Outcome::Broken(what) => write!(f, "BROKEN, {what}"),
        }
    }
}

/// Every law of every linked plugin: the adapters and tasks on each of `backbones`, these
/// backbones themselves, and the options of every backbone. In the order of kinds and names.
///
/// # Errors
/// A kind of plugin has none linked, or two share a name.
pub fn of_registry(backbones: &[Configured<dyn Backbone>]) -> Result<Vec<Verdict>> {
    let mut verdicts = round_trips::<BackboneEntry>()?;
    for backbone in backbones {
        verdicts.extend(of_backbone(backbone));
    }
    verdicts.extend(round_trips::<AdapterEntry>()?);
    for name in registry::names::<AdapterEntry>()? {
        let adapter = registry::configured::<AdapterEntry>(name, toml::Table::new())?;
        for backbone in backbones {
            verdicts.extend(of_adapter(&adapter, backbone));
        }
    }
    verdicts.extend(round_trips::<TaskEntry>()?);
    for name in registry::names::<TaskEntry>()? {
        let task = registry::configured::<TaskEntry>(name, toml::Table::new())?;
        for backbone in backbones {
            verdicts.extend(of_task(&task, backbone));
        }
    }
    Ok(verdicts)
}

/// [`Law::RoundTrip`] of the defaults of every linked plugin of a kind.
///
/// # Errors
/// None is linked, or two share a name.
pub fn round_trips<K: Kind>() -> Result<Vec<Verdict>> {
    let names = registry::names::<K>()?.into_iter();
    let verdict = |name: &str| Verdict {
        kind: K::KIND,
        plugin: name.to_string(),
        backbone: None,
        law: Law::RoundTrip,
        outcome: outcome(round_trip::<K>(name)),
    };
    Ok(names.map(verdict).collect())
}

fn round_trip<K: Kind>(name: &str) -> Result<Option<String>> {
    let full = registry::configured::<K>(name, toml::Table::new())?.options;
    let text = toml::to_string(&full).map_err(Error::plugin)?;
    let read = text.parse::<toml::Table>().map_err(Error::plugin)?;
    let again = registry::configured::<K>(name, read)?.options;
    Ok((again != full).then(|| {
        let strange = full
            .iter()
            .find(|(key, value)| again.get(*key) != Some(*value));
        let key = strange.map_or("an option", |(key, _)| key.as_str());
        format!("`{key}` is written as it is not read")
    }))
}

/// The laws of an adapter with its options, on a backbone with random weights. All but the
/// identity are put to parameters moved away from their start, where a fault shows.
pub fn of_adapter(
    adapter: &Configured<dyn Adapter>,
    backbone: &Configured<dyn Backbone>,
) -> Vec<Verdict> {
    of_union(std::slice::from_ref(adapter), backbone)
}

/// The laws of several adapters in one model: those that all of them promise. Where they
/// contradict each other, in the plan or when the model starts, every law is skipped, with the
/// error that says so.
pub fn of_union(
    adapters: &[Configured<dyn Adapter>],
    backbone: &Configured<dyn Backbone>,
) -> Vec<Verdict> {
    use Choice::{Put, Skip};
    let all = |promise: fn(&Capabilities) -> bool| {
        let mut promises = adapters.iter().map(|a| a.plugin.capabilities());
        promises.all(|promises| promise(&promises))
    };
    let if_declared = |declared: bool, reason: &str| match declared {
        true => Put,
        false => Skip(reason.to_string()),
    };
    let trains = !all(|promises| !promises.trainable);
    let trains = || if_declared(trains, "it declares no trainable parameters");
    let choices = [
        (
            Law::Start,
            if_declared(
                all(|promises| promises.identity_at_start),
                "it declares no identity at the start",
            ),
        ),
        (Law::Gradients, trains()),
        (Law::Saved, Put),
        (Law::Permutation, Put),
        (
            Law::Merge,
            if_declared(
                all(|promises| promises.mergeable),
                "it does not declare to be mergeable",
            ),
        ),
        (Law::Learning, trains()),
    ];
    let names: Vec<&str> = adapters.iter().map(|a| a.name).collect();
    let trial = Trial::of_adapters(adapters, backbone);
    judged("adapter", &names.join(" + "), backbone.name, choices, trial)
}

/// The laws of a backbone with its options and random weights, without an adapter.
pub fn of_backbone(backbone: &Configured<dyn Backbone>) -> Vec<Verdict> {
    let choices =
        [Law::Places, Law::Gradients, Law::Saved, Law::Permutation].map(|law| (law, Choice::Put));
    let trial = Trial::of_backbone(backbone);
    judged("backbone", backbone.name, backbone.name, choices, trial)
}

/// The laws of a task's head on a backbone with random weights. They need no data of the task:
/// the sum of squares of its logits stands for its loss.
pub fn of_task(task: &Configured<dyn Task>, backbone: &Configured<dyn Backbone>) -> Vec<Verdict> {
    let trial = Trial::of_task(task, backbone);
    let gradients = match &trial {
        Ok(trial) if !trial.trains() => Choice::Skip("its head has no parameters".into()),
        _ => Choice::Put,
    };
    let choices = [(Law::Gradients, gradients), (Law::Saved, Choice::Put)];
    judged("task", task.name, backbone.name, choices, trial)
}

/// The verdicts as lines, for printing.
pub fn table(verdicts: &[Verdict]) -> String {
    let lines: Vec<String> = verdicts.iter().map(Verdict::to_string).collect();
    lines.join("\n")
}

fn judged(
    kind: &'static str,
    plugin: &str,
    backbone: &'static str,
    choices: impl IntoIterator<Item = (Law, Choice)>,
    trial: Result<Trial>,
) -> Vec<Verdict> {
    let verdict = |(law, choice)| Verdict {
        kind,
        plugin: plugin.to_string(),
        backbone: Some(backbone),
        law,
        outcome: match (choice, &trial) {
            (Choice::Skip(reason), _) => Outcome::Skipped(reason),
            (Choice::Put, Ok(trial)) => match trial.put(law) {
                Err(error) if trial.is_union() && error.is_wrong_use() => {
                    Outcome::Skipped(error.to_string())
                }
                found => outcome(found),
            },
            (Choice::Put, Err(error)) if trial::is_refused(error) => {
                Outcome::Skipped(error.to_string())
            }
            (Choice::Put, Err(error)) => Outcome::Broken(error.to_string()),
        },
    };
    choices.into_iter().map(verdict).collect()
}

/// What a trial found wrong, if anything; an error is a fault too.
fn outcome(found: Result<Option<String>>) -> Outcome {
    match found {
        Ok(None) => Outcome::Held,
        Ok(Some(what)) => Outcome::Broken(what),
        Err(error) => Outcome::Broken(error.to_string()),
    }
}
