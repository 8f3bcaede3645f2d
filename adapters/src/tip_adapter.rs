//! Tip-Adapter and Tip-Adapter-F (Zhang et al., 2022, arXiv 2207.09519): the pictures of a few
//! shots, remembered beside the similarities.
//!
//! ```text
//! logits' = logits + α·exp(-β·(1 - f·Kᵀ))·V
//! K [keys, E], unit vectors of the training pictures    V [keys, classes], their classes, one-hot
//! ```
//!
//! f is the picture's unit vector. Acts on the logits; defaults α 1.17, β 1. K and V start from
//! the training data. Nothing trains, or K does (`train_keys`, Tip-Adapter-F). Sentence j of a
//! batch is taken for class j: a task with several sentences a class is refused. Owns the cache;
//! what the classes are is the task's.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Life, Slot, Source, Training, Want};
use twinspan_sdk::hooks::{Hooks, LogitsHook};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::task::Batch;
use twinspan_sdk::tuned::Inputs;
use twinspan_sdk::{Error, Result, register};

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
        Opt::new("alpha", "number", "how much the cache counts"),
        Opt::new("beta", "number", "how fast its say falls with distance"),
        Opt::new(
            "train_keys",
            "boolean",
            "whether the keys train (Tip-Adapter-F); else nothing does",
        ),
        Opt::new(
            "keys",
            "integer",
            "pictures remembered; taken from the training data where 0",
        ),
        Opt::new(
            "classes",
            "integer",
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
        let shape = [self.keys, slot.width];
        let cache = Cache {
            keys: match self.train_keys {
                true => params.trained("keys", &shape, Init::Zeros)?,
                false => params.constant("keys", &shape, Init::Zeros)?,
            },
            values: params.constant("values", &[self.keys, self.classes], Init::Zeros)?,
            options: self.clone(),
            owner: params.owner().to_string(),
        };
        hooks.logits(cache.clone());
        Ok(Box::new(cache))
    }
}

impl TipAdapter {
    fn check(&self, owner: &str) -> Result<()> {
        if !self.alpha.is_finite() {
            return wrong(owner, format!("alpha = {} must be a number", self.alpha));
        }
        if !(self.beta.is_finite() && self.beta >= 0.0) {
            return wrong(owner, format!("beta = {} must be 0 or above", self.beta));
        }
        if self.keys == 0 || self.classes == 0 {
            let message = format!(
                "keys = {} and classes = {} are taken from training data; without any, set both",
                self.keys, self.classes
            );
            return wrong(owner, message);
        }
        Ok(())
    }
}

/// K and V.
#[derive(Clone)]
struct Cache {
    keys: Parameter,
    values: Parameter,
    options: TipAdapter,
    owner: String,
}

impl LogitsHook for Cache {
    fn forward(
        &self,
        logits: &Tensor,
        vision: &Tensor,
        _text: &Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let TipAdapter {
            alpha,
            beta,
            classes,
            ..
        } = self.options;
        let (pictures, sentences) = logits.dims2()?;
        if sentences != classes || vision.dim(0)? != pictures {
            let message = format!("{sentences} sentences for {classes} classes; {ONE_EACH}");
            return wrong(&self.owner, message);
        }
        let near = ops::linear(vision, &self.keys.tensor(pass)?, None)?;
        let say = ((near - 1.0)? * beta)?.exp()?;
        let cached = ops::linear(&say, &self.values.tensor(pass)?.t()?, None)?;
        Ok(ops::add(logits, &(cached * alpha)?)?)
    }
}

/// Pictures that go through the model together.
const TOGETHER: usize = 8;
const ONE_EACH: &str = "it takes one sentence and at least one picture of each class";

impl Life for Cache {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        let Some(Training { data, split }) = source.training else {
            return wrong(
                &self.owner,
                "its keys are the pictures of training data, and there is none".into(),
            );
        };
        let (keys, pictures) = (self.options.keys, data.len(split)?);
        if keys != pictures {
            let message = format!("keys = {keys}, and split `{split}` has {pictures} pictures");
            return wrong(&self.owner, message);
        }
        let route = source.model.route(&[Tap::vision(At::Pooled)])?;
        if let [adapter, ..] = &route.crossing()[..] {
            let message = format!(
                "with `{adapter}` a picture's vector depends on the sentence; keys are of pictures alone"
            );
            return wrong(&self.owner, message);
        }
        let (mut vectors, mut classes) = (Vec::new(), Vec::new());
        let all: Vec<usize> = (0..pictures).collect();
        for indices in all.chunks(TOGETHER) {
            let batch = data.evaluate(split, indices)?;
            classes.extend(classes_of(&self.owner, &batch, indices.len())?);
            let given = Inputs {
                images: Some(batch.images),
                ..Default::default()
            };
            for stream in route.walk(&given, &mut Pass::predict())? {
                vectors.push(ops::unit(&stream.data)?);
            }
        }
        self.keys.set(&Tensor::cat(&vectors, 0)?)?;
        self.values.set(&self.one_hot(&classes)?)
    }
}

impl Cache {
    /// `[keys, classes]`: 1 at the class of each key.
    fn one_hot(&self, of_keys: &[u32]) -> Result<Tensor> {
        let classes = self.options.classes;
        let strange = of_keys.iter().find(|class| **class as usize >= classes);
        let unseen = (0..classes as u32).find(|class| !of_keys.contains(class));
        let problem = match (strange, unseen) {
            (Some(class), _) => format!("a picture is of class {class}"),
            (None, Some(class)) => format!("no picture is of class {class}"),
            (None, None) => {
                let all = Tensor::eye(classes, DType::F32, &Device::Cpu)?;
                return Ok(ops::select(&all, of_keys)?);
            }
        };
        let message = format!("{problem}, of {classes} counted from 0; {ONE_EACH}");
        wrong(&self.owner, message)
    }
}

/// The class of each picture of a batch of so many.
fn classes_of(owner: &str, batch: &Batch, pictures: usize) -> Result<Vec<u32>> {
    let single = batch.images.dim(0)? == pictures;
    match &batch.target {
        Some(target) if single && target.dtype() == DType::U32 && target.dims() == [pictures] => {
            Ok(target.to_vec1()?)
        }
        _ => wrong(
            owner,
            "the task's data tells no class of each picture, and each key belongs to one".into(),
        ),
    }
}

fn wrong<T>(owner: &str, message: String) -> Result<T> {
    Err(Error::wrong_use(format!("{owner}: {message}")))
}

register!(adapter: TipAdapter);
