//! Conv-Adapter (Chen et al., 2022, arXiv 2208.07463): a depth-wise bottleneck for convolutional
//! stages.
//!
//! ```text
//! f(x) = α ⊙ (U a(K ∗ x + b) + c)       K [w, γ, k, k] in w = C/γ groups, U [out, w], α [out]
//! ```
//!
//! | placement | where | k, stride, padding |
//! |---|---|---|
//! | `conv-parallel` | y + f(x) around a convolution y of x | the convolution's |
//! | `conv-series` | y + f(y) behind it | k, 1, k/2 |
//! | `residual-parallel` | y + f(x), y a branch of a block and x its normed input | k, the branch's, k/2 |
//! | `residual-series` | y + f(y) behind it | k, 1, k/2 |
//!
//! Default sites: the second convolutions, or the convolutional branches, of the vision tower; a
//! branch of tokens on a grid is served when it is named, its patches alone. γ 4, k 3, ReLU. Start:
//! K uniform in ±√(1/(γ·k²)), U and biases 0, α 1: the identity. (The released code starts U at
//! random, and adds behind the batch norm and ReLU of the second convolution what is added here in
//! front of them.) K is [`depthwise`](crate::depthwise)'s, U [`bottleneck`](crate::bottleneck)'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, BranchSlot, Idle, Installed, ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Bypass, Channels, Hooks, Transform};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Branch, Projection, Sites, Tower};
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Result, register};

use crate::bottleneck::{Activation, Nonlinearity, Pointwise, squares};
use crate::depthwise::Depthwise;
use crate::setting::{check_count, wrong};

/// Larger kernels are slips of the pen.
const MOST_KERNEL: usize = 31;

/// The paper's four schemes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Around a convolution.
    #[default]
    ConvParallel,
    /// Behind a convolution.
    ConvSeries,
    /// Around a block's branch.
    ResidualParallel,
    /// Behind a block's branch.
    ResidualSeries,
}

/// Depth-wise bottlenecks of convolutional stages.
///
/// ```
/// use twinspan_adapters::conv_adapter::{ConvAdapter, Placement};
/// use twinspan_sdk::adapter::{Adapter, Want};
///
/// let behind = ConvAdapter { placement: Placement::ResidualSeries, ..Default::default() };
/// assert!(matches!(behind.wants()[..], [Want::Branches { .. }]));
/// assert!(matches!(ConvAdapter::default().wants()[..], [Want::Projections { .. }]));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvAdapter {
    /// Where the bottleneck lies.
    pub placement: Placement,
    /// Channels γ of a group; it divides the width.
    pub reduction: usize,
    /// Side k of the kernel, where it is not the convolution's; odd.
    pub kernel: usize,
    /// The nonlinearity a.
    pub activation: Activation,
    /// Where.
    pub sites: Sites,
}

impl Default for ConvAdapter {
    fn default() -> Self {
        Self {
            placement: Placement::ConvParallel,
            reduction: 4,
            kernel: 3,
            activation: Activation::Auto,
            sites: Sites::default(),
        }
    }
}

impl Plugin for ConvAdapter {
    const NAME: &'static str = "conv-adapter";
    const ABOUT: &'static str =
        "depth-wise bottlenecks of convolutional stages (Conv-Adapter, Chen et al., 2022)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "placement",
            "string",
            "conv-parallel (around a convolution), conv-series, residual-parallel (around a branch) or residual-series",
        ),
        Opt::new(
            "reduction",
            "integer",
            "channels of a group, of which one is made; it divides the width",
        ),
        Opt::new(
            "kernel",
            "odd integer",
            "side of the kernel; conv-parallel has the convolution's",
        ),
        Opt::new(
            "activation",
            "string",
            "auto (relu), relu, gelu or quick-gelu",
        ),
        Opt::sites("vision, conv2, or the convolution branch of residual placements"),
    ];
}

impl Adapter for ConvAdapter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        let mut sites = self.sites.clone();
        if sites.towers.is_empty() {
            sites.towers.push(Tower::Vision);
        }
        vec![match self.placement {
            Placement::ConvParallel | Placement::ConvSeries => Want::Projections {
                sites,
                default: &[Projection::Conv2],
            },
            Placement::ResidualParallel | Placement::ResidualSeries => Want::Branches {
                sites,
                default: &[Branch::Convolution],
            },
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        for slot in slots {
            let name = slot.to_string();
            match slot {
                Slot::Projection(slot) => self.at_convolution(slot, params, hooks)?,
                Slot::Branch(slot) => self.at_branch(slot, &name, params, hooks)?,
                _ => {}
            }
        }
        Ok(Box::new(Idle))
    }
}

impl ConvAdapter {
    fn check(&self, owner: &str) -> Result<()> {
        check_count(owner, "reduction", self.reduction)?;
        match (self.kernel % 2, self.kernel <= MOST_KERNEL) {
            (1, true) => Ok(()),
            _ => Err(wrong(
                owner,
                format!(
                    "kernel = {} must be odd and at most {MOST_KERNEL}",
                    self.kernel
                ),
            )),
        }
    }

    /// A convolution with a k by k kernel that makes one pixel of `stride` by `stride`.
    fn around(&self, stride: usize) -> (usize, Conv) {
        let padding = self.kernel / 2;
        (self.kernel, Conv { stride, padding })
    }

    fn at_convolution(
        &self,
        slot: &ProjectionSlot,
        params: &mut Params,
        hooks: &mut Hooks,
    ) -> Result<()> {
        let Shape::Conv {
            kernel,
            stride,
            padding,
        } = slot.shape
        else {
            let what = format!("{} is no convolution", slot.name);
            return Err(wrong(params.owner(), what));
        };
        let output = slot.output;
        if self.placement == Placement::ConvSeries {
            let behind = self.bottleneck((output, output), self.around(1), &slot.name, params)?;
            hooks.output(slot, behind);
        } else {
            let own = (kernel, Conv { stride, padding });
            let beside = self.bottleneck((slot.input, output), own, &slot.name, params)?;
            hooks.bypass(slot, beside);
        }
        Ok(())
    }

    fn at_branch(
        &self,
        slot: &BranchSlot,
        name: &str,
        params: &mut Params,
        hooks: &mut Hooks,
    ) -> Result<()> {
        if slot.stream.grid.is_none() {
            let what = format!("{name} lies on no grid");
            return Err(wrong(params.owner(), what));
        }
        let series = self.placement == Placement::ResidualSeries;
        let (input, stride) = match series {
            true => (slot.width, 1),
            false => (slot.before.width, squares(slot, params.owner())?),
        };
        let (ends, conv) = ((input, slot.width), self.around(stride));
        let bottleneck = self.bottleneck(ends, conv, name, params)?;
        hooks.branch(slot, OnGrid { bottleneck, series });
        Ok(())
    }

    fn bottleneck(
        &self,
        (input, output): (usize, usize),
        (kernel, conv): (usize, Conv),
        name: &str,
        params: &mut Params,
    ) -> Result<Bottleneck> {
        let each = self.reduction;
        if !input.is_multiple_of(each) {
            let message =
                format!("reduction = {each} does not divide the {input} channels of {name}");
            return Err(wrong(params.owner(), message));
        }
        let width = input / each;
        let mut here = params.within(name);
        let ends = (width, output);
        Ok(Bottleneck {
            down: Depthwise::make(&mut here.within("down"), (width, each), kernel, conv)?,
            activation: self.activation.or(ops::relu),
            up: Pointwise::make(&mut here.within("up"), ends, Channels::Map, Init::Zeros)?,
            scale: here.trained("scale", &[output], Init::Ones)?,
        })
    }
}

/// α ⊙ up(a(down x)), of maps.
struct Bottleneck {
    down: Depthwise,
    activation: Nonlinearity,
    up: Pointwise,
    scale: Parameter,
}

impl Bottleneck {
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
struct OnGrid {
    bottleneck: Bottleneck,
    series: bool,
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

register!(adapter: ConvAdapter);
