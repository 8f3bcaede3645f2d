//! Conv-Adapter (Chen et al., 2022, arXiv 2208.07463): depth-wise bottlenecks of convolutions.
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
//! front of them.) f is `depthwise_bottleneck`'s.

mod depthwise_bottleneck;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Branch, Projection, Sites, Tower};
use twinspan_sdk::{Result, register};

use crate::bottleneck::Activation;
use crate::setting::{IDENTITY, check_count, choice, integer, sites_or};
use depthwise_bottleneck::{Bottleneck, OnGrid, Reach, check_kernel};

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

impl Placement {
    fn in_series(self) -> bool {
        matches!(self, Placement::ConvSeries | Placement::ResidualSeries)
    }
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
        choice(
            "placement",
            "conv-parallel (around a convolution), conv-series, residual-parallel (around a branch) or residual-series",
        ),
        integer(
            "reduction",
            "channels of a group, of which one is made; it divides the width",
        ),
        Opt::new(
            "kernel",
            "odd integer",
            "side of the kernel; conv-parallel has the convolution's",
        ),
        choice("activation", "auto (relu), relu, gelu or quick-gelu"),
        Opt::sites("vision, conv2, or the convolution branch of residual placements"),
    ];
}

impl Adapter for ConvAdapter {
    fn capabilities(&self) -> Capabilities {
        IDENTITY
    }

    fn wants(&self) -> Vec<Want> {
        let sites = sites_or(&self.sites, Tower::Vision);
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
        let series = self.placement.in_series();
        for slot in slots {
            let Some(reach) = Reach::of(self, slot, params.owner())? else {
                continue;
            };
            let bottleneck = Bottleneck::make(self, reach, slot, params)?;
            match slot {
                Slot::Projection(s) if series => hooks.output(s, bottleneck),
                Slot::Projection(s) => hooks.bypass(s, bottleneck),
                Slot::Branch(s) => hooks.branch(s, OnGrid { bottleneck, series }),
                _ => {}
            }
        }
        Ok(Box::new(Idle))
    }
}

impl ConvAdapter {
    fn check(&self, owner: &str) -> Result<()> {
        check_count(owner, "reduction", self.reduction)?;
        check_kernel(owner, self.kernel)
    }
}

register!(adapter: ConvAdapter);
