//! CLIP's ResNet.
//!
//! Owns the stem and the bottlenecks. What lies behind the last of them is
//! [`attention_pool`](super::attention_pool)'s.
//!
//! Source: <https://github.com/openai/CLIP>, `ModifiedResNet`.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::backbone::{Encoder, Weights};
use twinspan_sdk::hooks::{BranchView, PlaceHooks, Scale};
use twinspan_sdk::layers::{BatchNorm, Conv2d};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Branch, Projection, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::topology::{BlockInfo, BranchInfo, StreamInfo, TowerTopology};

use super::attention_pool::{Pool, PoolShape};
use crate::vit::pictures;
use twinspan_sdk::declare::{Declared, Layer};

/// Pixels of the input, along a side, for one pixel of the last map.
pub(super) const STRIDE: usize = 32;
/// A bottleneck's output channels over its inner ones.
const EXPANSION: usize = 4;
/// A convolution that keeps the size: 3x3.
const AROUND: Conv = Conv {
    stride: 1,
    padding: 1,
};

/// The sizes of a ResNet, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resnet {
    /// Bottlenecks of each of the four layers.
    pub layers: [usize; 4],
    /// Channels behind the stem; even.
    pub width: usize,
    /// Channels of a head of the attention pool; it divides 32 times the width.
    pub head_width: usize,
    /// Side of the input in pixels.
    pub input: usize,
    /// Side of the pictures CLIP was trained on, in pixels: it gives the table of positions.
    pub native: usize,
    /// Whether the dense pool has ETRIS's residual.
    pub connect: bool,
    /// Width E of the joint space.
    pub joint: usize,
}

/// One bottleneck's place and sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Among all bottlenecks, from 0.
    pub index: usize,
    /// Its layer, from 0, and its place within.
    pub within: (usize, usize),
    pub input: usize,
    /// Inner channels.
    pub planes: usize,
    pub stride: usize,
}

impl Place {
    pub fn output(&self) -> usize {
        self.planes * EXPANSION
    }

    /// Whether its shortcut has a convolution.
    pub fn projects(&self) -> bool {
        self.stride > 1 || self.input != self.output()
    }
}

impl Resnet {
    /// The pool over the last map.
    fn pool(&self) -> PoolShape {
        let channels = self.width * 8 * EXPANSION;
        PoolShape {
            channels,
            heads: channels / self.head_width,
            side: self.native / STRIDE,
            connect: self.connect,
            joint: self.joint,
        }
    }

    pub fn bottlenecks(&self) -> Vec<Place> {
        let mut places = Vec::new();
        let mut input = self.width;
        for (layer, &count) in self.layers.iter().enumerate() {
            for position in 0..count {
                let place = Place {
                    index: places.len(),
                    within: (layer, position),
                    input,
                    planes: self.width << layer,
                    stride: if layer > 0 && position == 0 { 2 } else { 1 },
                };
                input = place.output();
                places.push(place);
            }
        }
        places
    }

    pub fn topology(&self) -> TowerTopology {
        let mut declared = Declared::new(Tower::Vision);
        self.declare_stem(&mut declared);
        let map = |width, side| StreamInfo {
            width,
            grid: Some((side, side)),
            map: true,
        };
        let places = self.bottlenecks();
        let mut blocks = Vec::new();
        let mut side = self.input / 4;
        for place in &places {
            declare_bottleneck(&mut declared, place);
            side /= place.stride;
            blocks.push(BlockInfo {
                stream: map(place.output(), side),
                heads: 0,
                branches: vec![BranchInfo {
                    branch: Branch::Convolution,
                    width: place.output(),
                    consumers: vec![Projection::Conv1],
                }],
            });
        }
        self.pool().declare(&mut declared);
        let ends = places.iter().filter(|place| {
            let (layer, position) = place.within;
            layer > 0 && position + 1 == self.layers[layer]
        });
        TowerTopology {
            embed: map(self.width, self.input / 4),
            blocks,
            stages: ends.map(|place| place.index).collect(),
            last: map(self.joint, side),
            context: 0,
            projections: declared.projections,
            parameters: declared.parameters,
        }
    }

    fn declare_stem(&self, declared: &mut Declared) {
        let (half, at) = (self.width / 2, At::Embed);
        let convolutions = [
            (Projection::Conv1, (3, half), 2),
            (Projection::Conv2, (half, half), 1),
            (Projection::Conv3, (half, self.width), 1),
        ];
        for (i, (projection, channels, stride)) in convolutions.into_iter().enumerate() {
            let layer = Layer::conv(at, projection, channels, 3, stride);
            declared.layer(&format!("vision.stem.conv{}", i + 1), layer, &[at]);
            declared.batch_norm(&format!("vision.stem.norm{}", i + 1), channels.1, &[at]);
        }
    }

    pub fn load(&self, weights: &Weights) -> Result<ResnetEncoder> {
        let halve = Conv {
            stride: 2,
            padding: 1,
        };
        let stem = |i: usize, conv| ConvNorm::load(weights, "vision.stem", i, conv);
        Ok(ResnetEncoder {
            pixels: self.input,
            stem: [stem(1, halve)?, stem(2, AROUND)?, stem(3, AROUND)?],
            blocks: self
                .bottlenecks()
                .iter()
                .map(|place| Bottleneck::load(weights, place))
                .collect::<Result<_>>()?,
            pool: Pool::load(weights, self.pool())?,
        })
    }
}

fn declare_bottleneck(declared: &mut Declared, place: &Place) {
    let at = At::Block(place.index);
    let planes = place.planes;
    let convolutions = [
        (Projection::Conv1, (place.input, planes), 1),
        (Projection::Conv2, (planes, planes), 3),
        (Projection::Conv3, (planes, place.output()), 1),
    ];
    let name = |part: &str| format!("vision.blocks.{}.{part}", place.index);
    for (i, (projection, channels, kernel)) in convolutions.into_iter().enumerate() {
        let layer = Layer::conv(at, projection, channels, kernel, 1);
        declared.layer(&name(&format!("conv{}", i + 1)), layer, &[at]);
        declared.batch_norm(&name(&format!("norm{}", i + 1)), channels.1, &[at]);
    }
    if place.projects() {
        let channels = (place.input, place.output());
        let layer = Layer::conv(at, Projection::Shortcut, channels, 1, 1);
        declared.layer(&name("shortcut.conv"), layer, &[at]);
        declared.batch_norm(&name("shortcut.norm"), place.output(), &[at]);
    }
}

/// Pictures `[B, 3, S, S]` to maps.
pub(super) struct ResnetEncoder {
    pixels: usize,
    stem: [ConvNorm; 3],
    blocks: Vec<Bottleneck>,
    pool: Pool,
}

impl Encoder for ResnetEncoder {
    /// The stem: three convolutions, then means of 2 by 2: `[B, width, S/4, S/4]`.
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        pictures(input, 3, self.pixels)?;
        let mut map = input.clone();
        for (layer, projection) in self.stem.iter().zip(CONVOLUTIONS) {
            map = ops::relu(&layer.forward(projection, &map, hooks, pass)?)?;
        }
        Ok(Stream::map(ops::avg_pool2d(&map, 2)?))
    }

    fn block(
        &self,
        index: usize,
        stream: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        self.blocks[index].forward(stream, hooks, pass)
    }

    /// The attention pool with every place as a query: `[B, E, S/32, S/32]`. With `connect` its
    /// residual is added and the sum rectified; without, the pool's output is left as it is.
    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        self.pool.dense(&stream.data, hooks, pass).map(Stream::map)
    }

    /// The attention pool with the mean as its one query.
    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        self.pool.mean(&stream.data, hooks, pass)
    }
}

const CONVOLUTIONS: [Projection; 3] = [Projection::Conv1, Projection::Conv2, Projection::Conv3];

/// A convolution and the batch norm behind it.
pub(super) struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    /// `place.convI` and `place.normI`.
    fn load(weights: &Weights, place: &str, i: usize, conv: Conv) -> Result<Self> {
        Ok(Self {
            conv: Conv2d::load(weights, &format!("{place}.conv{i}"), conv)?,
            norm: BatchNorm::load(weights, &format!("{place}.norm{i}"))?,
        })
    }

    /// `place.conv` and `place.norm`: one by one, without padding.
    pub fn load_single(weights: &Weights, place: &str) -> Result<Self> {
        Ok(Self {
            conv: Conv2d::load(weights, &format!("{place}.conv"), Conv::default())?,
            norm: BatchNorm::load(weights, &format!("{place}.norm"))?,
        })
    }

    pub fn forward(
        &self,
        projection: Projection,
        x: &Tensor,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let y = hooks.projection(projection).forward(&self.conv, x, pass)?;
        self.norm.forward(&y, pass)
    }
}

/// 1x1, 3x3 and 1x1 convolutions beside a shortcut; a stride is a mean over squares in both.
struct Bottleneck {
    layers: [ConvNorm; 3],
    stride: usize,
    shortcut: Option<ConvNorm>,
}

impl Bottleneck {
    fn load(weights: &Weights, place: &Place) -> Result<Self> {
        let name = format!("vision.blocks.{}", place.index);
        let layer = |i, conv| ConvNorm::load(weights, &name, i, conv);
        let shortcut = || ConvNorm::load_single(weights, &format!("{name}.shortcut"));
        Ok(Self {
            layers: [
                layer(1, Conv::default())?,
                layer(2, AROUND)?,
                layer(3, Conv::default())?,
            ],
            stride: place.stride,
            shortcut: place.projects().then(shortcut).transpose()?,
        })
    }

    fn forward(&self, stream: Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let input = &stream.data;
        // The branch has no norm in front, so its normed input is its input.
        let normed = hooks.normed(Branch::Convolution, input.clone(), pass)?;
        let [one, two, three] = &self.layers;
        let x = ops::relu(&one.forward(Projection::Conv1, &normed, hooks, pass)?)?;
        let x = ops::relu(&two.forward(Projection::Conv2, &x, hooks, pass)?)?;
        let x = self.stride(&x)?;
        let mut output = three.forward(Projection::Conv3, &x, hooks, pass)?;
        let view = BranchView {
            stream: &stream,
            input,
            normed: &normed,
        };
        for scale in [Scale::Before, Scale::After] {
            output = hooks.branch(Branch::Convolution, scale, view, output, pass)?;
        }
        let beside = match &self.shortcut {
            Some(layer) => {
                let x = self.stride(input)?;
                layer.forward(Projection::Shortcut, &x, hooks, pass)?
            }
            None => input.clone(),
        };
        Ok(Stream::map(ops::relu(&ops::add(&output, &beside)?)?))
    }

    fn stride(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.stride {
            1 => x.clone(),
            stride => ops::avg_pool2d(x, stride)?,
        })
    }
}
