//! Multi-head attention with its four projections.

use candle_core::Tensor;

use super::Linear;
use crate::error::Result;
use crate::ops::{self, Mask};
use crate::parameter::{Init, Params};
use crate::pass::Pass;

/// Multi-head attention (Vaswani et al., 2017) as torch's module computes it.
#[derive(Clone, Debug)]
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    dropout: f64,
}

impl Attention {
    /// A new layer with queries of width `width` and memory of width `memory`, in torch's start:
    /// the in-projections Xavier-uniform (as one fused matrix where the widths agree) with zero
    /// biases, the output projection by `output`.
    ///
    /// # Errors
    /// A name is taken, or the heads do not divide the width.
    pub fn make(
        params: &mut Params,
        width: usize,
        memory: usize,
        heads: usize,
        dropout: f64,
        output: Init,
    ) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(crate::Error::wrong_use(format!(
                "{}: {heads} heads do not divide a width of {width}",
                params.owner()
            )));
        }
        let fused = width == memory;
        let mut project = |name: &str, input: usize| -> Result<Linear> {
            let fan_out = if fused { 3 * width } else { width };
            let init = Init::Xavier {
                fan_in: input,
                fan_out,
            };
            Linear::make(&mut params.within(name), input, width, init)
        };
        Ok(Self {
            query: project("query", width)?,
            key: project("key", memory)?,
            value: project("value", memory)?,
            output: Linear::make(&mut params.within("output"), width, width, output)?,
            heads,
            dropout,
        })
    }

    /// Queries `[B, N, D]` attend to keys and values `[B, M, ..]`; `padding` is `u8 [B, M]`,
    /// 1 where a key is hidden. Dropout acts on the probabilities.
    ///
    /// # Errors
    /// The widths differ.
    pub fn forward(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        padding: Option<&Tensor>,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let q = self.query.forward(query, pass)?;
        let k = self.key.forward(key, pass)?;
        let v = self.value.forward(value, pass)?;
        let mask = Mask {
            causal: false,
            padding,
        };
        let dropout = pass.dropout(self.dropout);
        let y = ops::attention(&q, &k, &v, self.heads, mask, dropout)?;
        self.output.forward(&y, pass)
    }
}
