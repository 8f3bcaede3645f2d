//! Prefix tuning (Li and Liang, ACL 2021, arXiv 2101.00190): learned keys and values in front of
//! those of every attention.
//!
//! ```text
//! K' = [P_K; K]    V' = [P_V; V]
//! h   = tanh(W_h E + b_h)                    E [n, D], h [n, m], both shared by a tower
//! P_K = W_K h + b_K    P_V = W_V h + b_V     of each attention, [n, D]
//! ```
//!
//! Reparametrised by default, n = 30 and m = 512, and computed anew in each pass; E starts N(0, 1),
//! the layers as in PyTorch. With m = 0, P_K and P_V are parameters themselves, N(0, .02). Queries
//! see the whole prefix, also where a causal mask hides later words; padding stays hidden. Default
//! sites: every attention in the blocks of both towers. It is not the identity at the start. h is
//! `perceptron`'s; masks for what stands in front are the attentions' business.

mod perceptron;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Hooks, KeyValueHook};
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Sites, Tower};
use twinspan_sdk::{Result, ops, register};

use crate::prompt::{START, each};
use crate::setting::{check_count, integer};
use perceptron::Perceptron;

/// Learned keys and values.
///
/// ```
/// use twinspan_adapters::prefix::Prefix;
/// use twinspan_sdk::adapter::{Adapter, Want};
///
/// let direct = Prefix { length: 10, hidden: 0, ..Default::default() };
/// assert!(matches!(&direct.wants()[..], [Want::KeyValues { .. }]));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prefix {
    /// Keys and values n in front of an attention's own.
    pub length: usize,
    /// Width m of the perceptron that makes them; 0 makes them parameters.
    pub hidden: usize,
    /// Where.
    pub sites: Sites,
}

impl Default for Prefix {
    fn default() -> Self {
        Self {
            length: 30,
            hidden: 512,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Prefix {
    const NAME: &'static str = "prefix";
    const ABOUT: &'static str = "learned keys and values in front of an attention's own (prefix tuning, Li and Liang, 2021)";
    const OPTIONS: &'static [Opt] = &[
        integer("length", "keys and values put in front"),
        integer(
            "hidden",
            "width of the tanh perceptron that makes them from one embedding a tower; 0 trains \
             them themselves",
        ),
        Opt::sites("every attention in the blocks of both towers"),
    ];
}

impl Adapter for Prefix {
    fn wants(&self) -> Vec<Want> {
        vec![Want::KeyValues {
            sites: self.sites.clone(),
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        check_count(params.owner(), "length", self.length)?;
        for tower in Tower::BOTH {
            let attentions = slots.iter().filter_map(Slot::key_value);
            let attentions: Vec<_> = attentions.filter(|s| s.tower == tower).collect();
            let Some(width) = attentions.first().map(|s| s.width) else {
                continue;
            };
            let mut here = params.within(tower);
            let shared = match self.hidden {
                0 => None,
                hidden => Some(Perceptron::make(&mut here, self.length, width, hidden)?),
            };
            for slot in attentions {
                let here = &mut here.within(format!("blocks.{}", slot.block));
                let made = self.made(slot.width, shared.as_ref(), here)?;
                hooks.key_value(slot, made);
            }
        }
        Ok(Box::new(Idle))
    }
}

impl Prefix {
    fn made(&self, width: usize, shared: Option<&Perceptron>, params: &mut Params) -> Result<Made> {
        let Some(shared) = shared else {
            let shape = [self.length, width];
            return Ok(Made::Direct {
                key: params.trained("key", &shape, START)?,
                value: params.trained("value", &shape, START)?,
            });
        };
        Ok(Made::Shared {
            key: Linear::make_uniform(&mut params.within("key"), self.hidden, width)?,
            value: Linear::make_uniform(&mut params.within("value"), self.hidden, width)?,
            shared: shared.clone(),
        })
    }
}

/// The prefix of one attention.
enum Made {
    Direct {
        key: Parameter,
        value: Parameter,
    },
    Shared {
        key: Linear,
        value: Linear,
        shared: Perceptron,
    },
}

impl KeyValueHook for Made {
    fn forward(&self, key: Tensor, value: Tensor, pass: &mut Pass) -> Result<(Tensor, Tensor)> {
        let (before_key, before_value) = match self {
            Made::Direct { key, value } => (key.tensor(pass)?, value.tensor(pass)?),
            Made::Shared { key, value, shared } => {
                let hidden = shared.hidden(pass)?;
                (key.forward(&hidden, pass)?, value.forward(&hidden, pass)?)
            }
        };
        Ok((before(&before_key, &key)?, before(&before_value, &value)?))
    }
}

/// `[n, D]` in front of `[B, N, D]`.
fn before(prefix: &Tensor, own: &Tensor) -> Result<Tensor> {
    let prefix = each(&prefix.unsqueeze(0)?, own.dim(0)?)?;
    Ok(ops::concat(&prefix, own, 1)?)
}

register!(adapter: Prefix);
