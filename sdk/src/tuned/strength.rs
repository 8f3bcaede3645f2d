//! Adapters of a model by their labels: on, off, a part of each.
//!
//! Owns what of an adapter counts, and what "a part" means:
//!
//! | what the adapter changes | scaled by s |
//! |---|---|
//! | inputs, outputs, norms, branches, pooled vectors, logits, both streams of a bridge | y + s·(hooked(y) − y) |
//! | weights (an update, a path around) | W + s·ΔW |
//! | rows of a weight (DoRA) | 1 + s·(factor − 1) |
//! | existing parameters | base + s·(trained − base), taken when it is set |
//! | tokens, keys and values put in | no part makes sense: an error |
//!
//! Labels are resolved here, when something is set; a forward pass meets numbers in the hooks.
//! Strengths are a choice of the running process: no artifact stores them.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{Compute, Tuned};
use crate::backbone::{Weights, value_in};
use crate::error::{Error, Result};
use crate::hooks::part;
use crate::parameter::{Buffer, Overlay};
use crate::recipe::Recipe;
use crate::topology::{Origin, ParameterInfo};

/// Whether an adapter is on, and by what it is scaled then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Strength {
    on: bool,
    scale: f64,
}

impl Default for Strength {
    /// All of it.
    fn default() -> Self {
        Self {
            on: true,
            scale: 1.0,
        }
    }
}

impl Strength {
    pub fn value(self) -> f64 {
        match self.on {
            true => self.scale,
            false => 0.0,
        }
    }
}

impl Tuned {
    /// The labels of the adapters, in the order of the recipe: each one's name, numbered from the
    /// second of a name on.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.strengths.iter().map(|(label, _)| label.as_str())
    }

    /// How much of an adapter counts: its scale, 0 while it is disabled.
    ///
    /// # Errors
    /// No adapter has this label.
    pub fn strength(&self, label: &str) -> Result<f64> {
        Ok(self.strengths[self.place(label)?].1.value())
    }

    /// Lets an adapter act again, scaled as it was.
    ///
    /// # Errors
    /// No adapter has this label.
    pub fn enable(&mut self, label: &str) -> Result<()> {
        let place = self.place(label)?;
        let scale = self.strengths[place].1.scale;
        self.weigh(place, Strength { on: true, scale })
    }

    /// Lets an adapter stand by: until it is enabled, the model gives bit for bit what it gives
    /// without the adapter, and a tower that only this adapter made look at the other runs alone.
    ///
    /// # Errors
    /// No adapter has this label.
    pub fn disable(&mut self, label: &str) -> Result<()> {
        let place = self.place(label)?;
        let scale = self.strengths[place].1.scale;
        self.weigh(place, Strength { on: false, scale })
    }

    /// Lets `scale` times what an adapter changes count: 1 is the adapter as it was trained, and
    /// 0 as good as disabled. Numbers above 1 and below 0 extrapolate.
    ///
    /// # Errors
    /// No adapter has this label; `scale` is not finite; it is neither 0 nor 1 and the adapter
    /// puts tokens into a stream or keys and values into an attention.
    pub fn scale(&mut self, label: &str, scale: f64) -> Result<()> {
        let place = self.place(label)?;
        let why = match scale.is_finite() {
            false => Some("a scale is a finite number"),
            true if scale == 0.0 || scale == 1.0 => None,
            true => self.hooks.indivisible(place),
        };
        if let Some(why) = why {
            return Err(Error::CannotScale {
                adapter: label.to_string(),
                scale,
                why,
            });
        }
        let on = self.strengths[place].1.on;
        self.weigh(place, Strength { on, scale })
    }

    /// The recipe and the model without one adapter, on the same base: nothing is read anew, and
    /// every other value of the overlay stays as it is. Labels close up (`lora-2` may become
    /// `lora`), and so do the names in the overlay.
    ///
    /// `recipe` is the recipe that this model was made from.
    ///
    /// # Errors
    /// No adapter has this label, or the recipe is another model's.
    pub fn without(&self, recipe: &Recipe, label: &str) -> Result<(Recipe, Tuned)> {
        let place = self.place(label)?;
        let smaller = recipe.without(place);
        let mut tuned = Tuned::new(&smaller, self.base.clone(), self.compute())?;
        let mut kept = self.strengths.clone();
        kept.remove(place);
        let renamed: Vec<(String, String)> = kept
            .iter()
            .zip(smaller.labels())
            .map(|((old, _), new)| (format!("{old}."), format!("{new}.")))
            .collect();
        let gone = format!("{label}.");
        let starts = tuned.overlay.tensors();
        let mut values = BTreeMap::new();
        for (name, value) in self.overlay.tensors() {
            let moved = renamed
                .iter()
                .find(|(old, _)| name.starts_with(old.as_str()));
            let trained = self.overlay.trained.get(&name);
            if let Some((old, new)) = moved {
                values.insert(format!("{new}{}", &name[old.len()..]), value);
            } else if name.starts_with(&gone) {
                continue;
            } else if trained.is_some_and(|t| t.owner == label) {
                // An existing parameter: it is the base's again, or fresh as it was.
                values.extend(starts.get(&name).map(|start| (name, start.clone())));
            } else {
                values.insert(name, value);
            }
        }
        tuned.overlay.restore(&values)?;
        for (place, (_, strength)) in kept.into_iter().enumerate() {
            if strength != Strength::default() {
                tuned.weigh(place, strength)?;
            }
        }
        Ok((smaller, tuned))
    }

    /// Whether the adapter with this label is on, and scaled by more than 0.
    pub(super) fn acts(&self, label: &str) -> bool {
        let named = self.strengths.iter().find(|(l, _)| l == label);
        named.is_none_or(|(_, strength)| strength.value() != 0.0)
    }

    fn place(&self, label: &str) -> Result<usize> {
        let place = self.labels().position(|l| l == label);
        place.ok_or_else(|| Error::UnknownLabel {
            label: label.to_string(),
            known: self.labels().map(String::from).collect(),
        })
    }

    fn weigh(&mut self, place: usize, strength: Strength) -> Result<()> {
        let (label, here) = &mut self.strengths[place];
        if *here == strength {
            return Ok(());
        }
        let label = label.clone();
        *here = strength;
        self.hooks.weigh(place, strength.value());
        self.lay_way()?;
        let parameters = self.topology.parameters();
        let mut existing = parameters.filter_map(|p| self.overlay.trained.get(&p.name));
        if existing.any(|t| t.owner == label) {
            let overlay = self.weighed_overlay()?;
            let Compute { dtype, device } = self.compute();
            let weights = Weights::new(&self.base, &overlay, &self.topology, dtype, &device);
            self.encoders = self.backbone.load(&weights)?;
        }
        Ok(())
    }

    /// The overlay as the towers see it: of an existing parameter, the part that counts.
    pub(super) fn weighed_overlay(&self) -> Result<Overlay> {
        let mut overlay = self.overlay.clone();
        for info in self.topology.parameters() {
            let Some(trained) = self.overlay.trained.get(&info.name) else {
                continue;
            };
            let owner = self.strengths.iter().find(|(l, _)| *l == trained.owner);
            let strength = owner.map_or(1.0, |(_, s)| s.value());
            if strength == 1.0 {
                continue;
            }
            overlay.trained.remove(&info.name);
            if strength == 0.0 && !matches!(info.origin, Origin::Fresh(_)) {
                continue;
            }
            let start = self.start_of(info)?;
            let value = part(&start, trained.var.as_detached_tensor(), strength)?;
            let kept = Buffer::new(&value)?;
            overlay.constants.insert(info.name.clone(), kept);
        }
        Ok(overlay)
    }

    /// The value of an existing parameter before anything trained it.
    fn start_of(&self, info: &ParameterInfo) -> Result<Tensor> {
        let Compute { dtype, device } = self.compute();
        match &info.origin {
            Origin::Fresh(init) => init.tensor(self.seed, &info.name, &info.shape, dtype, &device),
            _ => Ok(value_in(&self.base, info)?
                .to_dtype(dtype)?
                .to_device(&device)?),
        }
    }
}
