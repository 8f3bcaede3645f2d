//! What the prefixes of one tower's attentions are made from, when they are reparametrised.
//!
//! ```text
//! h = tanh(W_h E + b_h)        E [n, D] starts N(0, 1), h [n, m]
//! ```
//!
//! Owns the embedding and the layer behind it; what an attention makes of h is [`super`]'s.

use candle_core::Tensor;
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::{Result, ops};

/// E, W_h and b_h of a tower.
#[derive(Clone)]
pub(super) struct Perceptron {
    /// `[n, D]`.
    embedding: Parameter,
    layer: Linear,
}

impl Perceptron {
    pub fn make(params: &mut Params, length: usize, width: usize, hidden: usize) -> Result<Self> {
        Ok(Self {
            embedding: params.trained("embedding", &[length, width], Init::Normal(1.0))?,
            layer: Linear::make_uniform(&mut params.within("hidden"), width, hidden)?,
        })
    }

    /// h, `[n, m]`.
    pub fn hidden(&self, pass: &Pass) -> Result<Tensor> {
        let embedding = self.embedding.tensor(pass)?;
        Ok(ops::tanh(&self.layer.forward(&embedding, pass)?)?)
    }
}
