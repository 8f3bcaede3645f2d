//! Parameters, buffers and where they are kept: the overlay of one tuned model.
//!
//! Owns trainable values, their starts and their names. The base is elsewhere
//! ([`Base`](crate::base::Base)) and never changes.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::pass::Pass;
use crate::random;

/// The most values of one made tensor; the largest in use, a table of words, has a quarter.
const MOST_VALUES: usize = 1 << 28;
/// The most tensors of one overlay.
const MOST_TENSORS: usize = 1 << 15;

/// How a new parameter starts. Drawn from the run's seed and the parameter's name alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// One value everywhere.
    Constant(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    /// Kaiming-normal with gain √2 over the fan-out: std = √(2 / fan).
    KaimingNormal {
        /// Output channels times the kernel's area.
        fan: usize,
    },
    /// Kaiming-uniform with slope √5, PyTorch's start of linear layers and convolutions: ±√(1 / fan).
    KaimingUniform {
        /// Input width times the kernel's area.
        fan: usize,
    },
    /// Xavier-uniform: ±√(6 / (fan_in + fan_out)).
    Xavier {
        /// Input width.
        fan_in: usize,
        /// Output width, of the fused matrix where there is one.
        fan_out: usize,
    },
}

impl Init {
    /// `n` values of the parameter `name` under `seed`.
    pub fn values(self, seed: u64, name: &str, n: usize) -> Vec<f64> {
        let key = random::key(seed, name);
        let uniform = |bound: f64| -> Vec<f64> {
            (0..n as u64)
                .map(|i| (2.0 * random::uniform(key, i) - 1.0) * bound)
                .collect()
        };
        let normal = |std: f64| -> Vec<f64> {
            (0..n as u64)
                .map(|i| random::normal(key, i) * std)
                .collect()
        };
        match self {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Constant(value) => vec![value; n],
            Init::Normal(std) => normal(std),
            Init::Uniform(bound) => uniform(bound),
            Init::KaimingNormal { fan } => normal((2.0 / fan.max(1) as f64).sqrt()),
            Init::KaimingUniform { fan } => uniform((1.0 / fan.max(1) as f64).sqrt()),
            Init::Xavier { fan_in, fan_out } => {
                uniform((6.0 / (fan_in + fan_out).max(1) as f64).sqrt())
            }
        }
    }

    /// The tensor of the parameter `name` under `seed`, drawn in f64 and rounded once.
    ///
    /// # Errors
    /// The device cannot hold it.
    pub fn tensor(
        self,
        seed: u64,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        if matches!(self, Init::Zeros) {
            return Ok(Tensor::zeros(shape, dtype, device)?);
        }
        let values = self.values(seed, name, shape.iter().product());
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }
}

/// A weight as a layer holds it: frozen in the base or trained in the overlay.
#[derive(Clone, Debug)]
pub enum Parameter {
    /// Never gets a gradient.
    Frozen {
        /// The weight.
        weight: Frozen,
        /// The element type the model computes in.
        dtype: DType,
        /// Where it computes.
        device: Device,
    },
    /// Never trained, kept in the overlay.
    Kept(Buffer),
    /// Trained.
    Trained(Var),
}

impl Parameter {
    /// A frozen parameter holding `tensor`.
    pub fn constant(tensor: &Tensor) -> Self {
        Parameter::Frozen {
            weight: Frozen::dense(tensor),
            dtype: tensor.dtype(),
            device: tensor.device().clone(),
        }
    }

    /// The value within `pass`: tracked where it is trained and the pass takes gradients,
    /// detached otherwise.
    ///
    /// # Errors
    /// A frozen weight cannot be converted to the model's element type.
    pub fn tensor(&self, pass: &Pass) -> Result<Tensor> {
        match self {
            Parameter::Trained(var) if pass.gradients => Ok(var.as_tensor().clone()),
            Parameter::Trained(var) => Ok(var.as_detached_tensor()),
            Parameter::Kept(buffer) => Ok(buffer.tensor()),
            Parameter::Frozen {
                weight,
                dtype,
                device,
            } => Ok(weight.tensor(*dtype, device)?),
        }
    }

    /// Writes another start, of the same shape: for [`Life::prepare`](crate::adapter::Life).
    ///
    /// # Errors
    /// The parameter is frozen, or the shape differs.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        let var = match self {
            Parameter::Trained(var) => var,
            Parameter::Kept(buffer) => &buffer.0,
            Parameter::Frozen { .. } => {
                return Err(Error::wrong_use("a frozen parameter cannot be written"));
            }
        };
        let value = value.to_dtype(var.dtype())?.to_device(var.device())?;
        Ok(var.set(&value.detach().force_contiguous()?)?)
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Parameter::Trained(var) => var.dims(),
            Parameter::Kept(buffer) => buffer.0.dims(),
            Parameter::Frozen { weight, .. } => weight.shape().dims(),
        }
    }
}

/// A value that training changes without a gradient: a running mean or variance, the averages
/// of an adapter's schedule.
#[derive(Clone, Debug)]
pub struct Buffer(Var);

impl Buffer {
    /// A buffer that starts as `value`.
    ///
    /// # Errors
    /// The device cannot hold it.
    pub fn new(value: &Tensor) -> Result<Self> {
        Ok(Self(Var::from_tensor(&value.detach())?))
    }

    /// The present value, detached.
    pub fn tensor(&self) -> Tensor {
        self.0.as_detached_tensor()
    }

    /// Writes a new value of the same shape.
    ///
    /// # Errors
    /// The shape differs.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        Ok(self.0.set(&value.detach().force_contiguous()?)?)
    }
}

/// A trained parameter in the overlay.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The value; the optimiser writes it.
    pub var: Var,
    /// The label of the adapter that owns it, or `head`.
    pub owner: String,
    /// Its learning rate over that of its owner's group (LoRA+).
    pub rate: f64,
}

/// What belongs to one tuned model beside the shared base: everything an artifact stores.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// Parameters that train, by name; copies of existing ones under their canonical names.
    pub trained: BTreeMap<String, Trained>,
    /// Buffers, by name; statistics of the base under their canonical names.
    pub buffers: BTreeMap<String, Buffer>,
    /// Values that never change and are not in the base (VeRA's matrices, ETRIS's `connect`).
    pub constants: BTreeMap<String, Buffer>,
}

impl Overlay {
    /// Values trained by `owner`.
    pub fn count(&self, owner: &str) -> usize {
        self.trained
            .values()
            .filter(|t| t.owner == owner)
            .map(|t| t.var.elem_count())
            .sum()
    }

    /// Everything in it by name: what an artifact stores.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let trained = self
            .trained
            .iter()
            .map(|(n, t)| (n.clone(), t.var.as_detached_tensor()));
        let buffers = self.buffers.iter().map(|(n, b)| (n.clone(), b.tensor()));
        let constants = self.constants.iter().map(|(n, b)| (n.clone(), b.tensor()));
        trained.chain(buffers).chain(constants).collect()
    }

    /// Writes stored values into an overlay of the same structure.
    ///
    /// # Errors
    /// A name is missing, unknown, or of another shape; nothing is written then.
    pub fn restore(&mut self, stored: &BTreeMap<String, Tensor>) -> Result<()> {
        let here = self.tensors();
        for (name, value) in &here {
            match stored.get(name) {
                None => return Err(Error::OverlayMissing { name: name.clone() }),
                Some(t) if t.dims() != value.dims() => {
                    return Err(Error::Shape {
                        what: name.clone(),
                        expected: value.dims().to_vec(),
                        got: t.dims().to_vec(),
                    });
                }
                Some(_) => {}
            }
        }
        if let Some(name) = stored.keys().find(|name| !here.contains_key(*name)) {
            return Err(Error::OverlayUnknown { name: name.clone() });
        }
        for (name, value) in stored {
            let like = &here[name];
            let value = value.to_dtype(like.dtype())?.to_device(like.device())?;
            if let Some(trained) = self.trained.get(name) {
                trained.var.set(&value.force_contiguous()?)?;
            } else if let Some(buffer) = self.buffers.get(name).or(self.constants.get(name)) {
                buffer.set(&value)?;
            }
        }
        Ok(())
    }
}

/// Where an adapter, a head or a backbone makes what it adds to the overlay.
///
/// Names grow by [`Params::within`]: the bridge of stage 0 makes `bridger.stages.0.…`.
#[derive(Debug)]
pub struct Params<'a> {
    overlay: &'a mut Overlay,
    owner: String,
    scope: String,
    rate: f64,
    seed: u64,
    planning: bool,
    dtype: DType,
    device: Device,
}

impl<'a> Params<'a> {
    /// A place in `overlay` for what `owner` makes. While planning, everything starts as zeros.
    pub fn new(
        overlay: &'a mut Overlay,
        owner: &str,
        seed: u64,
        planning: bool,
        dtype: DType,
        device: &Device,
    ) -> Self {
        Self {
            overlay,
            owner: owner.to_string(),
            scope: owner.to_string(),
            rate: 1.0,
            seed,
            planning,
            dtype,
            device: device.clone(),
        }
    }

    /// The label of the owner: the adapter's name, numbered where a recipe has it twice.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The element type the model computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same place with `name` appended to the names made there.
    pub fn within(&mut self, name: impl std::fmt::Display) -> Params<'_> {
        Params {
            overlay: &mut *self.overlay,
            owner: self.owner.clone(),
            scope: format!("{}.{name}", self.scope),
            rate: self.rate,
            seed: self.seed,
            planning: self.planning,
            dtype: self.dtype,
            device: self.device.clone(),
        }
    }

    /// The same place, whose parameters learn `factor` times as fast (LoRA+).
    pub fn rate(&mut self, factor: f64) -> Params<'_> {
        let mut this = self.within("");
        this.scope.pop();
        this.rate *= factor;
        this
    }

    /// A trained parameter.
    ///
    /// # Errors
    /// The name is taken.
    pub fn trained(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Parameter> {
        let name = format!("{}.{name}", self.scope);
        let var = self.start(&name, shape, init)?;
        self.insert_trained(name, var)
    }

    /// A buffer: saved with the model, changed without a gradient.
    ///
    /// # Errors
    /// The name is taken.
    pub fn buffer(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Buffer> {
        let name = format!("{}.{name}", self.scope);
        let buffer = Buffer(self.start(&name, shape, init)?);
        self.free(&name)?;
        self.overlay.buffers.insert(name, buffer.clone());
        Ok(buffer)
    }

    /// A value that is saved with the model and never changes.
    ///
    /// # Errors
    /// The name is taken.
    pub fn constant(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Parameter> {
        let name = format!("{}.{name}", self.scope);
        let kept = Buffer(self.start(&name, shape, init)?);
        self.free(&name)?;
        self.overlay.constants.insert(name, kept.clone());
        Ok(Parameter::Kept(kept))
    }

    /// Makes the existing parameter of `slot` trainable: a copy in the overlay under its
    /// canonical name, which the backbone's layers use in place of the base's.
    ///
    /// # Errors
    /// Another adapter trains it already.
    pub fn existing(&mut self, slot: &crate::adapter::ParameterSlot) -> Result<()> {
        // What is not in the base starts in the overlay, as a constant until now.
        let fresh = self.overlay.constants.remove(&slot.name);
        let var = match (fresh, &slot.value, self.planning) {
            (Some(fresh), ..) => fresh.0,
            (None, Some(value), false) => {
                let value = value.to_dtype(self.dtype)?.to_device(&self.device)?;
                Var::from_tensor(&value.detach())?
            }
            (None, _, true) => self.planned(&slot.shape)?,
            (None, None, false) => {
                return Err(Error::WeightMissing {
                    name: slot.name.clone(),
                });
            }
        };
        self.insert_trained(slot.name.clone(), var).map(|_| ())
    }

    fn insert_trained(&mut self, name: String, var: Var) -> Result<Parameter> {
        self.free(&name)?;
        self.overlay.trained.insert(
            name,
            Trained {
                var: var.clone(),
                owner: self.owner.clone(),
                rate: self.rate,
            },
        );
        Ok(Parameter::Trained(var))
    }

    fn start(&self, name: &str, shape: &[usize], init: Init) -> Result<Var> {
        self.room(name, shape)?;
        if self.planning {
            return self.planned(shape);
        }
        let value = init.tensor(self.seed, name, shape, self.dtype, &self.device)?;
        Ok(Var::from_tensor(&value)?)
    }

    /// A value of which a plan asks the shape alone, so all of one shape are one: a plan of ten
    /// gigabytes to train has a few shapes.
    fn planned(&self, shape: &[usize]) -> Result<Var> {
        let mut made = self.overlay.trained.values().map(|t| &t.var);
        match made.find(|var| var.dims() == shape) {
            Some(same) => Ok(same.clone()),
            None => Ok(Var::zeros(shape, self.dtype, &self.device)?),
        }
    }

    /// Refuses sizes that only a slip of the pen asks for, before memory is asked for them.
    fn room(&self, name: &str, shape: &[usize]) -> Result<()> {
        let values = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let kept = self.overlay.buffers.len() + self.overlay.constants.len();
        let held = self.overlay.trained.len() + kept;
        match values {
            Some(values) if values <= MOST_VALUES && held < MOST_TENSORS => Ok(()),
            _ => Err(Error::wrong_use(format!(
                "`{}` asks for {name} {shape:?}: a tensor may hold {MOST_VALUES} values, a model {MOST_TENSORS} tensors",
                self.owner
            ))),
        }
    }

    fn free(&self, name: &str) -> Result<()> {
        let taken = self.overlay.trained.get(name).map(|t| t.owner.clone());
        let taken = taken.or_else(|| {
            (self.overlay.buffers.contains_key(name) || self.overlay.constants.contains_key(name))
                .then(|| self.owner.clone())
        });
        match taken {
            Some(by) => Err(Error::NameTaken {
                name: name.to_string(),
                owner: self.owner.clone(),
                by,
            }),
            None => Ok(()),
        }
    }
}
