//! What can go wrong between a recipe and a tuned model.
//!
//! Owns the error of the contracts; files, key maps and tokenizers have their own. Each message
//! names the thing and, where there is a choice, the choices.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::file::FileError;
use crate::key_map::KeyMapError;
use crate::site::{Tap, Tower};
use crate::source::SourceError;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an adapter does not become part of the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its label.
    pub adapter: String,
    /// The first place at which it does not.
    pub place: String,
    /// The reason.
    pub why: String,
}

/// An error of the contracts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plugin's name is misspelt.
    #[error("there is no {kind} `{name}`{}; there are: {}", did_you_mean(.name, .known), .known.join(", "))]
    UnknownPlugin {
        /// backbone, adapter or task.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names registered.
        known: Vec<String>,
    },
    /// No plugin of a kind is registered.
    #[error(
        "no {kind} is registered: is the plugin crate linked? A crate that is only listed in Cargo.toml is not; write `use twinspan_{kind}s as _;` or use the crate `twinspan`"
    )]
    NoPlugins {
        /// backbone, adapter or task.
        kind: &'static str,
    },
    /// Two plugins of a kind share a name.
    #[error("two {kind}s are called `{name}`; a name must be free")]
    DuplicatePlugin {
        /// backbone, adapter or task.
        kind: &'static str,
        /// The shared name.
        name: String,
    },
    /// An option is misspelt or of the wrong type.
    #[error("{kind} `{name}`: {message}")]
    Options {
        /// backbone, adapter or task.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong, with the choices.
        message: String,
    },
    /// A recipe is not one.
    #[error("{origin}: {message}")]
    Recipe {
        /// File or `recipe`.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// An expression of adapters is not one.
    #[error("`{text}`, column {column}: {message}")]
    Expression {
        /// The expression.
        text: String,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong, with the choices.
        message: String,
    },
    /// An adapter's wish matches no place of the backbone.
    #[error("`{adapter}` matches no site: it asks for {asked}; the backbone offers {offered}")]
    NoSuchSite {
        /// The adapter's label.
        adapter: String,
        /// What it asked for.
        asked: String,
        /// What there is.
        offered: String,
    },
    /// A task reads what the backbone does not have.
    #[error("`{reader}` reads {tap}, which the backbone does not have: {offered}")]
    NoSuchTap {
        /// The adapter's label or `head`.
        reader: String,
        /// What it reads.
        tap: Tap,
        /// What there is.
        offered: String,
    },
    /// An adapter acts on what nobody reads.
    #[error(
        "`{adapter}` acts at {place}, which task `{task}` never reads: no gradient would reach it; restrict its sites"
    )]
    Unread {
        /// The adapter's label.
        adapter: String,
        /// Where it acts.
        place: String,
        /// The task.
        task: String,
    },
    /// A task reads items of a tower that depends on the pair.
    #[error(
        "task `{task}` reads {tap} by item, but with {} it depends on the pair of picture and sentence", and(.adapters)
    )]
    ItemsArePairs {
        /// The task.
        task: String,
        /// What it reads.
        tap: Tap,
        /// The labels of the adapters that look from one tower into the other.
        adapters: Vec<String>,
    },
    /// One tower is asked for alone, but it looks into the other.
    #[error(
        "{tap} cannot be had without {}: {} looks from one tower into the other; give both, or disable it", inputs(.tap.tower.other()), and(.adapters)
    )]
    OtherTower {
        /// What was asked for.
        tap: Tap,
        /// The labels of the adapters that look from one tower into the other.
        adapters: Vec<String>,
    },
    /// A tower runs but was given nothing.
    #[error("{} are needed, and none are given", inputs(*.tower))]
    NothingGiven {
        /// The tower.
        tower: Tower,
    },
    /// No adapter has this label.
    #[error("no adapter is labelled `{label}`{}; there are: {}", did_you_mean(.label, .known), listed(.known))]
    UnknownLabel {
        /// The label asked for.
        label: String,
        /// The labels there are.
        known: Vec<String>,
    },
    /// A part of what an adapter changes makes no sense.
    #[error("`{adapter}` cannot be scaled by {scale}: {why}; it can be enabled and disabled")]
    CannotScale {
        /// Its label.
        adapter: String,
        /// The scale asked for.
        scale: f64,
        /// Why.
        why: &'static str,
    },
    /// Similarities that depend on the pair need every pair.
    #[error(
        "where a tower reads the other, similarities need every pair of the batch: picture {picture} with sentence {sentence} is missing"
    )]
    PairMissing {
        /// A picture of the batch.
        picture: usize,
        /// The sentence it is not paired with.
        sentence: usize,
    },
    /// A parameter that trains got no gradient.
    #[error("parameter `{name}` trains but the loss does not reach it")]
    NoGradient {
        /// Its name.
        name: String,
    },
    /// What adapters read forms a cycle.
    #[error("{}", cyclic(.adapters, .cycle))]
    Cycle {
        /// The labels of the adapters on the cycle.
        adapters: Vec<String>,
        /// The places on the cycle.
        cycle: String,
    },
    /// An adapter asks for a stream that it does not declare.
    #[error("`{adapter}` looks at {tap} without saying so in `reads`")]
    UndeclaredRead {
        /// The adapter's label.
        adapter: String,
        /// What it looks at.
        tap: Tap,
    },
    /// A hook runs before what it reads.
    #[error("stream {tap} is read before it is there: hooks run within Tuned::forward only")]
    NotYetRead {
        /// The tap's number.
        tap: usize,
    },
    /// Two adapters reparametrise one weight.
    #[error("`{adapter}` reparametrises {site}, which another adapter reparametrises already")]
    SecondReparametrisation {
        /// The second adapter's label.
        adapter: String,
        /// The projection.
        site: String,
    },
    /// Two owners make one name.
    #[error("`{owner}` wants to train `{name}`, which `{by}` trains already")]
    NameTaken {
        /// The name.
        name: String,
        /// Who wants it.
        owner: String,
        /// Who has it.
        by: String,
    },
    /// A hook cannot become part of a weight: what it says itself. Whose it is says
    /// [`CannotMerge`](Self::CannotMerge).
    #[error("this adapter does not fold into the weight: {why}")]
    CannotFold {
        /// The reason.
        why: &'static str,
    },
    /// Adapters cannot become part of the weights.
    #[error("{}", unmerged(.refusals))]
    CannotMerge {
        /// One of each such adapter.
        refusals: Vec<Refusal>,
    },
    /// A tensor has another shape.
    #[error("{what} has shape {got:?}; expected {expected:?}")]
    Shape {
        /// The tensor.
        what: String,
        /// The shape expected.
        expected: Vec<usize>,
        /// Its shape.
        got: Vec<usize>,
    },
    /// The base lacks a tensor.
    #[error("the weights lack `{name}`")]
    WeightMissing {
        /// Its canonical name.
        name: String,
    },
    /// An artifact lacks a tensor.
    #[error("the artifact lacks `{name}`: was it made from another recipe?")]
    OverlayMissing {
        /// Its name.
        name: String,
    },
    /// An artifact has a tensor too many.
    #[error("the artifact holds `{name}`, which its recipe does not make")]
    OverlayUnknown {
        /// Its name.
        name: String,
    },
    /// An artifact was made on other weights.
    #[error("{model} was made on weights with digest {expected}, but these have {got}")]
    OtherBase {
        /// The artifact's folder.
        model: PathBuf,
        /// The digest in the artifact.
        expected: String,
        /// The digest of the weights at hand.
        got: String,
    },
    /// Training went wrong.
    #[error(
        "the loss or its gradient is {loss} at step {step}: lower train.rate or set train.clip"
    )]
    Diverged {
        /// Counted from 0.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// A device is not there.
    #[error("device `{name}`: {message}")]
    Device {
        /// The device asked for.
        name: String,
        /// Why it cannot be had.
        message: String,
    },
    /// A task's or backbone's own error.
    #[error("{message}")]
    Plugin {
        /// What went wrong, in one line.
        message: String,
        /// Whether the user asked for something that cannot be (exit code 2).
        wrong_use: bool,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Where a model's files are.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// Names of weights.
    #[error(transparent)]
    KeyMap(Box<KeyMapError>),
    /// A tensor operation.
    #[error("{}", first_line(.0))]
    Tensor(#[from] candle_core::Error),
}

// Boxed: it is the largest by far, and every result of this crate would carry its size.
impl From<KeyMapError> for Error {
    fn from(error: KeyMapError) -> Self {
        Error::KeyMap(Box::new(error))
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        Error::Source(Box::new(error))
    }
}

impl Error {
    /// A plugin's own error, from anything that reads as one line.
    pub fn plugin(error: impl std::fmt::Display) -> Self {
        Error::Plugin {
            message: error.to_string(),
            wrong_use: false,
        }
    }

    /// A plugin's own error about what the user asked for.
    pub fn wrong_use(error: impl std::fmt::Display) -> Self {
        Error::Plugin {
            message: error.to_string(),
            wrong_use: true,
        }
    }

    /// Whether the recipe or the call is wrong, as opposed to a failure on the way: the program
    /// exits with 2 then, and with 1 otherwise.
    pub fn is_wrong_use(&self) -> bool {
        use Error::*;
        match self {
            Plugin { wrong_use, .. } => *wrong_use,
            KeyMap(error) => matches!(**error, KeyMapError::NoEntry { .. }),
            Source(error) => {
                matches!(
                    **error,
                    SourceError::Neither { .. } | SourceError::NoId { .. }
                )
            }
            UnknownPlugin { .. }
            | Options { .. }
            | Recipe { .. }
            | Expression { .. }
            | NoSuchSite { .. }
            | NoSuchTap { .. }
            | Unread { .. }
            | ItemsArePairs { .. }
            | OtherTower { .. }
            | NothingGiven { .. }
            | UnknownLabel { .. }
            | CannotScale { .. }
            | CannotFold { .. }
            | CannotMerge { .. }
            | Cycle { .. }
            | SecondReparametrisation { .. }
            | NameTaken { .. }
            | Device { .. } => true,
            _ => false,
        }
    }
}

fn cyclic(adapters: &[String], cycle: &str) -> String {
    match adapters {
        [one] => format!("`{one}` reads what waits for itself ({cycle})"),
        many => format!(
            "{} cannot be combined: each waits for what the other changes ({cycle})",
            and(many)
        ),
    }
}

fn unmerged(refusals: &[Refusal]) -> String {
    let said = |r: &Refusal| format!("{} ({})", r.why, r.place);
    let lines = refusals
        .iter()
        .map(|r| format!("\n  `{}`: {}", r.adapter, said(r)));
    match refusals {
        [one] => format!(
            "`{}` does not fold into the weights: {}; merge without it, or use it beside the weights, as it was trained",
            one.adapter,
            said(one)
        ),
        many => format!(
            "{} adapters do not fold into the weights; merge without them, or use them beside the weights, as they were trained:{}",
            many.len(),
            lines.collect::<String>()
        ),
    }
}

fn inputs(tower: Tower) -> &'static str {
    match tower {
        Tower::Vision => "pictures",
        Tower::Text => "sentences",
    }
}

fn listed(labels: &[String]) -> String {
    match labels.is_empty() {
        true => "none".into(),
        false => labels.join(", "),
    }
}

fn and(adapters: &[String]) -> String {
    let quoted: Vec<String> = adapters.iter().map(|a| format!("`{a}`")).collect();
    quoted.join(" and ")
}

fn did_you_mean(name: &str, known: &[String]) -> String {
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!(" (did you mean `{near}`?)"),
        None => String::new(),
    }
}

/// The known name nearest to a misspelt one, when it is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::jaro_winkler(name, k), k))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// candle's errors carry a backtrace behind their first line.
fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or("").to_string()
}
