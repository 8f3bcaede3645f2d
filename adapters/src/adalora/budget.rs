//! The life of AdaLoRA: scores of triplets from step to step, and which of them keep their λ.
//!
//! Owns the triplets, their averages, the penalty and the choice; how large the budget is is [`Adalora`]'s.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use twinspan_sdk::adapter::{Life, Progress, ProjectionSlot};
use twinspan_sdk::parameter::{Buffer, Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::{Error, Result, ops};

use super::Adalora;
use crate::low_rank::LowRank;

/// A parameter and the averages of its sensitivity and of that one's uncertainty.
pub(super) struct Scored {
    parameter: Parameter,
    sensitivity: Buffer,
    uncertainty: Buffer,
}

impl Scored {
    fn make(params: &mut Params, name: &str, shape: &[usize], init: Init) -> Result<Self> {
        Ok(Self {
            parameter: params.trained(name, shape, init)?,
            sensitivity: params.buffer(&format!("{name}_sensitivity"), shape, Init::Zeros)?,
            uncertainty: params.buffer(&format!("{name}_uncertainty"), shape, Init::Zeros)?,
        })
    }

    /// Takes a step's gradient into the averages.
    fn note(&self, gradients: &GradStore, (first, second): (f64, f64)) -> Result<()> {
        let Parameter::Trained(var) = &self.parameter else {
            return Ok(());
        };
        let Some(gradient) = gradients.get(var) else {
            return Ok(());
        };
        let now = (var.as_detached_tensor() * gradient.detach())?.abs()?;
        let mean = |buffer: &Buffer, now: &Tensor, kept: f64| -> Result<Tensor> {
            Ok(((buffer.tensor() * kept)? + (now * (1.0 - kept))?)?)
        };
        let sensitivity = mean(&self.sensitivity, &now, first)?;
        let off = (now - &sensitivity)?.abs()?;
        self.uncertainty
            .set(&mean(&self.uncertainty, &off, second)?)?;
        self.sensitivity.set(&sensitivity)
    }

    /// The mean score of each triplet, its index being dimension `dim`.
    fn scores(&self, dim: usize) -> Result<Vec<f64>> {
        let score = (self.sensitivity.tensor() * self.uncertainty.tensor())?;
        let ranks = score.dim(dim)?;
        let rows = score.transpose(0, dim)?.contiguous()?;
        let rows = rows.reshape((ranks, rows.elem_count() / ranks))?;
        Ok(rows.mean(1)?.to_dtype(DType::F64)?.to_vec1()?)
    }

    /// ‖M·Mᵀ − I‖ of the parameter as a matrix M `[r, ..]`, its triplets being dimension `dim`.
    fn skew(&self, dim: usize, pass: &Pass) -> Result<Tensor> {
        let value = self.parameter.tensor(pass)?;
        let ranks = value.dim(dim)?;
        let value = value.transpose(0, dim)?.contiguous()?;
        let m = value.reshape((ranks, value.elem_count() / ranks))?;
        let one = Tensor::eye(ranks, m.dtype(), m.device())?;
        let off = ops::add(&ops::linear(&m, &m, None)?, &one.neg()?)?;
        Ok(off.sqr()?.sum_all()?.sqrt()?)
    }
}

/// The triplets of one site.
pub(super) struct Triplets {
    q: Scored,
    lambda: Scored,
    p: Scored,
}

impl Triplets {
    pub fn make(slot: &ProjectionSlot, rank: usize, params: &mut Params) -> Result<Self> {
        let (q, p) = LowRank::shapes(slot, rank);
        let drawn = Init::Normal(0.02);
        Ok(Self {
            q: Scored::make(params, "q", &q, drawn)?,
            lambda: Scored::make(params, "lambda", &[rank], Init::Zeros)?,
            p: Scored::make(params, "p", &p, drawn)?,
        })
    }

    /// s·P·diag(λ)·Q.
    pub fn update(&self, slot: &ProjectionSlot, scale: f64) -> LowRank {
        let (q, p) = (self.q.parameter.clone(), self.p.parameter.clone());
        LowRank {
            middle: Some(self.lambda.parameter.clone()),
            ..LowRank::new(slot, q, p, scale)
        }
    }
}

/// All sites, and how many of their triplets may count.
pub(super) struct Budgeted {
    /// The label of the adapter, for messages.
    pub owner: String,
    pub options: Adalora,
    pub triplets: Vec<Triplets>,
}

impl Life for Budgeted {
    fn penalty(&self, pass: &Pass) -> Result<Option<Tensor>> {
        if self.options.orthogonality == 0.0 {
            return Ok(None);
        }
        let mut sum: Option<Tensor> = None;
        for triplets in &self.triplets {
            for skew in [triplets.p.skew(1, pass)?, triplets.q.skew(0, pass)?] {
                sum = Some(match sum {
                    Some(sum) => ops::add(&sum, &skew)?,
                    None => skew,
                });
            }
        }
        let share = self.options.orthogonality / (2 * self.triplets.len()).max(1) as f64;
        Ok(sum.map(|sum| sum * share).transpose()?)
    }

    fn after_step(&mut self, progress: Progress, gradients: &GradStore) -> Result<()> {
        let Adalora {
            warmup,
            cooldown,
            interval,
            betas,
            ..
        } = self.options;
        let (step, last) = (progress.step + 1, progress.steps.saturating_sub(cooldown));
        if last <= warmup {
            return Err(Error::wrong_use(format!(
                "{}: warmup = {warmup} and cooldown = {cooldown} leave none of {} steps for \
                 ranks to fall in",
                self.owner, progress.steps
            )));
        }
        // Behind the last choice the ranks stay: what was struck out then is struck out again.
        if step <= last {
            for triplets in &self.triplets {
                for scored in [&triplets.q, &triplets.lambda, &triplets.p] {
                    scored.note(gradients, betas)?;
                }
            }
        }
        if step <= warmup || (step < last && !step.is_multiple_of(interval)) {
            return Ok(());
        }
        let done = (step.min(last) - warmup) as f64 / (last - warmup) as f64;
        self.keep(self.options.budget(self.triplets.len(), done))
    }
}

impl Budgeted {
    /// Strikes out λ of all but the `budget` triplets of the highest scores.
    fn keep(&self, budget: usize) -> Result<()> {
        let mut ranked = Vec::new();
        for (site, triplets) in self.triplets.iter().enumerate() {
            let (q, p) = (triplets.q.scores(0)?, triplets.p.scores(1)?);
            let scores = triplets.lambda.scores(0)?.into_iter().zip(q).zip(p);
            let scores = scores.map(|((lambda, q), p)| lambda + q + p);
            ranked.extend(scores.enumerate().map(|(i, score)| (score, site, i)));
        }
        // Where scores are equal, the earlier site and triplet stays.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut kept = vec![vec![0.0; self.options.start_rank]; self.triplets.len()];
        for (_, site, i) in ranked.into_iter().take(budget) {
            if let Some(kept) = kept.get_mut(site).and_then(|site| site.get_mut(i)) {
                *kept = 1.0;
            }
        }
        for (triplets, kept) in self.triplets.iter().zip(kept) {
            let lambda = triplets.lambda.parameter.tensor(&Pass::predict())?;
            let kept = Tensor::from_vec(kept, lambda.dims(), &Device::Cpu)?;
            let kept = kept.to_dtype(lambda.dtype())?.to_device(lambda.device())?;
            triplets.lambda.parameter.set(&(lambda * kept)?)?;
        }
        Ok(())
    }
}
