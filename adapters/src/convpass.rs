//! Convpass (Jie & Deng, 2022, arXiv 2207.07039): a convolutional bypass of a vision transformer,
//! parallel to attention and to MLP.
//!
//! ```text
//! f(x) = s·(U σ(K ∗ σ(D x + b) + k) + c)     x [B, N, D] the normed input, σ QuickGELU
//! y + f(x)                                   K [d, d, 3, 3] on the grid of the patches
//! ```
//!
//! A token beside the patches is a map of one pixel: class tokens, registers and prompts meet the
//! centre of K alone. Default sites: attention and MLP of the vision tower; where tokens lie on no
//! grid it is refused. Start: D Xavier-uniform, K the identity at its centre, U 0, biases 0: the
//! identity. Dropout lies before U. K is `on_grid`'s, down and up are
//! [`bottleneck`](crate::bottleneck)'s.

mod on_grid;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Channels, Hooks};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Branch, Sites, Tower};
use twinspan_sdk::{Result, ops, register};

use crate::bottleneck::Pointwise;
use crate::setting::{
    IDENTITY, check_count, check_dropout, check_factor, integer, number, sites_or, wrong,
};
use on_grid::OnGrid;

/// Convolutional bypasses of attention and MLP.
///
/// ```
/// use twinspan_adapters::convpass::Convpass;
/// use twinspan_sdk::site::{Branch, Sites};
///
/// // Convpass-attn of the paper: beside the attentions alone.
/// let sites = Sites { branches: vec![Branch::Attention], ..Default::default() };
/// let convpass = Convpass { sites, ..Default::default() };
/// assert_eq!(convpass.width, 8);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Convpass {
    /// Channels d of the convolution.
    pub width: usize,
    /// The factor s.
    pub scale: f64,
    /// Dropout before U.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Convpass {
    fn default() -> Self {
        Self {
            width: 8,
            scale: 1.0,
            dropout: 0.1,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Convpass {
    const NAME: &'static str = "convpass";
    const ABOUT: &'static str =
        "convolutional bypasses of attention and MLP (Convpass, Jie & Deng, 2022)";
    const OPTIONS: &'static [Opt] = &[
        integer("width", "channels of the convolution"),
        number("scale", "factor of what is added"),
        number("dropout", "before the way up, while training"),
        Opt::sites("vision, attention and mlp"),
    ];
}

impl Adapter for Convpass {
    fn capabilities(&self) -> Capabilities {
        IDENTITY
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Branches {
            sites: sites_or(&self.sites, Tower::Vision),
            default: &[Branch::Attention, Branch::Mlp],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        for (slot, branch) in slots.iter().filter_map(|s| Some((s, s.branch()?))) {
            if branch.stream.grid.is_none() || branch.stream.map {
                let why = "is no branch of tokens on a grid; sites are attention and mlp of a vision transformer";
                return Err(wrong(params.owner(), format!("{slot} {why}")));
            }
            let bypass = self.bypass(branch.width, &mut params.within(slot))?;
            hooks.branch(branch, bypass);
        }
        Ok(Box::new(Idle))
    }
}

impl Convpass {
    fn check(&self, owner: &str) -> Result<()> {
        check_count(owner, "width", self.width)?;
        check_factor(owner, "scale", self.scale)?;
        check_dropout(owner, self.dropout)
    }

    fn bypass(&self, width: usize, params: &mut Params) -> Result<Bypass> {
        let d = self.width;
        let xavier = Init::Xavier {
            fan_in: width,
            fan_out: d,
        };
        let tokens = Channels::Last;
        Ok(Bypass {
            down: Pointwise::make(&mut params.within("down"), (width, d), tokens, xavier)?,
            conv: OnGrid::make(&mut params.within("conv"), d)?,
            dropout: self.dropout,
            up: Pointwise::make(&mut params.within("up"), (d, width), tokens, Init::Zeros)?,
            scale: self.scale,
        })
    }
}

/// y + s·up(σ(conv(σ(down x)))), x the branch's normed input.
struct Bypass {
    down: Pointwise,
    conv: OnGrid,
    dropout: f64,
    up: Pointwise,
    scale: f64,
}

impl BranchHook for Bypass {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let narrow = ops::quick_gelu(&self.down.forward(view.normed, pass)?)?;
        let mixed = self.conv.forward(&view.stream.with(narrow), pass)?;
        let mixed = ops::dropout(&ops::quick_gelu(&mixed)?, pass.dropout(self.dropout))?;
        let wide = (self.up.forward(&mixed, pass)? * self.scale)?;
        Ok(ops::add(output, &wide)?)
    }
}

register!(adapter: Convpass);
