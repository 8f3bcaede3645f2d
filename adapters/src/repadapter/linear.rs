//! The linear bottleneck of RepAdapter, and how it folds into what reads it.
//!
//! ```text
//! x' = x + s·(B (A x + a) + b)        B [D, d] has the rows of each group in that group's columns
//! W' = W + s·W B A                    c' = c + s·W (B a + b)
//! ```
//!
//! Owns the parameters, the pass and the fold; options and their checks are [`super`]'s.

use candle_core::{Device, Tensor};
use twinspan_sdk::adapter::BranchSlot;
use twinspan_sdk::hooks::{Folded, Operator, Transform};
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::{Error, Result, ops};

use super::RepAdapter;

/// A, a, B and b.
pub(super) struct Bottleneck {
    down: Linear,
    /// The blocks of B beneath each other, `[D, d/g]`, and b.
    up: (Parameter, Parameter),
    /// Where in B its blocks are.
    blocks: Tensor,
    options: RepAdapter,
    /// Whether channels are those of a map.
    map: bool,
}

impl Bottleneck {
    /// Before a branch.
    pub fn make(options: &RepAdapter, branch: &BranchSlot, params: &mut Params) -> Result<Self> {
        let (width, dim) = (branch.before.width, options.dim);
        let start = Init::Xavier {
            fan_in: width,
            fan_out: dim,
        };
        let up = &mut params.within("up");
        let (weight, bias) = (
            up.trained("weight", &[width, dim / options.groups], Init::Zeros)?,
            up.trained("bias", &[width], Init::Zeros)?,
        );
        let blocks = blocks(width, dim, options.groups)?;
        Ok(Self {
            blocks: blocks
                .to_dtype(params.dtype())?
                .to_device(params.device())?,
            down: Linear::make(&mut params.within("down"), width, dim, start)?,
            up: (weight, bias),
            options: options.clone(),
            map: branch.before.map,
        })
    }

    /// B, `[D, d]`.
    fn up(&self, pass: &Pass) -> Result<Tensor> {
        let own = self.up.0.tensor(pass)?;
        let mut beside = own.clone();
        for _ in 1..self.options.groups {
            beside = ops::concat(&beside, &own, 1)?;
        }
        Ok(ops::mul(&beside, &self.blocks)?)
    }
}

impl Transform for Bottleneck {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let read = match self.map {
            true => x.permute((0, 2, 3, 1))?,
            false => x.clone(),
        };
        let narrow = self.down.forward(&read, pass)?;
        let narrow = ops::dropout(&narrow, pass.dropout(self.options.dropout))?;
        let wide = ops::linear(&narrow, &self.up(pass)?, Some(&self.up.1.tensor(pass)?))?;
        let added = (wide * self.options.scale)?;
        match self.map {
            true => Ok(ops::add(x, &added.permute((0, 3, 1, 2))?)?),
            false => Ok(ops::add(x, &added)?),
        }
    }

    fn fold_input(&self, Folded { weight, bias }: Folded, pass: &Pass) -> Result<Folded> {
        let kernel: usize = weight.dims().iter().skip(2).product();
        if kernel > 1 {
            return Err(Error::CannotFold {
                why: "a shift before a convolution does not reach its padding",
            });
        }
        let rows = weight.flatten_from(1)?;
        let through = (rows.matmul(&self.up(pass)?)? * self.options.scale)?;
        let moved = through.matmul(&self.down.weight(pass)?)?;
        let mut shift =
            (rows.matmul(&self.up.1.tensor(pass)?.unsqueeze(1)?)? * self.options.scale)?;
        if let Some(inner) = self.down.bias(pass)? {
            shift = (shift + through.matmul(&inner.unsqueeze(1)?)?)?;
        }
        let shift = shift.squeeze(1)?;
        Ok(Folded {
            weight: (rows + moved)?.reshape(weight.shape())?,
            bias: Some(match bias {
                Some(bias) => (bias + shift)?,
                None => shift,
            }),
        })
    }
}

/// `[width, dim]`: 1 where a row and a column are of one group.
fn blocks(width: usize, dim: usize, groups: usize) -> Result<Tensor> {
    let group = |place: usize, of: usize| place / (of / groups);
    let row = |i: usize| (0..dim).map(move |j| f32::from(group(i, width) == group(j, dim)));
    let values: Vec<f32> = (0..width).flat_map(row).collect();
    Ok(Tensor::from_vec(values, (width, dim), &Device::Cpu)?)
}
