//! The toy's towers, as bare as a topology allows: one projection a block, added to the stream
//! where shapes agree. With `folded` they compute with the folded weights in place of the hooks.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::hooks::{BranchView, PlaceHooks, Scale};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::layers::{Conv2d, Embedding, LayerNorm, Linear};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::site::{Branch, Projection, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::{Shape, StreamInfo, Topology, TowerTopology};
use twinspan_sdk::{Error, Result};

use super::VOCABULARY;

/// The backbone.
#[derive(Clone)]
pub struct Toy {
    pub topology: Topology,
    pub folded: bool,
}

impl Toy {
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            folded: false,
        }
    }
}

impl Backbone for Toy {
    fn topology(&self) -> Result<Topology> {
        Ok(self.topology.clone())
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let one = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        let tower = |tower| -> Result<Box<dyn Encoder>> {
            let this = self.topology.tower(tower);
            Ok(Box::new(Bare::load(tower, this, self.folded, weights)?))
        };
        Ok(Encoders {
            vision: tower(Tower::Vision)?,
            text: tower(Tower::Text)?,
            logit_scale: Parameter::constant(&one),
            logit_bias: None,
        })
    }

    fn layouts(&self) -> Result<Vec<KeyMap>> {
        Ok(Vec::new())
    }

    fn preparation(&self) -> Preparation {
        Preparation {
            size: 4,
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preparation::default()
        }
    }

    fn tokenizer(&self, _path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        Err(Error::plugin("the toy has no tokenizer"))
    }
}

enum Layer {
    Linear(Linear),
    Conv(Conv2d, Conv),
    Embedding(Embedding),
}

struct Bare {
    layers: Vec<(Projection, Layer)>,
    class: Option<Parameter>,
    positions: Option<Parameter>,
    norm: Option<LayerNorm>,
    embed: StreamInfo,
    folded: bool,
}

impl Bare {
    fn load(tower: Tower, info: &TowerTopology, folded: bool, weights: &Weights) -> Result<Self> {
        let mut layers = Vec::new();
        for p in &info.projections {
            let layer = match p.shape {
                Shape::Linear => Layer::Linear(Linear::load(weights, &p.name)?),
                Shape::Conv {
                    stride, padding, ..
                } => {
                    let conv = Conv { stride, padding };
                    Layer::Conv(Conv2d::load(weights, &p.name, conv)?, conv)
                }
                Shape::Embedding => Layer::Embedding(Embedding::load(weights, &p.name)?),
            };
            layers.push((p.projection, layer));
        }
        let norm = format!("{tower}.norm");
        Ok(Self {
            layers,
            class: weights.optional(&format!("{tower}.class"))?,
            positions: weights.optional(&format!("{tower}.positions"))?,
            norm: match info.embed.map {
                true => None,
                false => Some(LayerNorm::load(weights, &norm)?),
            },
            embed: info.embed,
            folded,
        })
    }

    fn apply(
        &self,
        layer: usize,
        x: &Tensor,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let (projection, layer) = &self.layers[layer];
        let hooks = hooks.projection(*projection);
        match (layer, self.folded) {
            (Layer::Linear(layer), false) => hooks.forward(layer, x, pass),
            (Layer::Conv(layer, _), false) => hooks.forward(layer, x, pass),
            (Layer::Embedding(layer), false) => hooks.forward(layer, x, pass),
            (Layer::Linear(layer), true) => {
                let folded = hooks.fold(layer, pass)?;
                Ok(ops::linear(x, &folded.weight, folded.bias.as_ref())?)
            }
            (Layer::Conv(layer, conv), true) => {
                let folded = hooks.fold(layer, pass)?;
                Ok(ops::conv2d(x, &folded.weight, folded.bias.as_ref(), *conv)?)
            }
            (Layer::Embedding(layer), true) => {
                let weight = Parameter::constant(&hooks.fold(layer, pass)?.weight);
                let table = Tensor::eye(VOCABULARY, DType::F64, &Device::Cpu)?;
                let ids: Vec<u32> = x.flatten_all()?.to_vec1()?;
                let picked = ops::select(&table, &ids)?;
                let rows = picked.matmul(&weight.tensor(pass)?)?;
                Ok(rows.reshape((x.dim(0)?, x.dim(1)?, ()))?)
            }
        }
    }
}

impl Encoder for Bare {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let x = self.apply(0, input, hooks, pass)?;
        if let Some(positions) = &self.positions {
            let x = ops::add(&x, &positions.tensor(pass)?)?;
            let ends = vec![3, 2];
            return Ok(Stream::words(x, None, ends)?.started()?);
        }
        if self.embed.map {
            return Ok(Stream::map(x));
        }
        let class = match &self.class {
            Some(class) => class.tensor(pass)?,
            None => return Err(Error::plugin("no class token")),
        };
        let (batch, width, _, _) = x.dims4()?;
        let zeros = Tensor::zeros((batch, 1, width), x.dtype(), x.device())?;
        let class = ops::add(&zeros, &class)?;
        let patches = x.flatten_from(2)?.transpose(1, 2)?;
        let tokens = ops::concat(&class, &patches, 1)?;
        Ok(Stream::patches(tokens, 1, self.embed.grid.unwrap()))
    }

    fn block(
        &self,
        index: usize,
        stream: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        let input = &stream.data;
        let normed = hooks.normed(Branch::Convolution, input.clone(), pass)?;
        let mut y = self.apply(index + 1, &normed, hooks, pass)?;
        let view = BranchView {
            stream: &stream,
            input,
            normed: &normed,
        };
        for scale in [Scale::Before, Scale::After] {
            y = hooks.branch(Branch::Convolution, scale, view, y, pass)?;
        }
        Ok(match y.dims() == stream.data.dims() {
            true => stream.with(ops::add(&y, &stream.data)?),
            false => stream.with(y),
        })
    }

    fn features(&self, stream: &Stream, _hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        Ok(match &self.norm {
            Some(norm) => stream.with(norm.forward(&stream.data, pass)?),
            None => stream.clone(),
        })
    }

    fn pooled(&self, _: &Stream, _: &PlaceHooks, _: &mut Pass) -> Result<Tensor> {
        Err(Error::plugin("the toy does not pool"))
    }
}
