//! Layers over frozen, kept or trained parameters: what towers, adapters and heads are built of.
//!
//! Owns the pairing of an operation ([`crate::ops`]) with its parameters, made new
//! ([`Params`]) or found under a canonical name ([`Weights`]). Blocks of towers are the
//! backbones'.

mod attention;
mod norm;

pub use attention::Attention;
pub use norm::{BatchNorm, LayerNorm};

use candle_core::Tensor;

use crate::backbone::Weights;
use crate::error::Result;
use crate::hooks::{Channels, Operator};
use crate::ops::{self, Conv};
use crate::parameter::{Init, Parameter, Params};
use crate::pass::Pass;

/// y = W x + b on the last dimension; W `[out, in]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// A layer over given parameters.
    pub fn new(weight: Parameter, bias: Option<Parameter>) -> Self {
        Self { weight, bias }
    }

    /// The layer `name.weight`, `name.bias` of a backbone.
    ///
    /// # Errors
    /// The weights lack it.
    pub fn load(weights: &Weights, name: &str) -> Result<Self> {
        Ok(Self {
            weight: weights.parameter(&format!("{name}.weight"))?,
            bias: weights.optional(&format!("{name}.bias"))?,
        })
    }

    /// A new layer with a bias of zeros.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(params: &mut Params, input: usize, output: usize, init: Init) -> Result<Self> {
        Ok(Self {
            weight: params.trained("weight", &[output, input], init)?,
            bias: Some(params.trained("bias", &[output], Init::Zeros)?),
        })
    }

    /// PyTorch's start: weight and bias uniform in ±√(1/in).
    ///
    /// # Errors
    /// The name is taken.
    pub fn make_uniform(params: &mut Params, input: usize, output: usize) -> Result<Self> {
        let init = Init::KaimingUniform { fan: input };
        Ok(Self {
            weight: params.trained("weight", &[output, input], init)?,
            bias: Some(params.trained("bias", &[output], init)?),
        })
    }

    /// `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// The width differs.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        Operator::forward(self, x, pass)
    }

    fn apply(&self, x: &Tensor, bias: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        Ok(match &self.weight {
            Parameter::Frozen { weight, .. } => ops::linear_frozen(x, weight, bias)?,
            weight => ops::linear(x, &weight.tensor(pass)?, bias)?,
        })
    }
}

impl Operator for Linear {
    fn product(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.apply(x, None, pass)
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let bias = self.bias(pass)?;
        self.apply(x, bias.as_ref(), pass)
    }

    fn weight(&self, pass: &Pass) -> Result<Tensor> {
        self.weight.tensor(pass)
    }

    fn bias(&self, pass: &Pass) -> Result<Option<Tensor>> {
        self.bias.as_ref().map(|b| b.tensor(pass)).transpose()
    }

    fn channels(&self) -> Channels {
        Channels::Last
    }
}

/// A convolution; W `[out, in, k, k]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Parameter,
    bias: Option<Parameter>,
    conv: Conv,
}

impl Conv2d {
    /// A layer over given parameters.
    pub fn new(weight: Parameter, bias: Option<Parameter>, conv: Conv) -> Self {
        Self { weight, bias, conv }
    }

    /// The layer `name.weight`, `name.bias` of a backbone.
    ///
    /// # Errors
    /// The weights lack it.
    pub fn load(weights: &Weights, name: &str, conv: Conv) -> Result<Self> {
        Ok(Self {
            weight: weights.parameter(&format!("{name}.weight"))?,
            bias: weights.optional(&format!("{name}.bias"))?,
            conv,
        })
    }

    /// A new layer without a bias.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(
        params: &mut Params,
        input: usize,
        output: usize,
        kernel: usize,
        conv: Conv,
        init: Init,
    ) -> Result<Self> {
        Ok(Self {
            weight: params.trained("weight", &[output, input, kernel, kernel], init)?,
            bias: None,
            conv,
        })
    }

    /// The same layer with a bias.
    ///
    /// # Errors
    /// The name is taken.
    pub fn with_bias(mut self, params: &mut Params, init: Init) -> Result<Self> {
        let output = self.weight.dims()[0];
        self.bias = Some(params.trained("bias", &[output], init)?);
        Ok(self)
    }

    /// `[B, in, H, W]` to `[B, out, H', W']`.
    ///
    /// # Errors
    /// The channels differ or the map is smaller than the kernel.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        Operator::forward(self, x, pass)
    }
}

impl Operator for Conv2d {
    fn product(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        Ok(ops::conv2d(x, &self.weight.tensor(pass)?, None, self.conv)?)
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let bias = self.bias(pass)?;
        let weight = self.weight.tensor(pass)?;
        Ok(ops::conv2d(x, &weight, bias.as_ref(), self.conv)?)
    }

    fn weight(&self, pass: &Pass) -> Result<Tensor> {
        self.weight.tensor(pass)
    }

    fn bias(&self, pass: &Pass) -> Result<Option<Tensor>> {
        self.bias.as_ref().map(|b| b.tensor(pass)).transpose()
    }

    fn channels(&self) -> Channels {
        Channels::Map
    }
}

/// A transposed convolution without bias; W `[in, out, k, k]`.
#[derive(Clone, Debug)]
pub struct ConvTranspose2d {
    weight: Parameter,
    conv: Conv,
}

impl ConvTranspose2d {
    /// A new layer.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(
        params: &mut Params,
        input: usize,
        output: usize,
        kernel: usize,
        conv: Conv,
        init: Init,
    ) -> Result<Self> {
        let weight = params.trained("weight", &[input, output, kernel, kernel], init)?;
        Ok(Self { weight, conv })
    }

    /// `[B, in, H, W]` to `[B, out, H', W']`.
    ///
    /// # Errors
    /// The channels differ.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        Ok(ops::conv_transpose2d(
            x,
            &self.weight.tensor(pass)?,
            None,
            self.conv,
        )?)
    }
}

/// A table of embeddings `[vocabulary, D]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Parameter,
}

impl Embedding {
    /// A table over a given parameter.
    pub fn new(weight: Parameter) -> Self {
        Self { weight }
    }

    /// The table `name.weight` of a backbone.
    ///
    /// # Errors
    /// The weights lack it.
    pub fn load(weights: &Weights, name: &str) -> Result<Self> {
        Ok(Self {
            weight: weights.parameter(&format!("{name}.weight"))?,
        })
    }
}

impl Operator for Embedding {
    fn product(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (b, l) = x.dims2()?;
        let ids: Vec<u32> = x.flatten_all()?.to_vec1()?;
        let &[vocabulary, width] = self.weight.dims() else {
            return Err(crate::Error::wrong_use(format!(
                "a table of shape {:?} has no rows of words",
                self.weight.dims()
            )));
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(crate::Error::plugin(format!(
                "token id {id} is outside of the backbone's vocabulary of {vocabulary}: is the tokenizer the backbone's?"
            )));
        }
        let rows = match &self.weight {
            Parameter::Frozen {
                weight,
                dtype,
                device,
            } => weight.gather(&ids, *dtype, device)?,
            weight => ops::select(&weight.tensor(pass)?, &ids)?,
        };
        Ok(rows.reshape((b, l, width))?)
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.product(x, pass)
    }

    fn weight(&self, pass: &Pass) -> Result<Tensor> {
        self.weight.tensor(pass)
    }

    fn bias(&self, _pass: &Pass) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn is_table(&self) -> bool {
        true
    }

    fn channels(&self) -> Channels {
        Channels::Last
    }
}
