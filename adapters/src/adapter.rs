//! Bottleneck adapters: in series behind attention and MLP (Houlsby et al., 2019, arXiv
//! 1902.00751), behind the MLP alone (Pfeiffer et al., 2021, arXiv 2005.00247), or parallel to
//! the MLP (AdaptFormer, Chen et al., 2022, arXiv 2205.13535).
//!
//! ```text
//! series      y + s·up(a(down y))      y the output of a branch, before the residual sum
//! parallel    y + s·up(a(down x))      x its un-normed input
//! ```
//!
//! What the options leave open follows from the placement:
//!
//! | placement | branches | a | d | s | dropout | start |
//! |---|---|---|---|---|---|---|
//! | `houlsby` | attention, MLP | GELU | width/16 | 1 | 0 | weights N(0, .02): near the identity |
//! | `pfeiffer` | MLP | ReLU | width/16 | 1 | 0 | weights N(0, .02): near the identity |
//! | `parallel` | MLP | ReLU | 64 | .1 | .1 | down uniform in ±√(1/in), up 0: the identity |
//!
//! Biases start as zeros, dropout lies behind a. A ResNet's `convolution` branch is served when
//! it is named, by 1x1 convolutions; in parallel, its input is averaged to the output's grid, as
//! the shortcut's is. In series it also serves projections that are named: then y is their output.
//! Owns the placements; the arithmetic is [`bottleneck`](crate::bottleneck)'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{self, BranchSlot, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Channels, Hooks};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Branch, Sites};
use twinspan_sdk::{Result, ops, register};

use crate::bottleneck::{
    Activation, Bottleneck, Nonlinearity, Pointwise, behind, narrowed, outputs, squares,
};
use crate::setting::{Setting, check_count, check_dropout, check_factor, wrong};

/// Where a bottleneck lies, after the paper that put it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Behind attention and MLP.
    #[default]
    Houlsby,
    /// Behind the MLP.
    Pfeiffer,
    /// Parallel to the MLP.
    Parallel,
}

/// Bottlenecks beside or behind branches.
///
/// ```
/// use twinspan_adapters::adapter::{Adapter, Placement};
/// use twinspan_adapters::setting::Setting;
/// use twinspan_sdk::adapter::Adapter as _;
///
/// let wide = Adapter { reduction: Setting::Is(4), ..Default::default() };
/// assert!(!wide.capabilities().identity_at_start);
/// let parallel = Adapter { placement: Placement::Parallel, ..Default::default() };
/// assert!(parallel.capabilities().identity_at_start);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapter {
    /// Where the bottleneck lies.
    pub placement: Placement,
    /// Its width d.
    pub width: Setting<usize>,
    /// Or the output's width over d.
    pub reduction: Setting<usize>,
    /// The nonlinearity a.
    pub activation: Activation,
    /// The factor s.
    pub scale: Setting<f64>,
    /// Dropout behind a.
    pub dropout: Setting<f64>,
    /// Where.
    pub sites: Sites,
}

impl Plugin for Adapter {
    const NAME: &'static str = "adapter";
    const ABOUT: &'static str = "bottlenecks behind or beside branches (Houlsby et al., 2019; Pfeiffer et al., 2021; AdaptFormer, Chen et al., 2022)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "placement",
            "string",
            "houlsby (behind attention and MLP), pfeiffer (behind the MLP) or parallel (beside the MLP); what is `auto` below follows from it",
        ),
        Opt::new(
            "width",
            "integer or auto",
            "of the bottleneck; parallel: 64",
        ),
        Opt::new(
            "reduction",
            "integer or auto",
            "the output's width over the bottleneck's, in place of width; in series: 16",
        ),
        Opt::new(
            "activation",
            "string",
            "auto, relu, gelu or quick-gelu; houlsby: gelu, otherwise relu",
        ),
        Opt::new(
            "scale",
            "number or auto",
            "factor of what is added; in series: 1, parallel: 0.1",
        ),
        Opt::new(
            "dropout",
            "number or auto",
            "behind the activation; in series: 0, parallel: 0.1",
        ),
        Opt::sites(
            "both towers, the placement's branches; in series also projections that are named",
        ),
    ];
}

impl adapter::Adapter for Adapter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: self.placement == Placement::Parallel,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        outputs(
            &self.sites,
            match self.placement {
                Placement::Houlsby => &[Branch::Attention, Branch::Mlp],
                Placement::Pfeiffer | Placement::Parallel => &[Branch::Mlp],
            },
        )
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        if self.placement == Placement::Parallel {
            for (slot, branch) in slots.iter().filter_map(|s| Some((s, s.branch()?))) {
                let beside = self.beside(branch, &mut params.within(slot))?;
                hooks.branch(branch, beside);
            }
        } else {
            behind(slots, hooks, |name, width, channels| {
                self.bottleneck((width, width), channels, &mut params.within(name))
            })?;
        }
        Ok(Box::new(Idle))
    }
}

impl Adapter {
    fn check(&self, owner: &str) -> Result<()> {
        if self.placement == Placement::Parallel && !self.sites.projections.is_empty() {
            let why = "placement = parallel serves branches; projections take houlsby or pfeiffer";
            return Err(wrong(owner, why));
        }
        if let (Setting::Is(_), Setting::Is(_)) = (self.width, self.reduction) {
            return Err(wrong(
                owner,
                "width and reduction say the same: leave one out",
            ));
        }
        check_count(owner, "width", self.width.or(1))?;
        check_count(owner, "reduction", self.reduction.or(1))?;
        check_factor(owner, "scale", self.scale.or(1.0))?;
        check_dropout(owner, self.dropout.or(0.0))
    }

    fn beside(&self, slot: &BranchSlot, params: &mut Params) -> Result<Beside> {
        let ends = (slot.before.width, slot.width);
        Ok(Beside {
            squares: squares(slot, params.owner())?,
            bottleneck: self.bottleneck(ends, slot.channels(), params)?,
        })
    }

    fn bottleneck(
        &self,
        (input, output): (usize, usize),
        channels: Channels,
        params: &mut Params,
    ) -> Result<Bottleneck> {
        let series = (narrowed(output, 16, 1), 1.0, 0.0, [Init::Normal(0.02); 2]);
        let uniform = Init::KaimingUniform { fan: input };
        let parallel = (64, 0.1, 0.1, [uniform, Init::Zeros]);
        let (own, (width, scale, dropout, [down, up])) = match self.placement {
            Placement::Houlsby => (ops::gelu as Nonlinearity, series),
            Placement::Pfeiffer => (ops::relu as Nonlinearity, series),
            Placement::Parallel => (ops::relu as Nonlinearity, parallel),
        };
        let d = match self.reduction {
            Setting::Is(reduction) => narrowed(output, reduction, 1),
            Setting::Auto => self.width.or(width),
        };
        Ok(Bottleneck {
            down: Pointwise::make(&mut params.within("down"), (input, d), channels, down)?,
            activation: self.activation.or(own),
            dropout: self.dropout.or(dropout),
            up: Pointwise::make(&mut params.within("up"), (d, output), channels, up)?,
            scale: self.scale.or(scale),
        })
    }
}

/// y + f(x), x the branch's un-normed input.
struct Beside {
    bottleneck: Bottleneck,
    /// Side of the squares of x that are one pixel of y.
    squares: usize,
}

impl BranchHook for Beside {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = match self.squares {
            1 => view.input.clone(),
            side => ops::avg_pool2d(view.input, side)?,
        };
        Ok(ops::add(output, &self.bottleneck.forward(&x, pass)?)?)
    }
}

register!(adapter: Adapter);
