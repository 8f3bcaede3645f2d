//! The bottleneck of the branch methods: down to a few channels, a nonlinearity, up again.
//!
//! ```text
//! f(x) = s · (U a(D x + b) + c)      D [d, in], U [out, d], on the channels of tokens or of a map
//! ```
//!
//! Owns the arithmetic, with D and U stored whole or made of smaller parts ([`Matrix`]), and the
//! hook that puts a bottleneck in series behind an output, y + f(y). How wide it is and how it
//! starts is each method's own. No plugin.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{BranchSlot, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Channels, Hooks, Transform};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Sites};

use crate::setting::wrong;

/// The nonlinearity a, of any shape, element by element.
pub type Nonlinearity = fn(&Tensor) -> candle_core::Result<Tensor>;

/// The choice of a nonlinearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// What the placement or the method has.
    #[default]
    Auto,
    /// max(x, 0).
    Relu,
    /// x Φ(x), exact.
    Gelu,
    /// x σ(1.702 x).
    QuickGelu,
}

impl Activation {
    /// The chosen one, or `own` where it is left open.
    pub fn or(self, own: Nonlinearity) -> Nonlinearity {
        match self {
            Activation::Auto => own,
            Activation::Relu => ops::relu,
            Activation::Gelu => ops::gelu,
            Activation::QuickGelu => ops::quick_gelu,
        }
    }
}

/// A matrix `[out, in]`, however it is stored.
pub trait Matrix: Send + Sync + 'static {
    /// Its values within `pass`.
    ///
    /// # Errors
    /// An operation failed.
    fn values(&self, pass: &Pass) -> Result<Tensor>;
}

impl Matrix for Parameter {
    fn values(&self, pass: &Pass) -> Result<Tensor> {
        self.tensor(pass)
    }
}

/// W x + b on channels: a linear layer of tokens, a 1x1 convolution of a map.
pub struct Pointwise<M = Parameter> {
    weight: M,
    bias: Parameter,
    channels: Channels,
}

impl Pointwise {
    /// A new layer from `input` to `output` channels with a bias of zeros.
    ///
    /// # Errors
    /// The name is taken.
    pub fn make(
        params: &mut Params,
        (input, output): (usize, usize),
        channels: Channels,
        start: Init,
    ) -> Result<Self> {
        let weight = params.trained("weight", &[output, input], start)?;
        Self::over(weight, output, params, channels)
    }
}

impl<M: Matrix> Pointwise<M> {
    /// A layer over `weight`, with a new bias of zeros for its `output` channels.
    ///
    /// # Errors
    /// The name is taken.
    pub fn over(weight: M, output: usize, params: &mut Params, channels: Channels) -> Result<Self> {
        Ok(Self {
            weight,
            bias: params.trained("bias", &[output], Init::Zeros)?,
            channels,
        })
    }

    /// `[B, N, in]` to `[B, N, out]`, or `[B, in, H, W]` to `[B, out, H, W]`.
    ///
    /// # Errors
    /// The width differs.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (self.weight.values(pass)?, self.bias.tensor(pass)?);
        Ok(match self.channels {
            Channels::Last => ops::linear(x, &weight, Some(&bias))?,
            Channels::Map => {
                let (output, input) = weight.dims2()?;
                let kernel = weight.reshape((output, input, 1, 1))?;
                ops::conv2d(x, &kernel, Some(&bias), Conv::default())?
            }
        })
    }
}

/// s · up(a(down x)).
pub struct Bottleneck<M = Parameter> {
    /// To d channels.
    pub down: Pointwise<M>,
    /// The nonlinearity.
    pub activation: Nonlinearity,
    /// Dropout behind it.
    pub dropout: f64,
    /// To the output's channels.
    pub up: Pointwise<M>,
    /// The factor s.
    pub scale: f64,
}

impl<M: Matrix> Bottleneck<M> {
    /// The same layout as `x`, with the channels of `up`.
    ///
    /// # Errors
    /// The width differs.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let narrow = (self.activation)(&self.down.forward(x, pass)?)?;
        let narrow = ops::dropout(&narrow, pass.dropout(self.dropout))?;
        let wide = self.up.forward(&narrow, pass)?;
        Ok(match self.scale == 1.0 {
            true => wide,
            false => (wide * self.scale)?,
        })
    }
}

/// y + f(y), behind a branch or a projection.
struct InSeries<M>(Bottleneck<M>);

impl<M: Matrix> Transform for InSeries<M> {
    fn forward(&self, y: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Ok(ops::add(y, &self.0.forward(y, pass)?)?)
    }
}

impl<M: Matrix> BranchHook for InSeries<M> {
    fn forward(&self, _: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Transform::forward(self, output, pass)
    }
}

/// Hangs what `make` makes, of a place's name, width and channels, behind every branch and
/// projection of `slots`.
///
/// # Errors
/// It cannot be made.
pub fn behind<M: Matrix>(
    slots: &[Slot],
    hooks: &mut Hooks,
    mut make: impl FnMut(&str, usize, Channels) -> Result<Bottleneck<M>>,
) -> Result<()> {
    for slot in slots {
        let name = slot.to_string();
        match slot {
            Slot::Branch(slot) => {
                let behind = make(&name, slot.width, slot.channels())?;
                hooks.branch(slot, InSeries(behind));
            }
            Slot::Projection(slot) => {
                let behind = make(&name, slot.output, slot.channels())?;
                hooks.output(slot, InSeries(behind));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Wishes for the places of a bottleneck in series: outputs of `default` branches, or of the
/// branches and projections that `sites` names.
pub fn outputs(sites: &Sites, default: &'static [Branch]) -> Vec<Want> {
    let (branches, projections) = (&sites.branches, &sites.projections);
    let mut wants = Vec::new();
    if !branches.is_empty() || projections.is_empty() {
        wants.push(Want::Branches {
            sites: sites.clone(),
            default,
        });
    }
    if !projections.is_empty() {
        wants.push(Want::Projections {
            sites: sites.clone(),
            default: &[],
        });
    }
    wants
}

/// The narrow width d for `channels`: at least one, and a whole multiple of `of`.
pub fn narrowed(channels: usize, reduction: usize, of: usize) -> usize {
    (channels / reduction.max(1))
        .max(1)
        .next_multiple_of(of.max(1))
}

/// Side of the squares of a branch's input that one pixel of its output covers: 1 but for maps
/// that shrink.
///
/// # Errors
/// The grids do not divide, in the name of `owner`.
pub fn squares(slot: &BranchSlot, owner: &str) -> Result<usize> {
    let (Some(from), Some(to)) = (slot.before.grid, slot.stream.grid) else {
        return Ok(1);
    };
    let side = from.0 / to.0.max(1);
    match from == (to.0 * side, to.1 * side) {
        true => Ok(side),
        false => Err(wrong(
            owner,
            format!(
                "block {} of {} goes from {from:?} pixels to {to:?}, which do not divide",
                slot.block, slot.tower
            ),
        )),
    }
}
