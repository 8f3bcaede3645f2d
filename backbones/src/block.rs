//! The residual block of a transformer with its norms in front, as both of CLIP's transformers
//! have it.
//!
//! Owns the block's shape, names and forward pass with every hook in its place. What lies before
//! the first block and behind the last is a tower's business.
//!
//! Source: <https://github.com/openai/CLIP>, `ResidualAttentionBlock`.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::backbone::Weights;
use twinspan_sdk::hooks::{BranchView, PlaceHooks, Scale};
use twinspan_sdk::layers::{LayerNorm, Linear};
use twinspan_sdk::ops::{self, Dropout, Mask};
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Branch, Projection, Role, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::topology::{BlockInfo, BranchInfo, StreamInfo};

use twinspan_sdk::declare::{Declared, Layer};

/// The nonlinearity inside an MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x σ(1.702 x): OpenAI's weights.
    #[default]
    QuickGelu,
    /// x Φ(x), exact: most of open_clip's weights.
    Gelu,
    /// The same by tanh: SigLIP's weights.
    GeluTanh,
}

impl Activation {
    /// Of any shape, element by element.
    ///
    /// # Errors
    /// The element type is no float.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::QuickGelu => ops::quick_gelu(x)?,
            Activation::Gelu => ops::gelu(x)?,
            Activation::GeluTanh => ops::gelu_tanh(x)?,
        })
    }
}

/// What the blocks of one transformer have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockShape {
    /// Width D of the tokens.
    pub width: usize,
    /// Heads of the attention; they divide the width.
    pub heads: usize,
    /// Width inside the MLP.
    pub mlp: usize,
    /// The nonlinearity inside the MLP.
    pub activation: Activation,
    /// Whether a token sees no later one.
    pub causal: bool,
    /// The eps of the norms: 1e-5 in CLIP, 1e-6 in SigLIP and DINOv2.
    pub eps: f64,
    /// Whether what a branch gives is multiplied by a vector before it is added (LayerScale,
    /// Touvron et al., arXiv 2103.17239): DINOv2.
    pub layer_scale: bool,
}

impl BlockShape {
    /// Declares block `index` of `tower`:
    /// `TOWER.blocks.I.attention.{norm,query,key,value,output}` and `….mlp.{norm,up,down}`; the
    /// layer scales are `….attention.scale` and `….mlp.scale`, `[D]`.
    pub fn declare(&self, declared: &mut Declared, tower: Tower, index: usize) {
        let (at, width) = (At::Block(index), self.width);
        let name = |part: &str| format!("{tower}.blocks.{index}.{part}");
        declared.norm(&name("attention.norm"), width, &[at]);
        for projection in [
            Projection::Query,
            Projection::Key,
            Projection::Value,
            Projection::Output,
        ] {
            let layer = Layer::linear(at, projection, width, width);
            declared.layer(&name(&format!("attention.{projection}")), layer, &[at]);
        }
        declared.norm(&name("mlp.norm"), width, &[at]);
        let up = Layer::linear(at, Projection::Up, width, self.mlp);
        declared.layer(&name("mlp.up"), up, &[at]);
        let down = Layer::linear(at, Projection::Down, self.mlp, width);
        declared.layer(&name("mlp.down"), down, &[at]);
        for branch in [Branch::Attention, Branch::Mlp] {
            if self.layer_scale {
                let scale = name(&format!("{branch}.scale"));
                declared.parameter(&scale, &[width], Role::Weight, &[at]);
            }
        }
    }

    /// One block from outside, its tokens on `grid` where there is one.
    pub fn info(&self, grid: Option<(usize, usize)>) -> BlockInfo {
        let branch = |branch, consumers| BranchInfo {
            branch,
            width: self.width,
            consumers,
        };
        BlockInfo {
            stream: StreamInfo {
                width: self.width,
                grid,
                map: false,
            },
            heads: self.heads,
            branches: vec![
                branch(
                    Branch::Attention,
                    vec![Projection::Query, Projection::Key, Projection::Value],
                ),
                branch(Branch::Mlp, vec![Projection::Up]),
            ],
        }
    }
}

/// One block: x + attention(norm(x)), then x + mlp(norm(x)), each with its layer scale where
/// there is one.
#[derive(Clone, Debug)]
pub struct Block {
    shape: BlockShape,
    attention_norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_scale: Option<Parameter>,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    mlp_scale: Option<Parameter>,
}

impl Block {
    /// Block `index` of `tower`, under the names that [`BlockShape::declare`] gives.
    ///
    /// # Errors
    /// A weight is missing.
    pub fn load(weights: &Weights, shape: BlockShape, tower: Tower, index: usize) -> Result<Self> {
        let name = |part: &str| format!("{tower}.blocks.{index}.{part}");
        let linear = |part: &str| Linear::load(weights, &name(part));
        let norm =
            |part: &str| LayerNorm::load(weights, &name(part)).map(|norm| norm.with_eps(shape.eps));
        Ok(Self {
            shape,
            attention_norm: norm("attention.norm")?,
            query: linear("attention.query")?,
            key: linear("attention.key")?,
            value: linear("attention.value")?,
            output: linear("attention.output")?,
            attention_scale: weights.optional(&name("attention.scale"))?,
            mlp_norm: norm("mlp.norm")?,
            up: linear("mlp.up")?,
            down: linear("mlp.down")?,
            mlp_scale: weights.optional(&name("mlp.scale"))?,
        })
    }

    /// `[B, N, D]` to the same.
    ///
    /// # Errors
    /// An operation failed.
    pub fn forward(&self, stream: Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let data = self.residual(Branch::Attention, &stream, hooks, pass)?;
        let stream = Stream {
            data,
            form: stream.form,
        };
        let data = self.residual(Branch::Mlp, &stream, hooks, pass)?;
        Ok(Stream {
            data,
            form: stream.form,
        })
    }

    fn residual(
        &self,
        branch: Branch,
        stream: &Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let input = &stream.data;
        let (norm, scale) = match branch {
            Branch::Mlp => (&self.mlp_norm, &self.mlp_scale),
            _ => (&self.attention_norm, &self.attention_scale),
        };
        let normed = hooks.normed(branch, norm.forward(input, pass)?, pass)?;
        let mut output = match branch {
            Branch::Mlp => self.mlp(&normed, hooks, pass)?,
            _ => self.attention(&normed, hooks, pass)?,
        };
        let view = BranchView {
            stream,
            input,
            normed: &normed,
        };
        output = hooks.branch(branch, Scale::Before, view, output, pass)?;
        if let Some(scale) = scale {
            output = ops::mul(&output, &scale.tensor(pass)?)?;
        }
        output = hooks.branch(branch, Scale::After, view, output, pass)?;
        Ok(ops::add(input, &output)?)
    }

    fn attention(&self, x: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let query = hooks.projection(Projection::Query);
        let query = query.forward(&self.query, x, pass)?;
        let key = hooks.projection(Projection::Key);
        let key = key.forward(&self.key, x, pass)?;
        let value = hooks.projection(Projection::Value);
        let value = value.forward(&self.value, x, pass)?;
        let (key, value) = hooks.key_value(key, value, pass)?;
        let mask = Mask {
            causal: self.shape.causal,
            padding: None,
        };
        let heads = self.shape.heads;
        let mixed = ops::attention(&query, &key, &value, heads, mask, Dropout::default())?;
        let output = hooks.projection(Projection::Output);
        output.forward(&self.output, &mixed, pass)
    }

    fn mlp(&self, x: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let up = hooks.projection(Projection::Up);
        let inside = self
            .shape
            .activation
            .forward(&up.forward(&self.up, x, pass)?)?;
        let down = hooks.projection(Projection::Down);
        down.forward(&self.down, &inside, pass)
    }
}
