//! The toy's transformer block, the same in both towers.
//!
//! Owns what a block of a backbone must do with hooks: every projection through its own, the
//! norms, branches before and after the layer scale, and more keys and values than queries.

use candle_core::Tensor;

use crate::backbone::Weights;
use crate::error::Result;
use crate::hooks::{BranchView, PlaceHooks, Scale};
use crate::layers::{LayerNorm, Linear};
use crate::ops::{self, Dropout, Mask};
use crate::parameter::Parameter;
use crate::pass::Pass;
use crate::site::{Branch, Projection};
use crate::stream::{Form, Stream};

pub(super) struct ToyBlock {
    norms: [LayerNorm; 2],
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
    scales: [Parameter; 2],
    heads: usize,
    causal: bool,
}

impl ToyBlock {
    pub(super) fn load(weights: &Weights, name: &str, heads: usize, causal: bool) -> Result<Self> {
        let linear = |part: &str| Linear::load(weights, &format!("{name}.{part}"));
        let norm = |part: &str| LayerNorm::load(weights, &format!("{name}.{part}"));
        let scale = |part: &str| weights.parameter(&format!("{name}.{part}"));
        Ok(Self {
            norms: [norm("norm1")?, norm("norm2")?],
            query: linear("query")?,
            key: linear("key")?,
            value: linear("value")?,
            output: linear("output")?,
            up: linear("up")?,
            down: linear("down")?,
            scales: [scale("scale1")?, scale("scale2")?],
            heads,
            causal,
        })
    }

    pub(super) fn forward(&self, x: Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let x = self.branch(0, Branch::Attention, x, hooks, pass)?;
        self.branch(1, Branch::Mlp, x, hooks, pass)
    }

    fn branch(
        &self,
        index: usize,
        branch: Branch,
        x: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        let normed = self.norms[index].forward(&x.data, pass)?;
        let normed = hooks.normed(branch, normed, pass)?;
        let y = match branch {
            Branch::Attention => self.attention(&normed, &x, hooks, pass)?,
            _ => self.mlp(&normed, hooks, pass)?,
        };
        let view = BranchView {
            stream: &x,
            input: &x.data,
            normed: &normed,
        };
        let y = hooks.branch(branch, Scale::Before, view, y, pass)?;
        let y = ops::mul(&y, &self.scales[index].tensor(pass)?)?;
        let y = hooks.branch(branch, Scale::After, view, y, pass)?;
        Ok(x.with(ops::add(&x.data, &y)?))
    }

    fn attention(
        &self,
        normed: &Tensor,
        x: &Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let project = |which, linear: &Linear, pass: &mut Pass| {
            hooks.projection(which).forward(linear, normed, pass)
        };
        let q = project(Projection::Query, &self.query, pass)?;
        let k = project(Projection::Key, &self.key, pass)?;
        let v = project(Projection::Value, &self.value, pass)?;
        let (k, v) = hooks.key_value(k, v, pass)?;
        let padding = padding(x, k.dim(1)?)?;
        let mask = Mask {
            causal: self.causal,
            padding: padding.as_ref(),
        };
        let y = ops::attention(&q, &k, &v, self.heads, mask, Dropout::default())?;
        let output = hooks.projection(Projection::Output);
        output.forward(&self.output, &y, pass)
    }

    fn mlp(&self, normed: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let up = hooks.projection(Projection::Up);
        let y = up.forward(&self.up, normed, pass)?;
        let y = ops::quick_gelu(&y)?;
        let down = hooks.projection(Projection::Down);
        down.forward(&self.down, &y, pass)
    }
}

/// The stream's padding for `keys` keys: what hooks put in front is shown.
fn padding(x: &Stream, keys: usize) -> Result<Option<Tensor>> {
    let Form::Tokens {
        padding: Some(mask),
        ..
    } = &x.form
    else {
        return Ok(None);
    };
    let (b, n) = mask.dims2()?;
    Ok(Some(match keys.saturating_sub(n) {
        0 => mask.clone(),
        more => {
            let shown = Tensor::zeros((b, more), mask.dtype(), mask.device())?;
            Tensor::cat(&[&shown, mask], 1)?
        }
    }))
}
