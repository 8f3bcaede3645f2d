//! Adam and AdamW over the parameters of an overlay: in place on the CPU, composed of candle's
//! operations elsewhere.
//!
//! Owns the update rule and its state. Rates come from [`crate::schedule`] and the recipe's
//! groups; gradients from the caller.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Tensor, Var, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::parameter::Overlay;
use crate::recipe::{OptimizerChoice, TrainOptions};

/// Gradients by parameter name.
pub type Gradients = BTreeMap<String, Tensor>;

/// Adam (Kingma and Ba, 2015) or AdamW (Loshchilov and Hutter, 2019), as PyTorch computes them.
#[derive(Debug)]
pub struct Optimizer {
    choice: OptimizerChoice,
    betas: (f64, f64),
    epsilon: f64,
    groups: BTreeMap<String, Group>,
    moments: BTreeMap<String, Moments>,
    step: i32,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// The owner's learning rate, before the schedule.
    rate: f64,
    decay: f64,
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

impl Optimizer {
    /// An optimiser for everything that trains in `overlay`.
    ///
    /// # Errors
    /// A group names an owner that trains nothing.
    pub fn new(options: &TrainOptions, overlay: &Overlay) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, trained) in &overlay.trained {
            moments.insert(
                name.clone(),
                Moments {
                    first: trained.var.zeros_like()?,
                    second: trained.var.zeros_like()?,
                },
            );
        }
        let mut owners: Vec<&str> = overlay.trained.values().map(|t| t.owner.as_str()).collect();
        owners.sort_unstable();
        owners.dedup();
        if let Some(strange) = options
            .groups
            .keys()
            .find(|g| !owners.contains(&g.as_str()))
        {
            return Err(crate::Error::Recipe {
                origin: format!("train.groups.{strange}"),
                message: format!(
                    "nothing trains under this name; there are: {}",
                    owners.join(", ")
                ),
            });
        }
        let groups = owners
            .into_iter()
            .map(|owner| {
                let own = options.groups.get(owner).copied().unwrap_or_default();
                let rate = own.rate.unwrap_or(options.rate);
                let decay = own.weight_decay.unwrap_or(options.weight_decay);
                (owner.to_string(), Group { rate, decay })
            })
            .collect();
        Ok(Self {
            choice: options.optimizer,
            betas: options.betas,
            epsilon: options.epsilon,
            groups,
            moments,
            step: 0,
        })
    }

    /// The averages of gradients (`first.NAME`) and of their squares (`second.NAME`): with the
    /// number of steps, all that [`Optimizer::restore`] needs. The tensors are the optimiser's
    /// own, which the next step writes.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let moments = self.moments.iter();
        moments
            .flat_map(|(name, m)| {
                let first = (format!("first.{name}"), m.first.clone());
                [first, (format!("second.{name}"), m.second.clone())]
            })
            .collect()
    }

    /// Goes on from a state after `steps` steps.
    ///
    /// # Errors
    /// A tensor is missing or of another shape or element type.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>, steps: usize) -> Result<()> {
        for (name, moments) in &mut self.moments {
            let stored = |kind: &str, like: &Tensor| kept(state, &format!("{kind}.{name}"), like);
            *moments = Moments {
                first: stored("first", &moments.first)?,
                second: stored("second", &moments.second)?,
            };
        }
        self.step = i32::try_from(steps).map_err(crate::Error::plugin)?;
        Ok(())
    }

    /// One step at `factor` times the learning rates; every gradient is by the name of its
    /// parameter.
    ///
    /// # Errors
    /// An operation failed.
    pub fn step(&mut self, overlay: &Overlay, gradients: &Gradients, factor: f64) -> Result<()> {
        self.step += 1;
        let (b1, b2) = self.betas;
        for (name, trained) in &overlay.trained {
            let (Some(moments), Some(gradient)) = (self.moments.get_mut(name), gradients.get(name))
            else {
                continue;
            };
            let group = self.groups[&trained.owner];
            let coupled = self.choice == OptimizerChoice::Adam && group.decay > 0.0;
            let gradient = match coupled {
                true => (gradient + (trained.var.as_detached_tensor() * group.decay)?)?,
                false => gradient.clone(),
            };
            let gradient = gradient.detach().contiguous()?;
            let decay = match self.choice {
                OptimizerChoice::Adam => 0.0,
                OptimizerChoice::Adamw => group.decay,
            };
            let rate = factor * group.rate * trained.rate;
            let update = Update {
                rate,
                decay,
                epsilon: self.epsilon,
                correction: (1.0 - b1.powi(self.step), 1.0 - b2.powi(self.step)),
            };
            let first = Average {
                beta: b1,
                square: false,
            };
            let second = Average {
                beta: b2,
                square: true,
            };
            first.take(&mut moments.first, &gradient)?;
            second.take(&mut moments.second, &gradient)?;
            update.apply(&trained.var, moments)?;
        }
        Ok(())
    }
}

/// A copy of the tensor that a state keeps under `name`, which must be exactly like `like`.
pub(crate) fn kept(state: &BTreeMap<String, Tensor>, name: &str, like: &Tensor) -> Result<Tensor> {
    match state.get(name) {
        None => Err(crate::Error::plugin(format!("the state lacks `{name}`"))),
        Some(tensor) if tensor.dims() != like.dims() => Err(crate::Error::Shape {
            what: format!("`{name}` of the state"),
            expected: like.dims().to_vec(),
            got: tensor.dims().to_vec(),
        }),
        Some(tensor) if tensor.dtype() != like.dtype() => Err(crate::Error::plugin(format!(
            "`{name}` of the state is {:?}, and the model computes in {:?}",
            tensor.dtype(),
            like.dtype()
        ))),
        // Written in place from here on: it must share its memory with nobody.
        Some(tensor) => Ok(tensor.to_device(like.device())?.force_contiguous()?),
    }
}

/// avg ← β avg + (1 - β) g or (1 - β) g².
pub(crate) struct Average {
    pub beta: f64,
    pub square: bool,
}

impl Average {
    /// Takes `new`, which is contiguous, into `average`.
    pub(crate) fn take(&self, average: &mut Tensor, new: &Tensor) -> Result<()> {
        match average.device().is_cpu() {
            true => average.inplace_op2(new, self)?,
            false => *average = self.composed(average, new)?,
        }
        Ok(())
    }

    fn composed(&self, average: &Tensor, new: &Tensor) -> Result<Tensor> {
        let new = if self.square { new.sqr()? } else { new.clone() };
        Ok(((average * self.beta)? + (new * (1.0 - self.beta))?)?)
    }
}

/// θ ← θ - rate (m / c₁ / (√(v / c₂) + ε) + decay θ).
struct Update {
    rate: f64,
    decay: f64,
    epsilon: f64,
    correction: (f64, f64),
}

impl Update {
    fn apply(&self, value: &Var, moments: &Moments) -> Result<()> {
        let Moments { first, second } = moments;
        match value.device().is_cpu() {
            true => value.inplace_op3(first, second, self)?,
            false => value.set(&self.composed(&value.as_detached_tensor(), moments)?)?,
        }
        Ok(())
    }

    fn composed(&self, value: &Tensor, moments: &Moments) -> Result<Tensor> {
        let (c1, c2) = self.correction;
        let deviation = ((&moments.second / c2)?.sqrt()? + self.epsilon)?;
        let change = ((&moments.first * (self.rate / c1))? / deviation)?;
        Ok(((value * (1.0 - self.rate * self.decay))? - change)?)
    }
}

/// Elements a thread takes at once; the sums of different elements never mix.
const CHUNK: usize = 1 << 14;

macro_rules! average {
    ($t:ty, $op:expr, $average:expr, $gradient:expr) => {{
        let (beta, rest) = ($op.beta as $t, (1.0 - $op.beta) as $t);
        let square = $op.square;
        $average
            .par_chunks_mut(CHUNK)
            .zip($gradient.par_chunks(CHUNK))
            .for_each(|(average, gradient)| {
                for (a, g) in average.iter_mut().zip(gradient) {
                    let g = if square { g * g } else { *g };
                    *a = *a * beta + g * rest;
                }
            });
    }};
}

macro_rules! update {
    ($t:ty, $op:expr, $value:expr, $first:expr, $second:expr) => {{
        let rate = $op.rate as $t;
        let keep = (1.0 - $op.rate * $op.decay) as $t;
        let epsilon = $op.epsilon as $t;
        let (c1, c2) = ($op.correction.0 as $t, $op.correction.1 as $t);
        $value
            .par_chunks_mut(CHUNK)
            .zip($first.par_chunks(CHUNK))
            .zip($second.par_chunks(CHUNK))
            .for_each(|((value, first), second)| {
                for ((x, m), v) in value.iter_mut().zip(first).zip(second) {
                    *x = *x * keep - rate * (m / c1) / ((v / c2).sqrt() + epsilon);
                }
            });
    }};
}

fn whole<'a, T>(values: &'a [T], layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("the optimiser needs contiguous tensors"),
    }
}

fn whole_mut<'a, T>(values: &'a mut [T], layout: &Layout) -> candle_core::Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut values[start..end]),
        None => bail!("the optimiser needs contiguous tensors"),
    }
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "average"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        al: &Layout,
        gradient: &CpuStorage,
        gl: &Layout,
    ) -> candle_core::Result<()> {
        match (average, gradient) {
            (CpuStorage::F32(a), CpuStorage::F32(g)) => {
                average!(f32, self, whole_mut(a, al)?, whole(g, gl)?);
            }
            (CpuStorage::F64(a), CpuStorage::F64(g)) => {
                average!(f64, self, whole_mut(a, al)?, whole(g, gl)?);
            }
            _ => bail!(
                "the optimiser computes in {:?} or {:?}",
                DType::F32,
                DType::F64
            ),
        }
        Ok(())
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(
        &self,
        value: &mut CpuStorage,
        xl: &Layout,
        first: &CpuStorage,
        ml: &Layout,
        second: &CpuStorage,
        vl: &Layout,
    ) -> candle_core::Result<()> {
        match (value, first, second) {
            (CpuStorage::F32(x), CpuStorage::F32(m), CpuStorage::F32(v)) => {
                update!(f32, self, whole_mut(x, xl)?, whole(m, ml)?, whole(v, vl)?);
            }
            (CpuStorage::F64(x), CpuStorage::F64(m), CpuStorage::F64(v)) => {
                update!(f64, self, whole_mut(x, xl)?, whole(m, ml)?, whole(v, vl)?);
            }
            _ => bail!(
                "the optimiser computes in {:?} or {:?}",
                DType::F32,
                DType::F64
            ),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::parameter::Init;

    fn far(a: &Tensor, b: &Tensor) -> f64 {
        let apart = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        apart.max(0).unwrap().to_scalar::<f64>().unwrap()
    }

    /// What runs where there is no kernel gives what the kernels give, step after step.
    #[test]
    fn composed_steps_are_those_of_the_kernels() {
        let n = CHUNK / 3 + 5;
        let normal = |seed| {
            let init = Init::Normal(1.0);
            init.tensor(seed, "x", &[n, 3], DType::F64, &Device::Cpu)
                .unwrap()
        };
        let var = Var::from_tensor(&normal(0)).unwrap();
        let zeros = || Tensor::zeros((n, 3), DType::F64, &Device::Cpu).unwrap();
        let mut moments = Moments {
            first: zeros(),
            second: zeros(),
        };
        let mut value = var.as_detached_tensor().copy().unwrap();
        let mut composed = Moments {
            first: zeros(),
            second: zeros(),
        };
        let (beta, square) = (0.9, false);
        let first = Average { beta, square };
        let (beta, square) = (0.98, true);
        let second = Average { beta, square };
        for step in 1..4 {
            let gradient = normal(step as u64);
            let update = Update {
                rate: 0.1,
                decay: 0.05,
                epsilon: 1e-8,
                correction: (1.0 - 0.9f64.powi(step), 1.0 - 0.98f64.powi(step)),
            };
            first.take(&mut moments.first, &gradient).unwrap();
            second.take(&mut moments.second, &gradient).unwrap();
            update.apply(&var, &moments).unwrap();
            composed = Moments {
                first: first.composed(&composed.first, &gradient).unwrap(),
                second: second.composed(&composed.second, &gradient).unwrap(),
            };
            value = update.composed(&value, &composed).unwrap();
            assert!(far(&moments.first, &composed.first) < 1e-14);
            assert!(far(&moments.second, &composed.second) < 1e-14);
            assert!(far(var.as_tensor(), &value) < 1e-13);
        }
    }
}
