//! The vision transformer that all families share.
//!
//! Owns patches, class token, registers, positions and what lies behind the last block. Blocks are
//! [`crate::block`]'s, pooling by a probe is [`crate::probe`]'s.
//!
//! Sources: <https://github.com/openai/CLIP>, `VisionTransformer`, and open_clip's variants of it;
//! SigLIP (arXiv 2303.15343); DINOv2 with registers (arXiv 2309.16588). The dense features of CLIP
//! are those of ETRIS (arXiv 2307.11545): the patches through the last norm and the joint
//! projection.

use candle_core::Tensor;
use twinspan_sdk::backbone::{Encoder, Weights};
use twinspan_sdk::declare::{Declared, Layer};
use twinspan_sdk::hooks::PlaceHooks;
use twinspan_sdk::layers::{Conv2d, LayerNorm, Linear};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::regrid::Regrid;
use twinspan_sdk::site::{At, Projection, Role, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::topology::{Origin, StreamInfo, TowerTopology, thirds};
use twinspan_sdk::{Error, Result};

use crate::block::{Block, BlockShape};
use crate::probe::{Probe, ProbePool};

/// The sizes of a vision transformer, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vit {
    pub layers: usize,
    pub block: BlockShape,
    /// Channels of what is cut into patches: 3 of a picture, more behind a stem.
    pub channels: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the input in pixels. What is left beside the last whole patch is not seen.
    pub pixels: usize,
    /// Width E of the joint space.
    pub joint: usize,
    pub ends: Ends,
}

/// What stands in front of the blocks and behind them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    /// CLIP: a class token in front of the patches, a norm and a projection behind.
    Class {
        /// Whether there is a norm in front of the blocks.
        norm_in: bool,
        /// Whether a picture's vector is the mean of its patches, not the class token.
        mean: bool,
        /// Whether the last norm acts on the pooled vector, not on every token before.
        norm_pooled: bool,
    },
    /// DINOv2: a class token with its position, registers without one and the patches, whose
    /// convolution has a bias; a norm behind. Dense features are not projected. It was trained
    /// without text, so the projection of the class token into a joint space is made anew.
    Registers {
        /// How many registers.
        count: usize,
        /// How positions are resized.
        regrid: Regrid,
    },
    /// SigLIP: patches alone, their convolution with a bias; a probe looks at all of them. The
    /// joint space is as wide as the tokens.
    Probe(Probe),
}

impl Ends {
    /// As OpenAI trained CLIP.
    pub const CLIP: Ends = Ends::Class {
        norm_in: true,
        mean: false,
        norm_pooled: false,
    };

    /// Tokens in front of the patches that have positions.
    fn placed(self) -> usize {
        match self {
            Ends::Class { .. } | Ends::Registers { .. } => 1,
            Ends::Probe(_) => 0,
        }
    }
}

impl Vit {
    /// Patches along a side.
    pub fn side(&self) -> usize {
        self.pixels / self.patch
    }

    pub fn topology(&self) -> TowerTopology {
        let (width, side) = (self.block.width, self.side());
        let grid = Some((side, side));
        let embed = [At::Embed];
        let last = [At::Final, At::Pooled];
        let mut declared = Declared::new(Tower::Vision);
        let patch = Layer {
            bias: !matches!(self.ends, Ends::Class { .. }),
            ..Layer::conv(
                At::Embed,
                Projection::Patch,
                (self.channels, width),
                self.patch,
                self.patch,
            )
        };
        declared.layer("vision.patch", patch, &embed);
        let special = self.ends.placed();
        if special > 0 {
            declared.parameter("vision.class", &[width], Role::Class, &embed);
        }
        let mut by = Regrid::Bicubic;
        if let Ends::Registers { count, regrid } = self.ends {
            by = regrid;
            declared.parameter("vision.registers", &[count, width], Role::Class, &embed);
        }
        declared.parameter_from(
            Origin::Resized {
                special,
                to: (side, side),
                by,
            },
            "vision.position",
            &[special + side * side, width],
            Role::Position,
            &embed,
        );
        if let Ends::Class { norm_in: true, .. } = self.ends {
            declared.norm("vision.norm_in", width, &embed);
        }
        for index in 0..self.layers {
            self.block.declare(&mut declared, Tower::Vision, index);
        }
        declared.norm("vision.norm_out", width, &last);
        match self.ends {
            Ends::Class { .. } => {
                let joint = Layer::linear(At::Final, Projection::Joint, width, self.joint).bare();
                declared.layer("vision.joint", joint, &last);
            }
            Ends::Registers { .. } => {
                let joint = Layer::linear(At::Pooled, Projection::Joint, width, self.joint).bare();
                // CLIP's start of its own.
                let start = Init::Normal((width as f64).powf(-0.5));
                declared.layer_from(Origin::Fresh(start), "vision.joint", joint, &[At::Pooled]);
            }
            Ends::Probe(probe) => probe.declare(&mut declared),
        }
        let tokens = |width| StreamInfo {
            width,
            grid,
            map: false,
        };
        TowerTopology {
            embed: tokens(width),
            blocks: vec![self.block.info(grid); self.layers],
            stages: thirds(self.layers),
            last: tokens(match self.ends {
                Ends::Registers { .. } => width,
                Ends::Class { .. } | Ends::Probe(_) => self.joint,
            }),
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
        let norm =
            |name: &str| LayerNorm::load(weights, name).map(|norm| norm.with_eps(self.block.eps));
        let (front, end) = match self.ends {
            Ends::Class {
                norm_in,
                mean,
                norm_pooled,
            } => {
                let front = Front {
                    class: weights.parameter("vision.class")?,
                    registers: None,
                    norm: norm_in.then(|| norm("vision.norm_in")).transpose()?,
                };
                let joint = Linear::load(weights, "vision.joint")?;
                let end = End::Joint {
                    joint,
                    mean,
                    norm_pooled,
                    dense: true,
                };
                (Some(front), end)
            }
            Ends::Registers { .. } => {
                let front = Front {
                    class: weights.parameter("vision.class")?,
                    registers: Some(weights.parameter("vision.registers")?),
                    norm: None,
                };
                let end = End::Joint {
                    joint: Linear::load(weights, "vision.joint")?,
                    mean: false,
                    norm_pooled: false,
                    dense: false,
                };
                (Some(front), end)
            }
            Ends::Probe(probe) => (None, End::Probe(Box::new(ProbePool::load(weights, probe)?))),
        };
        Ok(VitEncoder {
            shape: *self,
            patch: Conv2d::load(weights, "vision.patch", cut)?,
            front,
            positions: weights.parameter("vision.position")?,
            blocks: (0..self.layers)
                .map(|i| Block::load(weights, self.block, Tower::Vision, i))
                .collect::<Result<_>>()?,
            norm_out: norm("vision.norm_out")?,
            end,
        })
    }
}

/// Pictures `[B, 3, S, S]` to patches `[B, N, D]`, behind a class token and registers where there
/// are any.
pub(crate) struct VitEncoder {
    shape: Vit,
    patch: Conv2d,
    front: Option<Front>,
    /// `[N, D]`, or `[1 + N, D]` with a class token.
    positions: Parameter,
    blocks: Vec<Block>,
    norm_out: LayerNorm,
    end: End,
}

/// What stands in front of the patches.
struct Front {
    /// `[D]`.
    class: Parameter,
    /// `[R, D]`, behind the class token; they have no positions.
    registers: Option<Parameter>,
    norm: Option<LayerNorm>,
}

/// What makes vectors of the joint space.
enum End {
    Joint {
        joint: Linear,
        mean: bool,
        norm_pooled: bool,
        /// Whether every patch is projected too.
        dense: bool,
    },
    Probe(Box<ProbePool>),
}

impl Encoder for VitEncoder {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let batch = pictures(input, self.shape.channels, self.shape.pixels)?;
        let patch = hooks.projection(Projection::Patch);
        let map = patch.forward(&self.patch, input, pass)?;
        let patches = map.flatten_from(2)?.transpose(1, 2)?;
        let grid = (self.shape.side(), self.shape.side());
        let Some(front) = &self.front else {
            return Ok(Stream::patches(patches, 0, grid));
        };
        let class = front.class.tensor(pass)?;
        let class = class.broadcast_as((batch, 1, class.dim(0)?))?;
        Ok(Stream::patches(ops::concat(&class, &patches, 1)?, 1, grid))
    }

    fn positions(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let (tokens, table) = (stream.data.dim(1)?, self.positions.dims()[0]);
        if tokens != table {
            return Err(Error::wrong_use(format!(
                "{tokens} tokens of a picture meet {table} positions: prompts of a picture go in behind the positions, where they need none"
            )));
        }
        let data = ops::add(&stream.data, &self.positions.tensor(pass)?)?;
        let registers = self
            .front
            .as_ref()
            .and_then(|front| front.registers.as_ref());
        let Some(registers) = registers else {
            return Ok(stream.with(data));
        };
        let registers = registers.tensor(pass)?;
        let (batch, (count, width)) = (data.dim(0)?, registers.dims2()?);
        let registers = registers.broadcast_as((batch, count, width))?;
        let class = ops::concat(&data.narrow(1, 0, 1)?, &registers, 1)?;
        let data = ops::concat(&class, &data.narrow(1, 1, tokens - 1)?, 1)?;
        let side = self.shape.side();
        Ok(Stream::patches(data, 1 + count, (side, side)))
    }

    fn norm(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        match self.front.as_ref().and_then(|front| front.norm.as_ref()) {
            Some(norm) => Ok(stream.with(norm.forward(&stream.data, pass)?)),
            None => Ok(stream),
        }
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

    /// The patches alone: in the joint space `[B, N, E]`, or as wide as they are, on the grid.
    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let patches = self.norm_out.forward(&stream.content()?, pass)?;
        let dense = match &self.end {
            End::Joint {
                joint, dense: true, ..
            } => {
                let hooked = hooks.projection(Projection::Joint);
                hooked.forward(joint, &patches, pass)?
            }
            End::Joint { dense: false, .. } => patches,
            End::Probe(pool) => pool.dense(&patches, hooks, pass)?,
        };
        let side = self.shape.side();
        Ok(Stream::patches(dense, 0, (side, side)))
    }

    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let norm = |x: &Tensor, pass: &mut Pass| self.norm_out.forward(x, pass);
        let (joint, mean, norm_pooled) = match &self.end {
            End::Joint {
                joint,
                mean,
                norm_pooled,
                ..
            } => (joint, *mean, *norm_pooled),
            End::Probe(pool) => {
                let all = norm(&stream.data, pass)?;
                return pool.pooled(&all, hooks, pass);
            }
        };
        let pooled = match (mean, norm_pooled) {
            (false, _) => norm(&class_of(stream)?, pass)?,
            (true, true) => norm(&stream.content()?.mean(1)?, pass)?,
            (true, false) => norm(&stream.content()?, pass)?.mean(1)?,
        };
        let hooked = hooks.projection(Projection::Joint);
        hooked.forward(joint, &pooled, pass)
    }
}

/// The class token `[B, D]`.
fn class_of(stream: &Stream) -> Result<Tensor> {
    let Some((class, _)) = stream.span(|kind| *kind == SpanKind::Special) else {
        return Err(Error::plugin("this picture has lost its class token"));
    };
    Ok(stream.data.narrow(1, class, 1)?.squeeze(1)?)
}

/// How many pictures or maps `[B, C, S, S]` there are.
///
/// # Errors
/// They have another shape.
pub(crate) fn pictures(input: &Tensor, channels: usize, pixels: usize) -> Result<usize> {
    match *input.dims() {
        [batch, c, rows, columns] if (c, rows, columns) == (channels, pixels, pixels) => Ok(batch),
        ref other => Err(Error::Shape {
            what: "a batch of pictures [B, 3, S, S]".into(),
            expected: vec![
                other.first().copied().unwrap_or(1),
                channels,
                pixels,
                pixels,
            ],
            got: other.to_vec(),
        }),
    }
}
