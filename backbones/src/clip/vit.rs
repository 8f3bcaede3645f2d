//! CLIP's vision transformer.
//!
//! Owns patches, class token, positions and what lies behind the last block. Blocks are
//! [`crate::block`]'s.
//!
//! Source: <https://github.com/openai/CLIP>, `VisionTransformer`; the dense features are those of
//! ETRIS (arXiv 2307.11545): the patches through the last norm and the joint projection.

use candle_core::Tensor;
use twinspan_sdk::backbone::{Encoder, Weights};
use twinspan_sdk::hooks::PlaceHooks;
use twinspan_sdk::layers::{Conv2d, LayerNorm, Linear};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Projection, Role, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::topology::{Origin, StreamInfo, TowerTopology, thirds};
use twinspan_sdk::{Error, Result};

use super::pictures;
use crate::block::{Block, BlockShape};
use twinspan_sdk::declare::{Declared, Layer};

/// The sizes of a vision transformer, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vit {
    pub layers: usize,
    pub block: BlockShape,
    /// Channels of what is cut into patches: 3 of a picture, more behind a stem.
    pub channels: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Patches along a side of the input.
    pub side: usize,
    /// Width E of the joint space.
    pub joint: usize,
}

impl Vit {
    pub fn topology(&self) -> TowerTopology {
        let (width, side) = (self.block.width, self.side);
        let grid = Some((side, side));
        let embed = [At::Embed];
        let last = [At::Final, At::Pooled];
        let mut declared = Declared::new(Tower::Vision);
        let patch = Layer::conv(
            At::Embed,
            Projection::Patch,
            (self.channels, width),
            self.patch,
            self.patch,
        );
        declared.layer("vision.patch", patch, &embed);
        declared.parameter("vision.class", &[width], Role::Class, &embed);
        declared.parameter_from(
            Origin::Resized {
                special: 1,
                to: (side, side),
            },
            "vision.position",
            &[1 + side * side, width],
            Role::Position,
            &embed,
        );
        declared.norm("vision.norm_in", width, &embed);
        for index in 0..self.layers {
            self.block.declare(&mut declared, Tower::Vision, index);
        }
        declared.norm("vision.norm_out", width, &last);
        let joint = Layer::linear(At::Final, Projection::Joint, width, self.joint).bare();
        declared.layer("vision.joint", joint, &last);
        let tokens = |width| StreamInfo {
            width,
            grid,
            map: false,
        };
        TowerTopology {
            embed: tokens(width),
            blocks: vec![self.block.info(grid); self.layers],
            stages: thirds(self.layers),
            last: tokens(self.joint),
            context: 0,
            projections: declared.projections,
            parameters: declared.parameters,
        }
    }

    pub fn load(&self, weights: &Weights) -> Result<VitEncoder> {
        let cut = Conv {
            stride: self.patch,
            padding: 0,
        };
        Ok(VitEncoder {
            side: self.side,
            channels: self.channels,
            pixels: self.side * self.patch,
            patch: Conv2d::load(weights, "vision.patch", cut)?,
            class: weights.parameter("vision.class")?,
            positions: weights.parameter("vision.position")?,
            norm_in: LayerNorm::load(weights, "vision.norm_in")?,
            blocks: (0..self.layers)
                .map(|i| Block::load(weights, self.block, Tower::Vision, i))
                .collect::<Result<_>>()?,
            norm_out: LayerNorm::load(weights, "vision.norm_out")?,
            joint: Linear::load(weights, "vision.joint")?,
        })
    }
}

/// Pictures `[B, 3, S, S]` to a class token and patches `[B, 1 + N, D]`.
pub(crate) struct VitEncoder {
    side: usize,
    channels: usize,
    pixels: usize,
    patch: Conv2d,
    /// `[D]`.
    class: Parameter,
    /// `[1 + N, D]`.
    positions: Parameter,
    norm_in: LayerNorm,
    blocks: Vec<Block>,
    norm_out: LayerNorm,
    joint: Linear,
}

impl Encoder for VitEncoder {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let batch = pictures(input, self.channels, self.pixels)?;
        let patch = hooks.projection(Projection::Patch);
        let map = patch.forward(&self.patch, input, pass)?;
        let patches = map.flatten_from(2)?.transpose(1, 2)?;
        let class = self.class.tensor(pass)?;
        let class = class.broadcast_as((batch, 1, class.dim(0)?))?;
        let tokens = ops::concat(&class, &patches, 1)?;
        Ok(Stream::patches(tokens, 1, (self.side, self.side)))
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let (tokens, table) = (stream.data.dim(1)?, self.positions.dims()[0]);
        if tokens != table {
            return Err(Error::wrong_use(format!(
                "{tokens} tokens of a picture meet {table} positions: prompts of a picture go in behind the positions, where they need none"
            )));
        }
        let data = ops::add(&stream.data, &self.positions.tensor(pass)?)?;
        Ok(stream.with(data))
    }

    fn norm(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let data = self.norm_in.forward(&stream.data, pass)?;
        Ok(stream.with(data))
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

    /// The patches alone, in the joint space: `[B, N, E]` on the grid.
    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let patches = self.norm_out.forward(&stream.content()?, pass)?;
        let joint = hooks.projection(Projection::Joint);
        let dense = joint.forward(&self.joint, &patches, pass)?;
        Ok(Stream::patches(dense, 0, (self.side, self.side)))
    }

    /// The class token, normed and projected.
    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let Some((class, _)) = stream.span(|kind| *kind == SpanKind::Special) else {
            return Err(Error::plugin("this picture has lost its class token"));
        };
        let class = stream.data.narrow(1, class, 1)?.squeeze(1)?;
        let class = self.norm_out.forward(&class, pass)?;
        let joint = hooks.projection(Projection::Joint);
        joint.forward(&self.joint, &class, pass)
    }
}
