//! AdaLoRA (Zhang et al., 2023, arXiv 2303.10512): ranks that move to where they matter.
//!
//! ```text
//! W' = W + s·P·diag(λ)·Q        Q [r, in], λ [r], P [out, r], s = α / start rank
//! loss += w · mean(‖PᵀP − I‖ + ‖QQᵀ − I‖)/2        so that P and Q stay near orthogonal
//! ```
//!
//! After every step each triplet (column of P, λ, row of Q) is scored by its sensitivity |θ·∂L/∂θ|
//! and that sensitivity's uncertainty, both averaged over steps; of all sites together as many
//! triplets keep their λ as the budget allows, which falls from the start rank to the rank by
//! (1 − t)³. λ starts at 0, P and Q N(0, 0.02). Default sites: query and value of both towers.
//! Owns scores and budget; the arithmetic of the update is [`crate::low_rank`]'s. The averages are
//! kept with the model, so that a run can go on.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Installed, Life, Progress, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::{Buffer, Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::{Error, Result, ops, register};

use crate::low_rank::{LowRank, check};

/// Low-rank updates that share a budget of ranks.
///
/// ```
/// use twinspan_adapters::adalora::Adalora;
///
/// // A third of the way from 12 to 8 ranks a site, over 10 sites.
/// assert_eq!(Adalora::default().budget(10, 1.0 / 3.0), 91);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adalora {
    /// Mean rank of a site at the end.
    pub rank: usize,
    /// Rank of every site at the start.
    pub start_rank: usize,
    /// Strength α of the updates.
    pub alpha: f64,
    /// Steps before ranks begin to fall.
    pub warmup: usize,
    /// Steps at the end during which they stand still.
    pub cooldown: usize,
    /// Steps from one choice of ranks to the next.
    pub interval: usize,
    /// How much of their past the averages of sensitivity and of its uncertainty keep.
    pub betas: (f64, f64),
    /// Weight of the penalty on what is not orthogonal.
    pub orthogonality: f64,
    /// Dropout on what Q reads.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Adalora {
    fn default() -> Self {
        Self {
            rank: 8,
            start_rank: 12,
            alpha: 8.0,
            warmup: 0,
            cooldown: 0,
            interval: 1,
            betas: (0.85, 0.85),
            orthogonality: 0.5,
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Adalora {
    const NAME: &'static str = "adalora";
    const ABOUT: &'static str =
        "low-rank updates that share a budget of ranks (AdaLoRA, Zhang et al., 2023)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("rank", "integer", "mean rank of a site at the end"),
        Opt::new("start_rank", "integer", "rank of every site at the start"),
        Opt::new(
            "alpha",
            "number",
            "strength: the update counts alpha/start_rank",
        ),
        Opt::new("warmup", "integer", "steps before ranks begin to fall"),
        Opt::new("cooldown", "integer", "last steps, in which ranks stay"),
        Opt::new(
            "interval",
            "integer",
            "steps from one choice of ranks to the next",
        ),
        Opt::new(
            "betas",
            "list of two numbers",
            "what averages of sensitivity and of uncertainty keep of their past",
        ),
        Opt::new(
            "orthogonality",
            "number",
            "weight of the penalty in the loss",
        ),
        Opt::new("dropout", "number", "on what Q reads, while training"),
        Opt::sites("both towers, query and value"),
    ];
}

impl Adapter for Adalora {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            mergeable: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Projection::Query, Projection::Value],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        let mut triplets = Vec::new();
        for slot in slots.iter().filter_map(Slot::projection) {
            let params = &mut params.within(&slot.name);
            let (q, p) = LowRank::shapes(slot, self.start_rank);
            let drawn = Init::Normal(0.02);
            let mut scored =
                |name: &str, shape: &[usize], init| Scored::make(params, name, shape, init);
            let q = scored("q", &q, drawn)?;
            let lambda = scored("lambda", &[self.start_rank], Init::Zeros)?;
            let p = scored("p", &p, drawn)?;
            let (a, b) = (q.parameter.clone(), p.parameter.clone());
            let scale = self.alpha / self.start_rank as f64;
            hooks.update(
                slot,
                LowRank {
                    middle: Some(lambda.parameter.clone()),
                    dropout: self.dropout,
                    ..LowRank::new(slot, a, b, scale)
                },
            );
            triplets.push(Triplets { q, lambda, p });
        }
        Ok(Box::new(Budgeted {
            options: self.clone(),
            triplets,
        }))
    }
}

impl Adalora {
    /// Triplets that `sites` sites keep when the part `done` of the time from warm-up to
    /// cool-down is over.
    pub fn budget(&self, sites: usize, done: f64) -> usize {
        let (start, end) = (sites * self.start_rank, sites * self.rank);
        let left = (1.0 - done.clamp(0.0, 1.0)).powi(3);
        end + ((start - end) as f64 * left) as usize
    }

    fn check(&self, owner: &str) -> Result<()> {
        check(owner, self.rank, self.alpha, self.dropout)?;
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        if self.start_rank < self.rank {
            return wrong(format!(
                "start_rank = {} must be at least rank = {}",
                self.start_rank, self.rank
            ));
        }
        let (first, second) = self.betas;
        if ![first, second].iter().all(|beta| (0.0..1.0).contains(beta)) {
            return wrong(format!("betas = [{first}, {second}] must lie in [0, 1)"));
        }
        if self.interval == 0 {
            return wrong("interval must be above 0".into());
        }
        if !(self.orthogonality.is_finite() && self.orthogonality >= 0.0) {
            return wrong(format!(
                "orthogonality = {} must be 0 or above",
                self.orthogonality
            ));
        }
        Ok(())
    }
}

/// A parameter and the averages of its sensitivity and of that one's uncertainty.
struct Scored {
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
struct Triplets {
    q: Scored,
    lambda: Scored,
    p: Scored,
}

/// All sites, and how many of their triplets may count.
struct Budgeted {
    options: Adalora,
    triplets: Vec<Triplets>,
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
                "adalora: warmup = {warmup} and cooldown = {cooldown} leave none of {} steps for \
                 ranks to fall in",
                progress.steps
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
            kept[site][i] = 1.0;
        }
        for (triplets, kept) in self.triplets.iter().zip(kept) {
            let lambda = triplets.lambda.parameter.tensor(&Pass::predict())?;
            let kept = Tensor::from_vec(kept, lambda.dims(), &candle_core::Device::Cpu)?;
            let kept = kept.to_dtype(lambda.dtype())?.to_device(lambda.device())?;
            triplets.lambda.parameter.set(&(lambda * kept)?)?;
        }
        Ok(())
    }
}

register!(adapter: Adalora);
