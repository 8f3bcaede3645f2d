//! The attention pool behind CLIP's ResNet.
//!
//! Owns its positions and its two ways of pooling: CLIP's (the mean is the one query) and ETRIS's
//! (dense: every place is a query), with ETRIS's residual `connect`.
//!
//! Sources: <https://github.com/openai/CLIP>, `AttentionPool2d`; the code released with ETRIS
//! (arXiv 2307.11545).

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::backbone::Weights;
use twinspan_sdk::hooks::PlaceHooks;
use twinspan_sdk::layers::Linear;
use twinspan_sdk::ops::{self, Dropout, Interpolation, Mask};
use twinspan_sdk::parameter::{Init, Parameter};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Projection, Role};
use twinspan_sdk::topology::Origin;

use super::resnet::ConvNorm;
use twinspan_sdk::declare::{Declared, Layer};

/// The projections of the attention.
const POOL: [Projection; 4] = [
    Projection::Query,
    Projection::Key,
    Projection::Value,
    Projection::Output,
];

/// The sizes of an attention pool, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolShape {
    /// Channels C of the map.
    pub channels: usize,
    /// Heads; they divide the channels.
    pub heads: usize,
    /// Side of the map at the input CLIP was trained on, n: it gives the table of positions.
    pub side: usize,
    /// Whether dense pooling has a residual.
    pub connect: bool,
    /// Width E of the joint space.
    pub joint: usize,
}

impl PoolShape {
    pub fn declare(&self, declared: &mut Declared) {
        let channels = self.channels;
        let used = [At::Final, At::Pooled];
        let rows = 1 + self.side * self.side;
        let shape = [rows, channels];
        declared.parameter("vision.pool.position", &shape, Role::Position, &used);
        for projection in POOL {
            let output = match projection {
                Projection::Output => self.joint,
                _ => channels,
            };
            let layer = Layer::linear(At::Final, projection, channels, output);
            declared.layer(&format!("vision.pool.{projection}"), layer, &used);
        }
        if self.connect {
            let widths = (channels, self.joint);
            let conv = Layer::conv(At::Final, Projection::Connect, widths, 1, 1);
            let start = Origin::Fresh(Init::KaimingUniform { fan: channels });
            declared.layer_from(start, "vision.pool.connect.conv", conv, &[At::Final]);
            declared.fresh_batch_norm("vision.pool.connect.norm", self.joint, &[At::Final]);
        }
    }
}

/// CLIP's attention pool over a map `[B, C, H, W]`.
pub(super) struct Pool {
    /// `[1 + n², C]`: the mean's, then those of the grid CLIP was trained on.
    positions: Parameter,
    shape: PoolShape,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    connect: Option<ConvNorm>,
}

impl Pool {
    pub fn load(weights: &Weights, shape: PoolShape) -> Result<Self> {
        let [query, key, value, output] =
            POOL.map(|p| Linear::load(weights, &format!("vision.pool.{p}")));
        let connect = || ConvNorm::load_single(weights, "vision.pool.connect");
        Ok(Self {
            positions: weights.parameter("vision.pool.position")?,
            shape,
            query: query?,
            key: key?,
            value: value?,
            output: output?,
            connect: shape.connect.then(connect).transpose()?,
        })
    }

    /// Every place as a query: `[B, E, H, W]`. With `connect` its residual is added and the sum
    /// rectified; without, the pool's output is left as it is.
    pub fn dense(&self, map: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let (batch, _, rows, columns) = map.dims4()?;
        let table = self.positions.tensor(pass)?;
        let places = self.places(map, &table)?;
        let pooled = self.attend(&places, &places, hooks, pass)?;
        let pooled = pooled
            .transpose(1, 2)?
            .reshape((batch, (), rows, columns))?;
        let Some(connect) = &self.connect else {
            return Ok(pooled);
        };
        let residual = connect.forward(Projection::Connect, map, hooks, pass)?;
        Ok(ops::relu(&ops::add(&pooled, &residual)?)?)
    }

    /// The mean as the one query, the mean and every place as memory: `[B, E]`.
    pub fn mean(&self, map: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor> {
        let table = self.positions.tensor(pass)?;
        // The map is square, as the input is.
        let mean = ops::avg_pool2d(map, map.dim(3)?)?;
        let mean = mean.flatten_from(2)?.transpose(1, 2)?;
        let mean = ops::add(&mean, &table.narrow(0, 0, 1)?)?;
        let all = ops::concat(&mean, &self.places(map, &table)?, 1)?;
        let pooled = self.attend(&mean, &all, hooks, pass)?;
        Ok(pooled.squeeze(1)?)
    }

    /// Every place of the map with its position, `[B, H·W, C]`; the table is resized to the map
    /// where CLIP was trained on another.
    fn places(&self, map: &Tensor, table: &Tensor) -> Result<Tensor> {
        let (_, channels, rows, columns) = map.dims4()?;
        let side = self.shape.side;
        let mut positions = table.narrow(0, 1, side * side)?;
        if (rows, columns) != (side, side) {
            let grid = positions.t()?.reshape((1, channels, side, side))?;
            let grid = ops::resize(&grid, (rows, columns), Interpolation::Bicubic, false)?;
            positions = grid.reshape((channels, rows * columns))?.t()?;
        }
        let places = map.flatten_from(2)?.transpose(1, 2)?;
        Ok(ops::add(&places, &positions)?)
    }

    fn attend(
        &self,
        queries: &Tensor,
        memory: &Tensor,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let query = hooks.projection(Projection::Query);
        let query = query.forward(&self.query, queries, pass)?;
        let key = hooks.projection(Projection::Key);
        let key = key.forward(&self.key, memory, pass)?;
        let value = hooks.projection(Projection::Value);
        let value = value.forward(&self.value, memory, pass)?;
        let (heads, mask) = (self.shape.heads, Mask::default());
        let mixed = ops::attention(&query, &key, &value, heads, mask, Dropout::default())?;
        let output = hooks.projection(Projection::Output);
        output.forward(&self.output, &mixed, pass)
    }
}
