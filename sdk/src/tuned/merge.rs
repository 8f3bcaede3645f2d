//! Merging: weights that give without adapters what a model gives with them.
//!
//! Owns which values the merged weights are and where a bias goes that folding makes; the
//! arithmetic of one projection is [`crate::hooks`]'s, names and files are
//! [`crate::weights`]'s.
//!
//! | what an adapter changes | in the merged weights |
//! |---|---|
//! | a projection's input, weight, rows, output | its weight and bias |
//! | a norm's output | weight and bias of every projection that reads it |
//! | an existing parameter | in the place of the base's |
//! | branches, streams, keys and values, both towers, pooled vectors, similarities, a path around a projection | nothing: an error that names the adapter |
//!
//! Strengths count: of a scaled adapter the part that acts is folded, of a disabled one nothing.
//! A bias that a projection without one would need has no place in the base, and is an error too:
//! other software would not read it. A table of words takes it into its rows.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{Compute, Tuned};
use crate::backbone::Weights;
use crate::base::Base;
use crate::error::{Error, Refusal, Result};
use crate::hooks::{Folding, Operator};
use crate::layers::{Conv2d, Embedding, Linear};
use crate::ops::Conv;
use crate::parameter::Overlay;
use crate::pass::Pass;
use crate::recipe::Recipe;
use crate::topology::{Origin, ParameterInfo, ProjectionInfo, Shape};

/// The largest finite number in half precision.
const MOST_F16: f64 = 65504.0;

/// A model's weights with its adapters in them, on the CPU, in the element type that the model
/// computes in; what nothing changed has the values and the type of the base.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The tensors of the base under their canonical names.
    pub weights: BTreeMap<String, Tensor>,
    /// Parameters of the backbone that no base holds ([`Origin::Fresh`]): a file of weights lacks
    /// them.
    pub fresh: BTreeMap<String, Tensor>,
    /// Biases that folding made at projections that have none, by the projection's name.
    pub biases: BTreeMap<String, Bias>,
    /// What each adapter that acts became part of, by canonical names; in the order of the recipe.
    pub folded: Vec<(String, Vec<String>)>,
    /// Running statistics that trained.
    pub statistics: Vec<String>,
    base: Base,
}

/// A bias without a place.
#[derive(Clone, Debug)]
pub struct Bias {
    /// `[out]`.
    pub value: Tensor,
    /// The labels of the adapters that made it.
    pub adapters: Vec<String>,
}

impl Tuned {
    /// The base with every adapter that acts folded in, existing parameters that train and
    /// running statistics in their places. The head is the task's, and no part of it.
    ///
    /// ```
    /// use twinspan_sdk::testkit::{self, ToyTask};
    ///
    /// let recipe = testkit::recipe(ToyTask::default(), Vec::new())?;
    /// let tuned = testkit::tuned(&recipe)?;
    /// let merged = tuned.merge()?;
    /// assert_eq!(merged.stored(None)?.len(), tuned.base.len());
    /// let again = merged.model(&recipe, tuned.compute())?;
    /// assert_eq!(again.base.digest()?, tuned.base.digest()?);
    /// # Ok::<(), twinspan_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CannotMerge`] names each adapter that does not fold, and why; of several at one
    /// projection the first.
    pub fn merge(&self) -> Result<Merged> {
        let overlay = self.weighed_overlay()?;
        let mut merged = self.with_existing(&overlay)?;
        let Compute { dtype, device } = self.compute();
        let weights = Weights::new(&self.base, &overlay, &self.topology, dtype, &device);
        let mut refusals = self.hooks.beside_weights(&self.topology);
        for info in self.topology.projections() {
            let operator = operator(&weights, info)?;
            let pass = Pass::predict();
            match (self.hooks).fold(&self.topology, info, operator.as_ref(), &pass) {
                Ok(None) => {}
                Ok(Some(folding)) => merged.put(info, folding)?,
                Err(Error::CannotMerge { refusals: more }) => refusals.extend(more),
                Err(other) => return Err(other),
            }
        }
        match refusals.is_empty() {
            true => Ok(merged),
            false => Err(cannot(refusals)),
        }
    }

    /// The base with what the overlay holds of it in the base's place.
    fn with_existing(&self, overlay: &Overlay) -> Result<Merged> {
        let acting = self.labels().filter(|label| self.acts(label));
        let mut merged = Merged {
            weights: BTreeMap::new(),
            fresh: BTreeMap::new(),
            biases: BTreeMap::new(),
            folded: acting
                .map(|label| (label.to_string(), Vec::new()))
                .collect(),
            statistics: Vec::new(),
            base: self.base.clone(),
        };
        for info in self.topology.parameters() {
            let name = &info.name;
            let own = own(overlay, name).map(|value| value.to_device(&Device::Cpu)?.copy());
            let value = match (own.transpose()?, self.base.get(name)) {
                (Some(own), _) => own,
                (None, Some(frozen)) => frozen.convert(frozen.precision(), &Device::Cpu)?,
                (None, None) => return Err(Error::WeightMissing { name: name.clone() }),
            };
            merged.place(info, value);
            if let Some(trained) = self.overlay.trained.get(name) {
                merged.note(&trained.owner, name);
            }
            if overlay.buffers.contains_key(name) {
                merged.statistics.push(name.clone());
            }
        }
        Ok(merged)
    }
}

/// What the overlay holds under a name, detached.
fn own(overlay: &Overlay, name: &str) -> Option<Tensor> {
    let kept = overlay.buffers.get(name).or(overlay.constants.get(name));
    match overlay.trained.get(name) {
        Some(trained) => Some(trained.var.as_detached_tensor()),
        None => kept.map(|buffer| buffer.tensor()),
    }
}

fn operator(weights: &Weights, info: &ProjectionInfo) -> Result<Box<dyn Operator>> {
    let name = &info.name;
    Ok(match info.shape {
        Shape::Linear => Box::new(Linear::load(weights, name)?),
        Shape::Embedding => Box::new(Embedding::load(weights, name)?),
        Shape::Conv {
            stride, padding, ..
        } => Box::new(Conv2d::load(weights, name, Conv { stride, padding })?),
    })
}

/// One refusal for each adapter, the first.
fn cannot(refusals: Vec<Refusal>) -> Error {
    let mut first: Vec<Refusal> = Vec::new();
    for refusal in refusals {
        if !first.iter().any(|r| r.adapter == refusal.adapter) {
            first.push(refusal);
        }
    }
    Error::CannotMerge { refusals: first }
}

impl Merged {
    fn place(&mut self, info: &ParameterInfo, value: Tensor) {
        let kept = match info.origin {
            Origin::Fresh(_) => &mut self.fresh,
            _ => &mut self.weights,
        };
        kept.insert(info.name.clone(), value);
    }

    /// Notes what an adapter that acts became part of.
    fn note(&mut self, adapter: &str, name: &str) {
        if let Some((_, names)) = self.folded.iter_mut().find(|(label, _)| label == adapter) {
            names.push(name.to_string());
        }
    }

    fn put(&mut self, info: &ProjectionInfo, folding: Folding) -> Result<()> {
        let name = &info.name;
        for adapter in &folding.adapters {
            self.note(adapter, &format!("{name}.weight"));
        }
        self.replace(&format!("{name}.weight"), &folding.folded.weight)?;
        let Some(bias) = folding.folded.bias else {
            return Ok(());
        };
        if !self.replace(&format!("{name}.bias"), &bias)? {
            let bias = Bias {
                value: bias.to_device(&Device::Cpu)?,
                adapters: folding.shifting,
            };
            self.biases.insert(name.clone(), bias);
        }
        Ok(())
    }

    /// Puts a value in the place of one that is there; false where there is none.
    fn replace(&mut self, name: &str, value: &Tensor) -> Result<bool> {
        let places = [&mut self.weights, &mut self.fresh];
        let mut places = places.into_iter().filter_map(|held| held.get_mut(name));
        match places.next() {
            Some(place) => *place = value.to_device(&Device::Cpu)?.contiguous()?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// The tensors as a file holds them: in `dtype`, or each in the element type of the base,
    /// values of which there are more digits rounded.
    ///
    /// # Errors
    /// [`Error::CannotMerge`] where a bias has no place; a value is too large for the type.
    pub fn stored(&self, dtype: Option<DType>) -> Result<BTreeMap<String, Tensor>> {
        self.has_places()?;
        let mut stored = BTreeMap::new();
        for (name, value) in &self.weights {
            let own = self.base.get(name).map(|frozen| frozen.precision());
            let to = dtype.or(own).unwrap_or(value.dtype());
            fits(name, value, to)?;
            stored.insert(name.clone(), value.to_dtype(to)?);
        }
        Ok(stored)
    }

    /// The model that `recipe`, one of the same backbone, makes over these weights.
    ///
    /// # Errors
    /// The recipe is of another backbone.
    pub fn model(&self, recipe: &Recipe, compute: Compute) -> Result<Tuned> {
        self.model_over(&self.weights, recipe, compute)
    }

    /// The same over `weights`, such as [`stored`](Self::stored) gives.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn model_over(
        &self,
        weights: &BTreeMap<String, Tensor>,
        recipe: &Recipe,
        compute: Compute,
    ) -> Result<Tuned> {
        let tuned = Tuned::new(recipe, Base::from_tensors(weights.clone()), compute)?;
        for (name, value) in &self.fresh {
            let overlay = &tuned.overlay;
            let kept = overlay.buffers.get(name).or(overlay.constants.get(name));
            if let Some(kept) = kept {
                let Compute { dtype, device } = tuned.compute();
                kept.set(&value.to_dtype(dtype)?.to_device(&device)?)?;
            }
        }
        Ok(tuned)
    }

    /// Refuses adapters that made a bias where the base has no place for one.
    fn has_places(&self) -> Result<()> {
        let refusals = self.biases.iter().flat_map(|(projection, bias)| {
            bias.adapters.iter().map(move |adapter| Refusal {
                adapter: adapter.clone(),
                place: projection.clone(),
                why: "its shift would become a bias, and the layer has none".into(),
            })
        });
        let refusals: Vec<Refusal> = refusals.collect();
        match refusals.is_empty() {
            true => Ok(()),
            false => Err(cannot(refusals)),
        }
    }
}

/// Refuses a value that half precision makes infinite.
fn fits(name: &str, value: &Tensor, dtype: DType) -> Result<()> {
    if dtype != DType::F16 || value.dtype() == DType::F16 || value.elem_count() == 0 {
        return Ok(());
    }
    let largest = value.to_dtype(DType::F64)?.abs()?.max_all()?;
    let largest = largest.to_scalar::<f64>()?;
    match largest > MOST_F16 {
        true => Err(Error::wrong_use(format!(
            "`{name}` holds a value of {largest}, and f16 ends at {MOST_F16}: write the weights in f32 or bf16"
        ))),
        false => Ok(()),
    }
}
