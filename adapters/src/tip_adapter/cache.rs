//! The cache of Tip-Adapter: training pictures as keys, their classes as values.
//!
//! ```text
//! logits' = logits + α·exp(-β·(1 - f·Kᵀ))·V
//! ```
//!
//! Owns K and V, their start from the training data and the pass through them. How many there are,
//! and whether K trains, is [`super`]'s.

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::adapter::{Life, Source, Training};
use twinspan_sdk::hooks::LogitsHook;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::task::Batch;
use twinspan_sdk::tuned::Inputs;
use twinspan_sdk::{Result, ops};

use super::TipAdapter;
use crate::setting::wrong;

/// Pictures that go through the model together.
const TOGETHER: usize = 8;
const ONE_EACH: &str = "it takes one sentence and at least one picture of each class";

/// K and V.
#[derive(Clone)]
pub(super) struct Cache {
    keys: Parameter,
    values: Parameter,
    options: TipAdapter,
    owner: String,
}

impl Cache {
    /// Empty, for unit vectors of so many channels.
    pub fn make(options: &TipAdapter, width: usize, params: &mut Params) -> Result<Self> {
        let (keys, classes) = (options.keys, options.classes);
        Ok(Self {
            keys: match options.train_keys {
                true => params.trained("keys", &[keys, width], Init::Zeros)?,
                false => params.constant("keys", &[keys, width], Init::Zeros)?,
            },
            values: params.constant("values", &[keys, classes], Init::Zeros)?,
            options: options.clone(),
            owner: params.owner().to_string(),
        })
    }

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
        Err(wrong(&self.owner, message))
    }
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
            return Err(wrong(&self.owner, message));
        }
        let near = ops::linear(vision, &self.keys.tensor(pass)?, None)?;
        let say = ((near - 1.0)? * beta)?.exp()?;
        let cached = ops::linear(&say, &self.values.tensor(pass)?.t()?, None)?;
        Ok(ops::add(logits, &(cached * alpha)?)?)
    }
}

impl Life for Cache {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        let Some(Training { data, split }) = source.training else {
            let why = "its keys are the pictures of training data, and there is none";
            return Err(wrong(&self.owner, why));
        };
        let (keys, pictures) = (self.options.keys, data.len(split)?);
        if keys != pictures {
            let message = format!("keys = {keys}, and split `{split}` has {pictures} pictures");
            return Err(wrong(&self.owner, message));
        }
        let route = source.model.route(&[Tap::vision(At::Pooled)])?;
        if let [adapter, ..] = &route.crossing()[..] {
            let message = format!(
                "with `{adapter}` a picture's vector depends on the sentence; keys are of pictures alone"
            );
            return Err(wrong(&self.owner, message));
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

/// The class of each picture of a batch of so many.
pub(super) fn classes_of(owner: &str, batch: &Batch, pictures: usize) -> Result<Vec<u32>> {
    let single = batch.images.dim(0)? == pictures;
    match &batch.target {
        Some(target) if single && target.dtype() == DType::U32 && target.dims() == [pictures] => {
            Ok(target.to_vec1()?)
        }
        _ => Err(wrong(
            owner,
            "the task's data tells no class of each picture, and each key belongs to one",
        )),
    }
}
