//! Pooling by a probe: a learned query that looks at all patches, and an MLP behind it.
//!
//! Owns SigLIP's head of the vision tower ("multihead attention pooling", Zhai et al.,
//! arXiv 2106.04560, appendix A) and its dense form.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::backbone::Weights;
use twinspan_sdk::declare::{Declared, Layer};
use twinspan_sdk::hooks::PlaceHooks;
use twinspan_sdk::layers::{LayerNorm, Linear};
use twinspan_sdk::ops::{self, Dropout, Mask};
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Projection, Role};

use crate::block::Activation;

/// The sizes of a probe, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// Width D of the tokens and of the joint space.
    pub width: usize,
    /// Heads; they divide the width.
    pub heads: usize,
    /// Width inside the MLP.
    pub mlp: usize,
    pub activation: Activation,
    /// Of the norm in front of the MLP.
    pub eps: f64,
}

impl Probe {
    /// `vision.pool.probe` `[D]`, `vision.pool.{query,key,value,output}`, `vision.pool.norm`,
    /// `vision.pool.{up,down}`. Only pooling asks for query and key.
    pub fn declare(&self, declared: &mut Declared) {
        let (width, pooled, both) = (self.width, [At::Pooled], [At::Final, At::Pooled]);
        declared.parameter("vision.pool.probe", &[width], Role::Class, &pooled);
        let mut layer = |projection: Projection, input, output, used: &[At]| {
            let layer = Layer::linear(used[0], projection, input, output);
            declared.layer(&format!("vision.pool.{projection}"), layer, used);
        };
        layer(Projection::Query, width, width, &pooled);
        layer(Projection::Key, width, width, &pooled);
        layer(Projection::Value, width, width, &both);
        layer(Projection::Output, width, width, &both);
        layer(Projection::Up, width, self.mlp, &both);
        layer(Projection::Down, self.mlp, width, &both);
        declared.norm("vision.pool.norm", width, &both);
    }
}

/// A probe over the patches of a picture.
pub(crate) struct ProbePool {
    shape: Probe,
    /// `[D]`.
    probe: Parameter,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl ProbePool {
    pub fn load(weights: &Weights, shape: Probe) -> Result<Self> {
        let linear = |part: &str| Linear::load(weights, &format!("vision.pool.{part}"));
        Ok(Self {
            shape,
            probe: weights.parameter("vision.pool.probe")?,
            query: linear("query")?,
            key: linear("key")?,
            value: linear("value")?,
            output: linear("output")?,
            norm: LayerNorm::load(weights, "vision.pool.norm")?.with_eps(shape.eps),
            up: linear("up")?,
            down: linear("down")?,
        })
    }

    /// All tokens `[B, N, D]`, normed, to a vector `[B, D]`: the probe attends to them, and the
    /// MLP adds to what it found.
    pub fn pooled(&self, tokens: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let batch = tokens.dim(0)?;
        let probe = self.probe.tensor(pass)?;
        let probe = probe.broadcast_as((batch, 1, self.shape.width))?;
        let query = hooks.projection(Projection::Query);
        let query = query.forward(&self.query, &probe.contiguous()?, pass)?;
        let key = hooks.projection(Projection::Key);
        let key = key.forward(&self.key, tokens, pass)?;
        let value = hooks.projection(Projection::Value);
        let value = value.forward(&self.value, tokens, pass)?;
        let (heads, mask) = (self.shape.heads, Mask::default());
        let mixed = ops::attention(&query, &key, &value, heads, mask, Dropout::default())?;
        Ok(self.behind(&mixed, hooks, pass)?.squeeze(1)?)
    }

    /// Patches `[B, N, D]`, normed, each as if the probe looked at it alone: `[B, N, D]`.
    pub fn dense(&self, patches: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let value = hooks.projection(Projection::Value);
        let value = value.forward(&self.value, patches, pass)?;
        self.behind(&value, hooks, pass)
    }

    /// What lies behind the attention, token by token.
    fn behind(&self, mixed: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let output = hooks.projection(Projection::Output);
        let found = output.forward(&self.output, mixed, pass)?;
        let up = hooks.projection(Projection::Up);
        let inside = up.forward(&self.up, &self.norm.forward(&found, pass)?, pass)?;
        let inside = self.shape.activation.forward(&inside)?;
        let down = hooks.projection(Projection::Down);
        Ok(ops::add(&found, &down.forward(&self.down, &inside, pass)?)?)
    }
}
