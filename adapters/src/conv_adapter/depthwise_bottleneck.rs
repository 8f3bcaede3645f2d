//! The bottleneck of Conv-Adapter, and the hooks that put it behind or beside what it changes.
//!
//! ```text
//! f(x) = α ⊙ (U a(K ∗ x + b) + c)       x [B, C, H, W]
//! ```
//!
//! Owns which K a place needs, the parameters, the pass and the hooks; where is [`super`]'s. K's
//! arithmetic is [`depthwise`](crate::depthwise)'s, U's [`bottleneck`](crate::bottleneck)'s.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::Slot;
use twinspan_sdk::hooks::{BranchHook, BranchView, Bypass, Channels, Transform};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::topology::Shape;

use super::ConvAdapter;
use crate::bottleneck::place::squares;
use crate::bottleneck::{Nonlinearity, Pointwise};
use crate::depthwise::Depthwise;
use crate::setting::wrong;

/// Larger kernels are slips of the pen.
const MOST_KERNEL: usize = 31;

/// Refuses a side of K that cannot be centred, or is too large.
pub(super) fn check_kernel(owner: &str, kernel: usize) -> Result<()> {
    if kernel.is_multiple_of(2) || kernel > MOST_KERNEL {
        let message = format!("kernel = {kernel} must be odd and at most {MOST_KERNEL}");
        return Err(wrong(owner, message));
    }
    Ok(())
}

/// What K reads and gives.
pub(super) struct Reach {
    /// Channels of x and of f(x).
    pub ends: (usize, usize),
    /// Side of K.
    pub kernel: usize,
    pub conv: Conv,
}

impl Reach {
    /// At a place of a placement; none at what is no place of its.
    pub fn of(options: &ConvAdapter, slot: &Slot, owner: &str) -> Result<Option<Self>> {
        let (kernel, padding) = (options.kernel, options.kernel / 2);
        let around = |ends, stride| Self {
            ends,
            kernel,
            conv: Conv { stride, padding },
        };
        let series = options.placement.in_series();
        Ok(Some(match slot {
            Slot::Projection(s) => match s.shape {
                Shape::Conv { .. } if series => around((s.output, s.output), 1),
                Shape::Conv {
                    kernel,
                    stride,
                    padding,
                } => Self {
                    ends: (s.input, s.output),
                    kernel,
                    conv: Conv { stride, padding },
                },
                _ => return Err(wrong(owner, format!("{slot} is no convolution"))),
            },
            Slot::Branch(s) if s.stream.grid.is_none() => {
                return Err(wrong(owner, format!("{slot} lies on no grid")));
            }
            Slot::Branch(s) if series => around((s.width, s.width), 1),
            Slot::Branch(s) => around((s.before.width, s.width), squares(s, owner)?),
            _ => return Ok(None),
        }))
    }
}

/// α ⊙ up(a(down x)), of maps.
pub(super) struct Bottleneck {
    down: Depthwise,
    activation: Nonlinearity,
    up: Pointwise,
    scale: Parameter,
}

impl Bottleneck {
    /// At a place, under its name.
    pub fn make(
        options: &ConvAdapter,
        reach: Reach,
        slot: &Slot,
        params: &mut Params,
    ) -> Result<Self> {
        let (each, (input, output)) = (options.reduction, reach.ends);
        if !input.is_multiple_of(each) {
            let message =
                format!("reduction = {each} does not divide the {input} channels of {slot}");
            return Err(wrong(params.owner(), message));
        }
        let (width, mut here) = (input / each, params.within(slot));
        let (groups, ends) = ((width, each), (width, output));
        Ok(Self {
            down: Depthwise::make(&mut here.within("down"), groups, reach.kernel, reach.conv)?,
            activation: options.activation.or(ops::relu),
            up: Pointwise::make(&mut here.within("up"), ends, Channels::Map, Init::Zeros)?,
            scale: here.trained("scale", &[output], Init::Ones)?,
        })
    }

    fn change(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let narrow = (self.activation)(&self.down.forward(x, pass)?)?;
        let scale = Channels::Map.shape(&self.scale.tensor(pass)?)?;
        Ok(ops::mul(&self.up.forward(&narrow, pass)?, &scale)?)
    }
}

impl Bypass for Bottleneck {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        self.change(x, pass)
    }
}

impl Transform for Bottleneck {
    fn forward(&self, y: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Ok(ops::add(y, &self.change(y, pass)?)?)
    }
}

/// y + f(y), or y + f(x), of a branch whose stream is a map or has patches.
pub(super) struct OnGrid {
    pub bottleneck: Bottleneck,
    /// y + f(y); otherwise x is the branch's normed input.
    pub series: bool,
}

impl BranchHook for OnGrid {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let read = match self.series {
            true => output,
            false => view.normed,
        };
        let change = self
            .bottleneck
            .change(&view.stream.with(read.clone()).grid()?, pass)?;
        Ok(view.stream.with(output.clone()).add_on_grid(&change)?.data)
    }
}
