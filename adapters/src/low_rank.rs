//! The arithmetic of low rank that LoRA, DoRA, VeRA and AdaLoRA share: no plugin.
//!
//! ```text
//! ΔW = s · diag(rows) · B · diag(middle) · A        A [r, in], B [out, r]
//! ```
//!
//! | projection | A | B |
//! |---|---|---|
//! | linear | `[r, in]` | `[out, r]` |
//! | convolution | `[r, in, k, k]`, with its stride and padding | `[out, r, 1, 1]` |
//! | embedding | `[r, vocabulary]` | `[width, r]` |
//!
//! Owns shapes, the start that LoRA and DoRA have, the forward pass and ΔW. Other starts and scales
//! are the methods' own; where ΔW is added, and folding, are the projection hooks' business.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{ProjectionSlot, Want};
use twinspan_sdk::hooks::{Channels, Update};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Opt;
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::topology::Shape;

use crate::setting::{check_count, check_dropout, check_factor, number};

/// The option of strength α.
pub(crate) const ALPHA: Opt = number("alpha", "strength: the update counts alpha/rank");

/// The option of dropout.
pub(crate) const DROPOUT: Opt = number(
    "dropout",
    "on what A reads, while training; none on embeddings",
);

/// ΔW of one projection. Where A has more columns or B more rows than the projection, as those
/// that projections of several widths share do, the first ones count.
#[derive(Clone)]
pub(crate) struct LowRank {
    pub a: Parameter,
    pub b: Parameter,
    /// `[r]`.
    pub middle: Option<Parameter>,
    /// `[out]`.
    pub rows: Option<Parameter>,
    /// s.
    pub scale: f64,
    /// On what A reads, while training; an embedding reads ids, of which none is dropped.
    pub dropout: f64,
    pub shape: Shape,
    /// Input and output width of the projection.
    pub widths: (usize, usize),
}

impl LowRank {
    /// The factors alone.
    pub fn new(slot: &ProjectionSlot, a: Parameter, b: Parameter, scale: f64) -> Self {
        Self {
            a,
            b,
            middle: None,
            rows: None,
            scale,
            dropout: 0.0,
            shape: slot.shape,
            widths: (slot.input, slot.output),
        }
    }

    /// Factors that start so that B·A = 0: A Kaiming-uniform and B 0, or of an embedding A 0 and B
    /// N(0, 1). B learns `rate` times as fast as A.
    pub fn drawn(
        slot: &ProjectionSlot,
        rank: usize,
        scale: f64,
        rate: f64,
        params: &mut Params,
    ) -> Result<Self> {
        let (a, b) = Self::shapes(slot, rank);
        let starts = match slot.shape {
            Shape::Embedding => (Init::Zeros, Init::Normal(1.0)),
            Shape::Linear | Shape::Conv { .. } => {
                (Init::KaimingUniform { fan: fan(slot) }, Init::Zeros)
            }
        };
        let a = params.trained("a", &a, starts.0)?;
        let b = params.rate(rate).trained("b", &b, starts.1)?;
        Ok(Self::new(slot, a, b, scale))
    }

    /// The shapes of A and B at a projection.
    pub fn shapes(slot: &ProjectionSlot, rank: usize) -> (Vec<usize>, Vec<usize>) {
        let (input, output) = (slot.input, slot.output);
        match slot.shape {
            Shape::Linear | Shape::Embedding => (vec![rank, input], vec![output, rank]),
            Shape::Conv { kernel, .. } => {
                (vec![rank, input, kernel, kernel], vec![output, rank, 1, 1])
            }
        }
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.a.dims().first().copied().unwrap_or(0)
    }

    fn factors(&self, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let (input, output) = self.widths;
        let a = self.a.tensor(pass)?.narrow(1, 0, input)?;
        Ok((a, self.b.tensor(pass)?.narrow(0, 0, output)?))
    }

    /// `x` with channel `i` times element `i` of `by`, if there is one.
    fn scaled(&self, x: Tensor, by: Option<&Parameter>, pass: &Pass) -> Result<Tensor> {
        let channels = match self.shape {
            Shape::Conv { .. } => Channels::Map,
            Shape::Linear | Shape::Embedding => Channels::Last,
        };
        match by {
            Some(by) => Ok(ops::mul(&x, &channels.shape(&by.tensor(pass)?)?)?),
            None => Ok(x),
        }
    }
}

impl Update for LowRank {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (a, b) = self.factors(pass)?;
        let dropped = |x: &Tensor, pass: &mut Pass| ops::dropout(x, pass.dropout(self.dropout));
        let narrow = match self.shape {
            Shape::Linear => ops::linear(&dropped(x, pass)?, &a, None)?,
            Shape::Conv {
                stride, padding, ..
            } => ops::conv2d(&dropped(x, pass)?, &a, None, Conv { stride, padding })?,
            Shape::Embedding => {
                let ids: Vec<u32> = x.flatten_all()?.to_vec1()?;
                let mut dims = x.dims().to_vec();
                dims.push(a.dim(0)?);
                ops::select(&a.t()?, &ids)?.reshape(dims)?
            }
        };
        let narrow = self.scaled((narrow * self.scale)?, self.middle.as_ref(), pass)?;
        let wide = match self.shape {
            Shape::Conv { .. } => ops::conv2d(&narrow, &b, None, Conv::default())?,
            Shape::Linear | Shape::Embedding => ops::linear(&narrow, &b, None)?,
        };
        self.scaled(wide, self.rows.as_ref(), pass)
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        let (a, b) = self.factors(pass)?;
        let (input, output) = self.widths;
        let rank = a.dim(0)?;
        let of = |by: &Option<Parameter>| by.as_ref().map(|by| by.tensor(pass)).transpose();
        let mut a = a.reshape((rank, a.elem_count() / rank))?;
        if let Some(middle) = of(&self.middle)? {
            a = ops::mul(&a, &middle.reshape((rank, 1))?)?;
        }
        let mut delta = (ops::linear(&b.reshape((output, rank))?, &a.t()?, None)? * self.scale)?;
        if let Some(rows) = of(&self.rows)? {
            delta = ops::mul(&delta, &rows.reshape((output, 1))?)?;
        }
        Ok(match self.shape {
            Shape::Linear => delta,
            Shape::Conv { kernel, .. } => delta.reshape((output, input, kernel, kernel))?,
            Shape::Embedding => delta.t()?,
        })
    }
}

/// The wish for projections of low rank: query and value where `sites` names none.
pub(crate) fn wants(sites: &Sites) -> Vec<Want> {
    vec![Want::Projections {
        sites: sites.clone(),
        default: &[Projection::Query, Projection::Value],
    }]
}

/// Refuses what no method of low rank can be asked for; `factor` is an option and its name.
pub(crate) fn check(owner: &str, rank: usize, factor: (&str, f64), dropout: f64) -> Result<()> {
    check_count(owner, "rank", rank)?;
    check_factor(owner, factor.0, factor.1)?;
    check_dropout(owner, dropout)
}

/// Width of what A reads: the most rank that an update of this projection can have is the lesser
/// of this and its output width.
pub(crate) fn fan(slot: &ProjectionSlot) -> usize {
    match slot.shape {
        Shape::Conv { kernel, .. } => slot.input * kernel * kernel,
        Shape::Linear | Shape::Embedding => slot.input,
    }
}
