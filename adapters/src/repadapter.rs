//! RepAdapter (Luo et al., 2023, arXiv 2302.08106): a linear bottleneck between a norm and what
//! reads it, gone once it is folded.
//!
//! ```text
//! x' = x + s·(B (A x + a) + b)        W x' + c = W (I + s·B·A) x + c + s·W (B a + b)
//! A [d, D] dense    B [D, d] of g blocks on its diagonal: input j of a group to outputs of it
//! ```
//!
//! Default sites: before attention and MLP of both towers; d 8, g 2, s 1, dropout 0.1 behind A.
//! A starts Xavier-uniform; B, a and b at 0. No nonlinearity, so it folds into every projection
//! that reads the norm, convolutions of kernel 1 among them. Owns the bottleneck; which
//! projections read a norm is the topology's.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, BranchSlot, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Folded, Hooks, Operator, Transform};
use twinspan_sdk::layers::Linear;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Branch, Sites};
use twinspan_sdk::{Error, Result, register};

/// Linear bottlenecks before branches.
///
/// ```
/// use twinspan_adapters::repadapter::RepAdapter;
/// use twinspan_sdk::adapter::Adapter;
///
/// let wide = RepAdapter { dim: 16, groups: 4, ..Default::default() };
/// assert!(wide.capabilities().mergeable);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepAdapter {
    /// Width d of the bottleneck.
    pub dim: usize,
    /// Groups g of B.
    pub groups: usize,
    /// Factor s.
    pub scale: f64,
    /// Dropout behind A.
    pub dropout: f64,
    /// Where.
    pub sites: Sites,
}

impl Default for RepAdapter {
    fn default() -> Self {
        Self {
            dim: 8,
            groups: 2,
            scale: 1.0,
            dropout: 0.1,
            sites: Sites::default(),
        }
    }
}

impl Plugin for RepAdapter {
    const NAME: &'static str = "repadapter";
    const ABOUT: &'static str =
        "linear bottlenecks before attention and MLP, which fold (RepAdapter, Luo et al., 2023)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("dim", "integer", "width of the bottleneck"),
        Opt::new(
            "groups",
            "integer",
            "groups of the map back, each from its part of the bottleneck",
        ),
        Opt::new("scale", "number", "factor on what is added"),
        Opt::new("dropout", "number", "in the bottleneck, while training"),
        Opt::sites("both towers, attention and mlp"),
    ];
}

impl Adapter for RepAdapter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            mergeable: true,
            ..Default::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Branches {
            sites: self.sites.clone(),
            default: &[Branch::Attention, Branch::Mlp],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots {
            let Some(branch) = slot.branch() else {
                continue;
            };
            self.check(params.owner(), slot, branch)?;
            let bottleneck = self.bottleneck(branch, &mut params.within(slot))?;
            hooks.norm(branch, bottleneck);
        }
        Ok(Box::new(Idle))
    }
}

impl RepAdapter {
    fn check(&self, owner: &str, slot: &Slot, branch: &BranchSlot) -> Result<()> {
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        let (dim, groups, width) = (self.dim, self.groups, branch.before.width);
        if dim == 0 {
            return wrong("dim must be above 0".into());
        }
        let parts = |whole: usize| groups > 0 && whole.is_multiple_of(groups);
        if !parts(dim) || !parts(width) {
            return wrong(format!(
                "groups = {groups} must divide dim = {dim} and {width}, the width before {slot}"
            ));
        }
        if !self.scale.is_finite() {
            return wrong(format!("scale = {} must be a number", self.scale));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {} must lie in [0, 1)", self.dropout));
        }
        Ok(())
    }

    fn bottleneck(&self, branch: &BranchSlot, params: &mut Params) -> Result<Bottleneck> {
        let (width, dim) = (branch.before.width, self.dim);
        let start = Init::Xavier {
            fan_in: width,
            fan_out: dim,
        };
        let up = &mut params.within("up");
        let (weight, bias) = (
            up.trained("weight", &[width, dim / self.groups], Init::Zeros)?,
            up.trained("bias", &[width], Init::Zeros)?,
        );
        let blocks = blocks(width, dim, self.groups)?;
        Ok(Bottleneck {
            blocks: blocks
                .to_dtype(params.dtype())?
                .to_device(params.device())?,
            down: Linear::make(&mut params.within("down"), width, dim, start)?,
            up: (weight, bias),
            options: self.clone(),
            map: branch.before.map,
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

/// A, a, B and b.
struct Bottleneck {
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

register!(adapter: RepAdapter);
