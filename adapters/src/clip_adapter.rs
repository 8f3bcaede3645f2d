//! CLIP-Adapter (Gao et al., 2021, arXiv 2110.04544): a small network on the pooled vector, mixed
//! with it.
//!
//! ```text
//! f' = ratio·A(f) + (1 - ratio)·f        A(f) = relu(W₂ relu(W₁ f))
//! W₁ [E/reduction, E], W₂ [E, E/reduction], no biases
//! ```
//!
//! The second ReLU is the released code's; the paper's equation ends with W₂. Default: the vision
//! tower, reduction 4, ratio 0.2. Starts at uniform weights in ±√(1/in), which is not the
//! identity. Owns the network; similarities see the length of f' no more than that of f.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, PooledSlot, Slot, Want};
use twinspan_sdk::hooks::{Hooks, PooledHook};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::Tower;
use twinspan_sdk::{Result, register};

use crate::setting::{integer, number, wrong};

/// A network on pooled vectors.
///
/// ```
/// use twinspan_adapters::clip_adapter::ClipAdapter;
/// use twinspan_sdk::adapter::{Adapter, Want};
/// use twinspan_sdk::site::Tower;
///
/// let text = ClipAdapter { towers: vec![Tower::Text], ..Default::default() };
/// assert_eq!(text.wants(), [Want::Pooled { towers: vec![Tower::Text] }]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipAdapter {
    /// Width of the vector over that of the network's middle.
    pub reduction: usize,
    /// How much of the new vector is the network's.
    pub ratio: f64,
    /// Towers; empty for both.
    pub towers: Vec<Tower>,
}

impl Default for ClipAdapter {
    fn default() -> Self {
        Self {
            reduction: 4,
            ratio: 0.2,
            towers: vec![Tower::Vision],
        }
    }
}

impl Plugin for ClipAdapter {
    const NAME: &'static str = "clip-adapter";
    const ABOUT: &'static str =
        "a small network on the pooled vector (CLIP-Adapter, Gao et al., 2021)";
    const OPTIONS: &'static [Opt] = &[
        integer(
            "reduction",
            "width of the vector over that of the network's middle",
        ),
        number(
            "ratio",
            "how much of the new vector is the network's, above 0 and at most 1",
        ),
        Opt::new(
            "towers",
            "list of strings",
            "whose vectors: vision, text; empty for both",
        ),
    ];
}

impl Adapter for ClipAdapter {
    fn wants(&self) -> Vec<Want> {
        vec![Want::Pooled {
            towers: self.towers.clone(),
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots.iter().filter_map(Slot::pooled) {
            self.check(params.owner(), slot)?;
            let network = self.network(slot.width, &mut params.within(slot.tower))?;
            hooks.pooled(slot, network);
        }
        Ok(Box::new(Idle))
    }
}

impl ClipAdapter {
    fn check(&self, owner: &str, slot: &PooledSlot) -> Result<()> {
        if !(1..=slot.width).contains(&self.reduction) {
            let message = format!(
                "reduction = {} must lie between 1 and {}, the width of the {} vector",
                self.reduction, slot.width, slot.tower
            );
            return Err(wrong(owner, message));
        }
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            let message = format!("ratio = {} must lie in (0, 1]", self.ratio);
            return Err(wrong(owner, message));
        }
        Ok(())
    }

    fn network(&self, width: usize, params: &mut Params) -> Result<Network> {
        let middle = width / self.reduction;
        let uniform = |fan| Init::KaimingUniform { fan };
        Ok(Network {
            down: params.trained("down", &[middle, width], uniform(width))?,
            up: params.trained("up", &[width, middle], uniform(middle))?,
            ratio: self.ratio,
        })
    }
}

/// A(f), mixed with f.
struct Network {
    down: Parameter,
    up: Parameter,
    ratio: f64,
}

impl PooledHook for Network {
    fn forward(&self, pooled: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let middle = ops::relu(&ops::linear(pooled, &self.down.tensor(pass)?, None)?)?;
        let own = ops::relu(&ops::linear(&middle, &self.up.tensor(pass)?, None)?)?;
        let kept = (pooled * (1.0 - self.ratio))?;
        Ok(ops::add(&kept, &(own * self.ratio)?)?)
    }
}

register!(adapter: ClipAdapter);
