//! Compacter (Karimi Mahabadi et al., 2021, arXiv 2106.04647): adapters of Kronecker products.
//!
//! ```text
//! y + up(a(down y))         W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ)     i = 1..n, for W of down and of up
//!                           Aᵢ [n, n], sᵢ [out/n, r], tᵢ [in/n, r]
//! ```
//!
//! A `[n, n, n]` is one parameter of all sites and both towers, whatever their widths; s and t are
//! each weight's own. Default sites: attention and MLP (`houlsby`), or the MLP (`pfeiffer`), and
//! whatever else [`adapter`](crate::adapter) serves in series. Defaults: n 4, r 1, width/32 rounded
//! up to a multiple of n, GELU. Start: A N(0, 1e-4), s and t Xavier-uniform, biases 0: near the
//! identity. The sum is `kronecker`'s, the rest [`bottleneck`](crate::bottleneck)'s.

mod kronecker;

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Channels, Hooks};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Branch, Sites};
use twinspan_sdk::{Result, ops, register};

use crate::bottleneck::place::{behind, outputs, width};
use crate::bottleneck::{Activation, Bottleneck, Pointwise, narrowed};
use crate::setting::{check_count, check_dropout, choice, integer, number, wrong};
use kronecker::Kronecker;

/// Where the adapters lie, after the paper that put them there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Behind attention and MLP.
    #[default]
    Houlsby,
    /// Behind the MLP.
    Pfeiffer,
}

/// Adapters of Kronecker products.
///
/// ```
/// use twinspan_adapters::compacter::{Compacter, Placement};
///
/// let sparing = Compacter { placement: Placement::Pfeiffer, ..Default::default() };
/// assert_eq!((sparing.n, sparing.rank, sparing.reduction), (4, 1, 32));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compacter {
    /// Where the adapters lie.
    pub placement: Placement,
    /// Products n in a sum; it divides the widths.
    pub n: usize,
    /// Rank r of sᵢ tᵢᵀ.
    pub rank: usize,
    /// The output's width over the bottleneck's.
    pub reduction: usize,
    /// The nonlinearity a.
    pub activation: Activation,
    /// Dropout behind it.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Compacter {
    fn default() -> Self {
        Self {
            placement: Placement::Houlsby,
            n: 4,
            rank: 1,
            reduction: 32,
            activation: Activation::Auto,
            dropout: 0.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Compacter {
    const NAME: &'static str = "compacter";
    const ABOUT: &'static str =
        "adapters of Kronecker products (Compacter, Karimi Mahabadi et al., 2021)";
    const OPTIONS: &'static [Opt] = &[
        choice(
            "placement",
            "houlsby (behind attention and MLP) or pfeiffer (behind the MLP)",
        ),
        integer("n", "products in a sum; it divides the widths"),
        integer("rank", "rank of each product's own factor"),
        integer(
            "reduction",
            "the output's width over the bottleneck's, which is rounded up to a multiple of n",
        ),
        choice("activation", "auto (gelu), relu, gelu or quick-gelu"),
        number("dropout", "behind the activation, while training"),
        Opt::sites("both towers, the placement's branches; also projections that are named"),
    ];
}

impl Adapter for Compacter {
    fn wants(&self) -> Vec<Want> {
        let branches: &[Branch] = match self.placement {
            Placement::Houlsby => &[Branch::Attention, Branch::Mlp],
            Placement::Pfeiffer => &[Branch::Mlp],
        };
        outputs(&self.sites, branches)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(slots, params.owner())?;
        let shared = params.trained("a", &[self.n; 3], Init::Normal(1e-4))?;
        behind(slots, hooks, |name, (width, _), channels| {
            self.bottleneck(&shared, width, channels, &mut params.within(name))
        })?;
        Ok(Box::new(Idle))
    }
}

impl Compacter {
    fn check(&self, slots: &[Slot], owner: &str) -> Result<()> {
        check_count(owner, "n", self.n)?;
        check_count(owner, "rank", self.rank)?;
        check_count(owner, "reduction", self.reduction)?;
        check_dropout(owner, self.dropout)?;
        let n = self.n;
        for (slot, width) in slots.iter().filter_map(|s| Some((s, width(s)?))) {
            if !width.is_multiple_of(n) {
                let message = format!("n = {n} does not divide {width}, the width of {slot}");
                return Err(wrong(owner, message));
            }
        }
        Ok(())
    }

    fn bottleneck(
        &self,
        shared: &Parameter,
        width: usize,
        channels: Channels,
        params: &mut Params,
    ) -> Result<Bottleneck<Kronecker>> {
        let d = narrowed(width, self.reduction, self.n);
        let mut layer = |name: &str, (input, output)| {
            let mut here = params.within(name);
            let sum = Kronecker::make(shared, (input, output), self.rank, &mut here)?;
            Pointwise::over(sum, output, &mut here, channels)
        };
        Ok(Bottleneck {
            down: layer("down", (width, d))?,
            activation: self.activation.or(ops::gelu),
            dropout: self.dropout,
            up: layer("up", (d, width))?,
            scale: 1.0,
        })
    }
}

register!(adapter: Compacter);
