//! A backbone small enough to check by hand, and what installs adapters on it.
//!
//! Its towers are as bare as a topology allows: one projection a block, added to the stream where
//! shapes agree. With `folded` it computes with the folded weights in place of the hooks.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Preparation, Weights};
use twinspan_sdk::base::Base;
use twinspan_sdk::hooks::{Operator, PlaceHooks};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::layers::{Conv2d, Embedding, LayerNorm, Linear};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::recipe::{Recipe, TrainOptions, WeightsChoice};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Projection, Role, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Dataset, Head, Kit, Task};
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::{
    BlockInfo, Origin, ParameterInfo, ProjectionInfo, Shape, StreamInfo, Topology, TowerTopology,
};
use twinspan_sdk::tuned::{Compute, Tuned};
use twinspan_sdk::{Error, Result};

pub const WORDS: usize = 5;
pub const VOCABULARY: usize = 7;

pub fn token_stream(width: usize, grid: (usize, usize)) -> StreamInfo {
    StreamInfo {
        width,
        grid: Some(grid),
        map: false,
    }
}

pub fn map_stream(width: usize, grid: (usize, usize)) -> StreamInfo {
    StreamInfo {
        width,
        grid: Some(grid),
        map: true,
    }
}

/// A topology with one block a stage in both towers.
pub fn topology(vision: &[StreamInfo], text_width: usize) -> Topology {
    let text = vec![
        StreamInfo {
            width: text_width,
            grid: None,
            map: false,
        };
        vision.len()
    ];
    Topology {
        vision: tower(Tower::Vision, vision),
        text: tower(Tower::Text, &text),
        joint: 4,
        shared: Vec::new(),
    }
}

fn tower(tower: Tower, streams: &[StreamInfo]) -> TowerTopology {
    let first = streams[0];
    let mut projections = vec![match tower {
        Tower::Vision => projection(
            tower,
            At::Embed,
            Projection::Patch,
            (3, first.width),
            conv(2, 2, 0),
        ),
        Tower::Text => {
            let ends = (VOCABULARY, first.width);
            projection(tower, At::Embed, Projection::Token, ends, Shape::Embedding)
        }
    }];
    let mut before = first;
    for (i, stream) in streams.iter().enumerate() {
        let ends = (before.width, stream.width);
        let at = At::Block(i);
        projections.push(match stream.map {
            true => {
                let stride = before.grid.unwrap().0.div_ceil(stream.grid.unwrap().0);
                projection(tower, at, Projection::Conv1, ends, conv(3, stride, 1))
            }
            false => projection(tower, at, Projection::Query, ends, Shape::Linear),
        });
        before = *stream;
    }
    let mut parameters = Vec::new();
    for p in &projections {
        let (weight, bias) = match p.shape {
            Shape::Linear => (vec![p.output, p.input], true),
            Shape::Conv { kernel, .. } => (vec![p.output, p.input, kernel, kernel], false),
            Shape::Embedding => (vec![p.input, p.output], false),
        };
        parameters.push(parameter(
            tower,
            &format!("{}.weight", p.name),
            weight,
            Role::Weight,
            p.at,
        ));
        if bias {
            parameters.push(parameter(
                tower,
                &format!("{}.bias", p.name),
                vec![p.output],
                Role::Bias,
                p.at,
            ));
        }
    }
    if !first.map {
        let width = vec![before.width];
        let name = |n: &str| format!("{tower}.{n}");
        parameters.push(parameter(
            tower,
            &name("norm.weight"),
            width.clone(),
            Role::NormWeight,
            At::Final,
        ));
        parameters.push(parameter(
            tower,
            &name("norm.bias"),
            width.clone(),
            Role::NormBias,
            At::Final,
        ));
        parameters.push(parameter(
            tower,
            &name("class"),
            width,
            Role::Class,
            At::Embed,
        ));
        if tower == Tower::Text {
            parameters.pop();
            let table = vec![WORDS, first.width];
            parameters.push(parameter(
                tower,
                &name("positions"),
                table,
                Role::Position,
                At::Embed,
            ));
        }
    }
    TowerTopology {
        embed: first,
        blocks: streams
            .iter()
            .map(|stream| BlockInfo {
                stream: *stream,
                heads: 0,
                branches: Vec::new(),
            })
            .collect(),
        stages: (0..streams.len()).collect(),
        last: before,
        context: WORDS,
        projections,
        parameters,
    }
}

fn conv(kernel: usize, stride: usize, padding: usize) -> Shape {
    Shape::Conv {
        kernel,
        stride,
        padding,
    }
}

fn projection(
    tower: Tower,
    at: At,
    projection: Projection,
    (input, output): (usize, usize),
    shape: Shape,
) -> ProjectionInfo {
    ProjectionInfo {
        tower,
        at,
        projection,
        input,
        output,
        shape,
        name: format!("{tower}.{at}.{projection}"),
    }
}

fn parameter(tower: Tower, name: &str, shape: Vec<usize>, role: Role, at: At) -> ParameterInfo {
    ParameterInfo {
        name: name.to_string(),
        shape,
        role,
        tower: Some(tower),
        used: vec![at],
        origin: Origin::Base,
    }
}

/// Values for every parameter of a topology.
pub fn base(topology: &Topology) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for info in topology.parameters().filter(|p| p.origin == Origin::Base) {
        tensors.insert(info.name.clone(), random(&info.name, &info.shape, 0.5));
    }
    tensors
}

/// Normal values in f64, the same for the same name.
pub fn random(name: &str, shape: &[usize], std: f64) -> Tensor {
    let init = Init::Normal(std);
    init.tensor(7, name, shape, DType::F64, &Device::Cpu)
        .unwrap()
}

/// A recipe on the toy.
pub fn recipe(toy: Toy, adapters: Vec<Configured<dyn Adapter>>, reads: Vec<Tap>) -> Recipe {
    Recipe {
        backbone: Configured {
            name: "toy",
            plugin: Box::new(toy),
            options: Default::default(),
        },
        weights: WeightsChoice::default(),
        adapters,
        task: Configured {
            name: "look",
            plugin: Box::new(Look(reads)),
            options: Default::default(),
        },
        train: TrainOptions::default(),
    }
}

pub fn adapter<P: Plugin + Adapter>(plugin: P) -> Vec<Configured<dyn Adapter>> {
    vec![Configured::<dyn Adapter>::of(plugin).unwrap()]
}

/// The last features of both towers.
pub fn ends() -> Vec<Tap> {
    vec![Tap::vision(At::Final), Tap::text(At::Final)]
}

/// A model in f64.
pub fn tuned(recipe: &Recipe, base: BTreeMap<String, Tensor>) -> Result<Tuned> {
    let compute = Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    };
    Tuned::new(recipe, Base::from_tensors(base), compute)
}

/// Two pictures for a stream of `grid` after the embedding, and two sentences.
pub fn batch((rows, columns): (usize, usize)) -> Batch {
    let images = random("pictures", &[2, 3, 2 * rows, 2 * columns], 1.0);
    let ids: Vec<u32> = vec![1, 4, 2, 6, 0, 1, 3, 6, 0, 0];
    let tokens = Tensor::from_vec(ids, (2, WORDS), &Device::Cpu).unwrap();
    Batch::aligned(images, tokens, None).unwrap()
}

/// The streams that the task reads.
pub fn features(tuned: &Tuned, batch: &Batch, pass: &mut Pass) -> Vec<Tensor> {
    let streams = tuned.forward(batch, pass).unwrap();
    streams.into_iter().map(|s| s.data).collect()
}

/// A scalar that depends on every feature.
pub fn loss(tuned: &Tuned, batch: &Batch, pass: &mut Pass) -> Tensor {
    let mut sum: Option<Tensor> = None;
    for (i, x) in features(tuned, batch, pass).iter().enumerate() {
        let weights = random(&format!("loss.{i}"), x.dims(), 1.0);
        let one = ops::mul(x, &weights).unwrap().sum_all().unwrap();
        sum = Some(match sum {
            Some(sum) => (sum + one).unwrap(),
            None => one,
        });
    }
    sum.unwrap()
}

pub fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let d = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    d.max(0).unwrap().to_scalar::<f64>().unwrap()
}

pub fn largest(a: &Tensor) -> f64 {
    largest_difference(a, &a.zeros_like().unwrap())
}

/// Gives trained parameters whose name `accepts` values away from their start.
pub fn shake(tuned: &Tuned, accepts: impl Fn(&str) -> bool) {
    for (name, trained) in &tuned.overlay.trained {
        if accepts(name) {
            let moved = random(name, trained.var.dims(), 0.3);
            trained
                .var
                .set(&(trained.var.as_detached_tensor() + moved).unwrap())
                .unwrap();
        }
    }
}

/// Every trained parameter's gradient against central differences at some of its entries, and no
/// gradient for anything else.
pub fn check_gradients(tuned: &Tuned, batch: &Batch, pass: impl Fn() -> Pass) {
    let found = loss(tuned, batch, &mut pass()).backward().unwrap();
    assert_eq!(found.get_ids().count(), tuned.overlay.trained.len());
    let value = || loss(tuned, batch, &mut pass()).to_scalar::<f64>().unwrap();
    for (name, trained) in &tuned.overlay.trained {
        let gradient = found
            .get(&trained.var)
            .unwrap_or_else(|| panic!("{name}: no gradient"));
        let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let start = trained.var.as_detached_tensor().copy().unwrap();
        let n = gradient.len();
        for i in [0, n / 2, n - 1] {
            let nudged = |by: f64| {
                let mut values: Vec<f64> = start.flatten_all().unwrap().to_vec1().unwrap();
                values[i] += by;
                let moved = Tensor::from_vec(values, start.dims(), &Device::Cpu).unwrap();
                trained.var.set(&moved).unwrap();
                value()
            };
            let h = 1e-5;
            let slope = (nudged(h) - nudged(-h)) / (2.0 * h);
            trained.var.set(&start).unwrap();
            let error = (slope - gradient[i]).abs();
            assert!(
                error < 1e-6 * (1.0 + slope.abs()),
                "{name}[{i}]: {} instead of {slope}",
                gradient[i]
            );
        }
    }
}

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
            return Ok(Stream::words(x, None, ends)?);
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
        let y = self.apply(index + 1, &stream.data, hooks, pass)?;
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

/// A task that reads streams and does nothing with them.
struct Look(Vec<Tap>);

impl Task for Look {
    fn reads(&self, _topology: &Topology) -> Result<Vec<Tap>> {
        Ok(self.0.clone())
    }

    fn head(&self, _topology: &Topology, _params: &mut Params) -> Result<Box<dyn Head>> {
        Ok(Box::new(Blind))
    }

    fn words(&self) -> usize {
        WORDS
    }

    fn open(&self, _file: &Path, _kit: Kit) -> Result<Arc<dyn Dataset>> {
        Err(Error::plugin("the toy has no data"))
    }
}

struct Blind;

impl Head for Blind {
    fn forward(&self, features: &[Stream], _pass: &mut Pass) -> Result<Tensor> {
        Ok(features[0].data.clone())
    }

    fn loss(&self, logits: &Tensor, _batch: &Batch) -> Result<Tensor> {
        Ok(logits.sum_all()?)
    }
}
