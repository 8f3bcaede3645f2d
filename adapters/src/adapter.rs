//! Bottleneck adapters: in series behind attention and MLP (Houlsby et al., 2019, arXiv
//! 1902.00751), behind the MLP alone (Pfeiffer et al., 2021, arXiv 2005.00247), or parallel to
//! the MLP (AdaptFormer, Chen et al., 2022, arXiv 2205.13535).
//!
//! ```text
//! series      y + s·up(a(down y))      y the output of a branch, before the residual sum
//! parallel    y + s·up(a(down x))      x its un-normed input
//! ```
//!
//! What the options leave open follows from the placement, see [`placement`]. Biases start as
//! zeros, dropout lies behind a. A ResNet's `convolution` branch is served when it is named, by 1x1
//! convolutions; in parallel, its input is averaged to the output's grid, as the shortcut's is. In
//! series it also serves projections that are named: then y is their output. Owns the options; the
//! arithmetic is [`bottleneck`](crate::bottleneck)'s.

pub mod placement;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{self, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Channels, Hooks};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::Sites;
use twinspan_sdk::{Result, register};

use crate::bottleneck::place::{behind, beside, outputs};
use crate::bottleneck::{Activation, Bottleneck, Pointwise, narrowed};
use crate::setting::{
    Setting, check_count, check_dropout, check_factor, choice, integer_or_auto, number_or_auto,
    wrong,
};
pub use placement::Placement;

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
        choice(
            "placement",
            "houlsby (behind attention and MLP), pfeiffer (behind the MLP) or parallel (beside the MLP); what is `auto` below follows from it",
        ),
        integer_or_auto("width", "of the bottleneck; parallel: 64"),
        integer_or_auto(
            "reduction",
            "the output's width over the bottleneck's, in place of width; in series: 16",
        ),
        choice(
            "activation",
            "auto, relu, gelu or quick-gelu; houlsby: gelu, otherwise relu",
        ),
        number_or_auto(
            "scale",
            "factor of what is added; in series: 1, parallel: 0.1",
        ),
        number_or_auto(
            "dropout",
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
        outputs(&self.sites, self.placement.branches())
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let owner = params.owner().to_string();
        self.check(&owner)?;
        let make =
            |name: &str, ends, channels| self.bottleneck(ends, channels, &mut params.within(name));
        match self.placement {
            Placement::Parallel => beside(slots, hooks, &owner, make)?,
            Placement::Houlsby | Placement::Pfeiffer => behind(slots, hooks, make)?,
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
            let why = "width and reduction say the same: leave one out";
            return Err(wrong(owner, why));
        }
        check_count(owner, "width", self.width.or(1))?;
        check_count(owner, "reduction", self.reduction.or(1))?;
        check_factor(owner, "scale", self.scale.or(1.0))?;
        check_dropout(owner, self.dropout.or(0.0))
    }

    fn bottleneck(
        &self,
        (input, output): (usize, usize),
        channels: Channels,
        params: &mut Params,
    ) -> Result<Bottleneck> {
        let own = self.placement.own(input, output);
        let d = match self.reduction {
            Setting::Is(reduction) => narrowed(output, reduction, 1),
            Setting::Auto => self.width.or(own.width),
        };
        Ok(Bottleneck {
            down: Pointwise::make(&mut params.within("down"), (input, d), channels, own.down)?,
            activation: self.activation.or(own.activation),
            dropout: self.dropout.or(own.dropout),
            up: Pointwise::make(&mut params.within("up"), (d, output), channels, own.up)?,
            scale: self.scale.or(own.scale),
        })
    }
}

register!(adapter: Adapter);
