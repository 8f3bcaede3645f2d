//! The bottleneck of the branch methods: down to a few channels, a nonlinearity, up again.
//!
//! ```text
//! f(x) = s · (U a(D x + b) + c)      D [d, in], U [out, d], on the channels of tokens or of a map
//! ```
//!
//! Owns the arithmetic, with D and U stored whole or made of smaller parts ([`Matrix`]); where a
//! bottleneck is hung is [`place`]'s. How wide it is and how it starts is each method's own. No
//! plugin.

pub mod place;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::hooks::Channels;
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;

/// The nonlinearity a, of any shape, element by element.
pub type Nonlinearity = fn(&Tensor) -> candle_core::Result<Tensor>;

/// The choice of a nonlinearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// What the placement or the method has.
    #[default]
    Auto,
    /// max(x, 0).
    Relu,
    /// x Φ(x), exact.
    Gelu,
    /// x σ(1.702 x).
    QuickGelu,
}

impl Activation {
    /// The chosen one, or `own` where it is left open.
    pub fn or(self, own: Nonlinearity) -> Nonlinearity {
        match self {
            Activation::Auto => own,
            Activation::Relu => ops::relu,
            Activation::Gelu => ops::gelu,
            Activation::QuickGelu => ops::quick_gelu,
        }
    }
}

/// A matrix `[out, in]`, however it is stored.
pub trait Matrix: Send + Sync + 'static {
    /// Its values within `pass`.
    ///
    /// # Errors
    /// An operation failed.
    fn values(&self, pass: &Pass) -> Result<Tensor>;
}

impl Matrix for Parameter {
    fn values(&self, pass: &Pass) -> Result<Tensor> {
        self.tensor(pass)
    }
}

/// W x + b on channels: a linear layer of tokens, a 1x1 convolution of a map.
pub struct Pointwise<M = Parameter> {
    weight: M,
    bias: Parameter,
    channels: Channels,
}

impl Pointwise {
    /// A new layer from `input` to `output` channels with a bias of zeros.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(
        params: &mut Params,
        (input, output): (usize, usize),
        channels: Channels,
        start: Init,
    ) -> Result<Self> {
        let weight = params.trained("weight", &[output, input], start)?;
        Self::over(weight, output, params, channels)
    }
}

impl<M: Matrix> Pointwise<M> {
    /// A layer over `weight`, with a new bias of zeros for its `output` channels.
    ///
    /// # Errors
    /// The name is taken.
    pub fn over(weight: M, output: usize, params: &mut Params, channels: Channels) -> Result<Self> {
        Ok(Self {
            weight,
            bias: params.trained("bias", &[output], Init::Zeros)?,
            channels,
        })
    }

    /// `[B, N, in]` to `[B, N, out]`, or `[B, in, H, W]` to `[B, out, H, W]`.
    ///
    /// # Errors
    /// The width differs.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (self.weight.values(pass)?, self.bias.tensor(pass)?);
        Ok(match self.channels {
            Channels::Last => ops::linear(x, &weight, Some(&bias))?,
            Channels::Map => {
                let (output, input) = weight.dims2()?;
                let kernel = weight.reshape((output, input, 1, 1))?;
                ops::conv2d(x, &kernel, Some(&bias), Conv::default())?
            }
        })
    }
}

/// s · up(a(down x)).
pub struct Bottleneck<M = Parameter> {
    /// To d channels.
    pub down: Pointwise<M>,
    /// The nonlinearity.
    pub activation: Nonlinearity,
    /// Dropout behind it.
    pub dropout: f64,
    /// To the output's channels.
    pub up: Pointwise<M>,
    /// The factor s.
    pub scale: f64,
}

impl<M: Matrix> Bottleneck<M> {
    /// The same layout as `x`, with the channels of `up`.
    ///
    /// # Errors
    /// The width differs.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let narrow = (self.activation)(&self.down.forward(x, pass)?)?;
        let narrow = ops::dropout(&narrow, pass.dropout(self.dropout))?;
        let wide = self.up.forward(&narrow, pass)?;
        Ok(match self.scale == 1.0 {
            true => wide,
            false => (wide * self.scale)?,
        })
    }
}

/// The narrow width d for `channels`: at least one, and a whole multiple of `of`.
pub fn narrowed(channels: usize, reduction: usize, of: usize) -> usize {
    (channels / reduction.max(1))
        .max(1)
        .next_multiple_of(of.max(1))
}
