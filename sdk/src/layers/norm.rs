//! Layer norm and batch norm, with their parameters and statistics.

use candle_core::Tensor;

use crate::backbone::Weights;
use crate::error::Result;
use crate::ops;
use crate::parameter::{Buffer, Init, Parameter, Params};
use crate::pass::Pass;

/// The eps of every norm in CLIP and ETRIS, and what a norm has unless told otherwise.
const EPS: f64 = 1e-5;
/// The share of a batch's statistics in the running ones (PyTorch's `momentum`).
const MOMENTUM: f64 = 0.1;

/// Layer norm over the last dimension (Ba et al., 2016), eps 1e-5 unless said otherwise.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f64,
}

impl LayerNorm {
    /// The layer `name.weight`, `name.bias` of a backbone.
    ///
    /// # Errors
    /// The weights lack it.
    pub fn load(weights: &Weights, name: &str) -> Result<Self> {
        Ok(Self {
            weight: weights.parameter(&format!("{name}.weight"))?,
            bias: weights.parameter(&format!("{name}.bias"))?,
            eps: EPS,
        })
    }

    /// A new layer: ones and zeros.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(params: &mut Params, width: usize) -> Result<Self> {
        Ok(Self {
            weight: params.trained("weight", &[width], Init::Ones)?,
            bias: params.trained("bias", &[width], Init::Zeros)?,
            eps: EPS,
        })
    }

    /// The same with another eps.
    #[must_use]
    pub fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// `[.., D]` normed.
    ///
    /// # Errors
    /// The width differs.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (self.weight.tensor(pass)?, self.bias.tensor(pass)?);
        Ok(ops::layer_norm(x, &weight, &bias, self.eps)?)
    }
}

/// Batch norm over all but the second dimension (Ioffe and Szegedy, 2015), eps 1e-5 unless said
/// otherwise, momentum 0.1, unbiased running variance.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Parameter,
    bias: Parameter,
    mean: Buffer,
    var: Buffer,
    trains: bool,
    eps: f64,
}

impl BatchNorm {
    /// The layer `name.{weight,bias,running_mean,running_var}` of a backbone. It uses its
    /// running statistics always, unless they are in the overlay: then as a trained one.
    ///
    /// # Errors
    /// The weights lack it.
    pub fn load(weights: &Weights, name: &str) -> Result<Self> {
        let (mean, trains) = weights.statistic(&format!("{name}.running_mean"))?;
        let (var, _) = weights.statistic(&format!("{name}.running_var"))?;
        Ok(Self {
            weight: weights.parameter(&format!("{name}.weight"))?,
            bias: weights.parameter(&format!("{name}.bias"))?,
            mean,
            var,
            trains,
            eps: EPS,
        })
    }

    /// A new layer, with the batch's statistics in training.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(params: &mut Params, width: usize) -> Result<Self> {
        Ok(Self {
            weight: params.trained("weight", &[width], Init::Ones)?,
            bias: params.trained("bias", &[width], Init::Zeros)?,
            mean: params.buffer("running_mean", &[width], Init::Zeros)?,
            var: params.buffer("running_var", &[width], Init::Ones)?,
            trains: true,
            eps: EPS,
        })
    }

    /// The same with another eps.
    #[must_use]
    pub fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// `[B, C, ..]` normed; in training the running statistics are noted in the pass.
    ///
    /// # Errors
    /// The channels differ, or a training batch has one value a channel.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (weight, bias) = (self.weight.tensor(pass)?, self.bias.tensor(pass)?);
        let (mean, var) = (self.mean.tensor(), self.var.tensor());
        if !(pass.train && self.trains) {
            return Ok(ops::batch_norm(x, &mean, &var, &weight, &bias, self.eps)?);
        }
        let (y, batch) = ops::batch_norm_train(x, &weight, &bias, self.eps)?;
        let blend = |old: &Tensor, new: &Tensor| (old * (1.0 - MOMENTUM))? + (new * MOMENTUM)?;
        pass.update(&self.mean, blend(&mean, &batch.mean)?);
        pass.update(&self.var, blend(&var, &batch.var_unbiased)?);
        Ok(y)
    }
}
