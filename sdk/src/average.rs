//! The exponential moving average of what trains.
//!
//! Owns the averages and their formula. When they are scored or saved is the run's business.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;
use crate::optimizer::{Average, kept};
use crate::parameter::Overlay;

/// Averages of the trained parameters, in their own element type.
///
/// After step t (from 1) an average becomes a ← d a + (1 - d) θ with d = min(decay, t / (t + 9)),
/// having started as θ before the first step: the first steps, in which the start would weigh
/// too much, are averaged over a shorter time. Buffers are not averaged: with the averages go the
/// running statistics of the last step.
#[derive(Debug)]
pub struct Averages {
    decay: f64,
    values: BTreeMap<String, Tensor>,
}

impl Averages {
    /// Averages that start as the present values.
    ///
    /// # Errors
    /// The device cannot hold them.
    pub fn new(decay: f64, overlay: &Overlay) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (name, trained) in &overlay.trained {
            values.insert(name.clone(), trained.var.as_detached_tensor().copy()?);
        }
        Ok(Self { decay, values })
    }

    /// Takes in the values after step `step`, counted from 1.
    ///
    /// # Errors
    /// An operation failed.
    pub fn update(&mut self, overlay: &Overlay, step: usize) -> Result<()> {
        let average = Average {
            beta: self.decay.min(step as f64 / (step as f64 + 9.0)),
            square: false,
        };
        for (name, value) in &mut self.values {
            if let Some(trained) = overlay.trained.get(name) {
                average.take(value, &trained.var.as_detached_tensor())?;
            }
        }
        Ok(())
    }

    /// Puts the averages into the overlay, and what was there into their place; done twice, all
    /// is as before.
    ///
    /// # Errors
    /// An operation failed.
    pub fn exchange(&mut self, overlay: &Overlay) -> Result<()> {
        for (name, value) in &mut self.values {
            if let Some(trained) = overlay.trained.get(name) {
                let other = trained.var.as_detached_tensor().copy()?;
                trained.var.set(value)?;
                *value = other;
            }
        }
        Ok(())
    }

    /// Takes `value.NAME` of a state, what trains while the overlay holds the averages, in the
    /// place of each; [`Averages::exchange`] then puts both where they belong.
    pub(crate) fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, value) in &mut self.values {
            *value = kept(state, &format!("value.{name}"), value)?;
        }
        Ok(())
    }
}
