//! LoRA (Hu et al., 2021, arXiv 2106.09685): a low-rank update beside a frozen weight.
//!
//! ```text
//! W' = W + s·B·A        A [r, in], B [out, r], s = α/r, or α/√r (rsLoRA, Kalajdzievski, 2023)
//! ```
//!
//! | projection | A | B | start |
//! |---|---|---|---|
//! | linear | `[r, in]` | `[out, r]` | A uniform in ±√(1/in), B 0 |
//! | convolution | `[r, in, k, k]`, with its stride and padding | `[out, r, 1, 1]` | A uniform in ±√(1/(in·k²)), B 0 |
//! | embedding | `[r, vocabulary]` | `[width, r]` | A 0, B N(0, 1) |
//!
//! Default sites: query and value of both towers. `rate_ratio` is LoRA+ (Hayou et al., 2024): B
//! learns that many times as fast. Owns the update; where it is added, and folding, are the
//! projection hooks' business.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::{Hooks, Update};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::topology::Shape;
use twinspan_sdk::{Error, Result, register};

/// Low-rank updates of projections.
///
/// ```
/// use twinspan_adapters::lora::Lora;
/// use twinspan_sdk::site::{Projection, Sites, Tower};
///
/// let lora = Lora {
///     rank: 16,
///     alpha: 32.0,
///     sites: Sites {
///         towers: vec![Tower::Text],
///         projections: vec![Projection::Query, Projection::Up],
///         ..Default::default()
///     },
///     ..Default::default()
/// };
/// assert_eq!(lora.scale(), 2.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank r of the update.
    pub rank: usize,
    /// Its strength α.
    pub alpha: f64,
    /// Scale α/√r in place of α/r.
    pub rslora: bool,
    /// Dropout on what A reads.
    pub dropout: f64,
    /// Learning rate of B over that of A.
    pub rate_ratio: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            rslora: false,
            dropout: 0.0,
            rate_ratio: 1.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Lora {
    const NAME: &'static str = "lora";
    const ABOUT: &'static str = "low-rank updates of projections (LoRA, Hu et al., 2021)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("rank", "integer", "rank of the update"),
        Opt::new("alpha", "number", "strength: the update counts alpha/rank"),
        Opt::new(
            "rslora",
            "boolean",
            "whether the update counts alpha/√rank instead",
        ),
        Opt::new(
            "dropout",
            "number",
            "on what A reads, while training; none on embeddings",
        ),
        Opt::new(
            "rate_ratio",
            "number",
            "learning rate of B over that of A (LoRA+: 16)",
        ),
        Opt::sites("both towers, query and value"),
    ];
}

impl Adapter for Lora {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            mergeable: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Projection::Query, Projection::Value],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        for slot in slots.iter().filter_map(Slot::projection) {
            let update = self.update(slot, &mut params.within(&slot.name))?;
            hooks.update(slot, update);
        }
        Ok(Box::new(Idle))
    }
}

impl Lora {
    /// The factor s of the update.
    pub fn scale(&self) -> f64 {
        match self.rslora {
            true => self.alpha / (self.rank as f64).sqrt(),
            false => self.alpha / self.rank as f64,
        }
    }

    fn check(&self, owner: &str) -> Result<()> {
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        if self.rank == 0 {
            return wrong("rank must be above 0".into());
        }
        if !self.alpha.is_finite() {
            return wrong(format!("alpha = {} must be a number", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {} must lie in [0, 1)", self.dropout));
        }
        if !(self.rate_ratio.is_finite() && self.rate_ratio > 0.0) {
            return wrong(format!("rate_ratio = {} must be above 0", self.rate_ratio));
        }
        Ok(())
    }

    fn update(&self, slot: &ProjectionSlot, params: &mut Params) -> Result<LowRank> {
        let (r, input, output) = (self.rank, slot.input, slot.output);
        let uniform = |fan| Init::KaimingUniform { fan };
        let (a, b, starts) = match slot.shape {
            Shape::Linear => (
                vec![r, input],
                vec![output, r],
                (uniform(input), Init::Zeros),
            ),
            Shape::Conv { kernel: k, .. } => (
                vec![r, input, k, k],
                vec![output, r, 1, 1],
                (uniform(input * k * k), Init::Zeros),
            ),
            Shape::Embedding => (
                vec![r, input],
                vec![output, r],
                (Init::Zeros, Init::Normal(1.0)),
            ),
        };
        Ok(LowRank {
            a: params.trained("a", &a, starts.0)?,
            b: params.rate(self.rate_ratio).trained("b", &b, starts.1)?,
            scale: self.scale(),
            dropout: self.dropout,
            shape: slot.shape,
        })
    }
}

/// s·B·A in the place of a weight.
struct LowRank {
    a: Parameter,
    b: Parameter,
    scale: f64,
    dropout: f64,
    shape: Shape,
}

impl Update for LowRank {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (a, b) = (self.a.tensor(pass)?, self.b.tensor(pass)?);
        match self.shape {
            Shape::Linear => {
                let x = ops::dropout(x, pass.dropout(self.dropout))?;
                let narrow = (ops::linear(&x, &a, None)? * self.scale)?;
                Ok(ops::linear(&narrow, &b, None)?)
            }
            Shape::Conv {
                stride, padding, ..
            } => {
                let x = ops::dropout(x, pass.dropout(self.dropout))?;
                let narrow = ops::conv2d(&x, &a, None, Conv { stride, padding })?;
                let narrow = (narrow * self.scale)?;
                Ok(ops::conv2d(&narrow, &b, None, Conv::default())?)
            }
            Shape::Embedding => {
                let ids: Vec<u32> = x.flatten_all()?.to_vec1()?;
                let narrow = (ops::select(&a.t()?, &ids)? * self.scale)?;
                let wide = ops::linear(&narrow, &b, None)?;
                let mut dims = x.dims().to_vec();
                dims.push(wide.dim(D::Minus1)?);
                Ok(wide.reshape(dims)?)
            }
        }
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        let (a, b) = (self.a.tensor(pass)?, self.b.tensor(pass)?);
        let product = match self.shape {
            Shape::Linear => ops::linear(&b, &a.t()?, None)?,
            Shape::Conv { .. } => {
                let (_, input, k, _) = a.dims4()?;
                let (output, ..) = b.dims4()?;
                let (a, b) = (a.flatten_from(1)?, b.flatten_from(1)?);
                ops::linear(&b, &a.t()?, None)?.reshape((output, input, k, k))?
            }
            Shape::Embedding => ops::linear(&a.t()?, &b, None)?,
        };
        Ok((product * self.scale)?)
    }
}

register!(adapter: Lora);
