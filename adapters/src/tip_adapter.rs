//! Tip-Adapter and Tip-Adapter-F (Zhang et al., 2022, arXiv 2207.09519): the pictures of a few
//! shots, remembered beside the similarities.
//!
//! ```text
//! logits' = logits + α·exp(-β·(1 - f·Kᵀ))·V
//! K [keys, E], unit vectors of the training pictures    V [keys, classes], their classes, one-hot
//! ```
//!
//! f is the picture's unit vector. Acts on the logits; defaults α 1.17, β 1. K and V start from the
//! training data, one view of each picture where the released code averages ten augmented ones, and
//! stay as they are where another adapter trains f. Nothing trains, or K does (`train_keys`,
//! Tip-Adapter-F). Sentence j of a batch is taken for class j: a task with several sentences a
//! class is refused. Owns options and sizes; the cache is `cache`'s, what the classes are is the
//! task's.

mod cache;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Training, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::{Error, Result, register};

use crate::setting::{check_factor, check_zero_or_above, flag, integer, number, wrong};
use cache::{Cache, classes_of};

/// A cache of training pictures.
///
/// ```
/// use twinspan_adapters::tip_adapter::TipAdapter;
/// use twinspan_sdk::adapter::Adapter;
///
/// let remembers = TipAdapter::default();
/// let learns = TipAdapter { train_keys: true, ..Default::default() };
/// assert!(!remembers.capabilities().trainable && learns.capabilities().trainable);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TipAdapter {
    /// How much the cache counts.
    pub alpha: f64,
    /// How fast its say falls with distance.
    pub beta: f64,
    /// Whether the keys train (Tip-Adapter-F).
    pub train_keys: bool,
    /// Pictures remembered; 0 for as many as train.
    pub keys: usize,
    /// Classes they are of; 0 for those of the data.
    pub classes: usize,
}

impl Default for TipAdapter {
    fn default() -> Self {
        Self {
            alpha: 1.17,
            beta: 1.0,
            train_keys: false,
            keys: 0,
            classes: 0,
        }
    }
}

impl Plugin for TipAdapter {
    const NAME: &'static str = "tip-adapter";
    const ABOUT: &'static str =
        "remembers the training pictures beside the similarities (Tip-Adapter, Zhang et al., 2022)";
    const OPTIONS: &'static [Opt] = &[
        number("alpha", "how much the cache counts"),
        number("beta", "how fast its say falls with distance"),
        flag(
            "train_keys",
            "whether the keys train (Tip-Adapter-F); else nothing does",
        ),
        integer(
            "keys",
            "pictures remembered; taken from the training data where 0",
        ),
        integer(
            "classes",
            "classes they are of; taken from the training data where 0",
        ),
    ];
}

impl Adapter for TipAdapter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            trainable: self.train_keys,
            by_class: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Logits]
    }

    /// With a key for each training picture and a class for each sentence beside them.
    fn fitted(&self, training: Training) -> Result<Option<toml::Table>> {
        if self.keys > 0 && self.classes > 0 {
            return Ok(None);
        }
        let first = training.data.evaluate(training.split, &[0])?;
        classes_of(Self::NAME, &first, 1)?;
        let mut fitted = self.clone();
        if self.keys == 0 {
            fitted.keys = training.data.len(training.split)?;
        }
        if self.classes == 0 {
            fitted.classes = first.tokens.dim(0)?;
        }
        let table = toml::Table::try_from(&fitted);
        table.map(Some).map_err(Error::plugin)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        let Some(slot) = slots.iter().find_map(Slot::logits) else {
            return Ok(Box::new(Idle));
        };
        let cache = Cache::make(self, slot.width, params)?;
        hooks.logits(cache.clone());
        Ok(Box::new(cache))
    }
}

impl TipAdapter {
    fn check(&self, owner: &str) -> Result<()> {
        check_factor(owner, "alpha", self.alpha)?;
        check_zero_or_above(owner, "beta", self.beta)?;
        let (keys, classes) = (self.keys, self.classes);
        if keys == 0 || classes == 0 {
            let sizes = format!("keys = {keys} and classes = {classes}");
            let message = format!("{sizes} are taken from training data; without any, set both");
            return Err(wrong(owner, message));
        }
        Ok(())
    }
}

register!(adapter: TipAdapter);
