//! Pieces that adapters of tests are made of: parameters drawn from a name, hooks that fold.

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::{Affine, Channels, Reparametrise, Update};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Projection, Role, Sites, Tower};
use twinspan_sdk::testkit::Scripted;
use twinspan_sdk::topology::Shape;

pub fn random(name: &str, shape: &[usize]) -> Tensor {
    let init = Init::Normal(0.5);
    init.tensor(3, name, shape, DType::F64, &Device::Cpu)
        .unwrap()
}

pub fn affine(channels: Channels, width: usize, name: &str, shift: bool) -> Affine {
    let parameter = |part: &str| Parameter::constant(&random(&format!("{name}.{part}"), &[width]));
    Affine {
        scale: Some(parameter("scale")),
        shift: shift.then(|| parameter("shift")),
        channels,
    }
}

/// A dense ΔW on whatever kind of weight.
pub struct Dense {
    delta: Tensor,
    shape: Shape,
}

impl Dense {
    pub fn of(slot: &ProjectionSlot, name: &str) -> Self {
        let dims = match slot.shape {
            Shape::Linear => vec![slot.output, slot.input],
            Shape::Conv { kernel, .. } => vec![slot.output, slot.input, kernel, kernel],
            Shape::Embedding => vec![slot.input, slot.output],
        };
        Self {
            delta: random(&format!("{}.{name}", slot.name), &dims),
            shape: slot.shape,
        }
    }
}

impl Update for Dense {
    fn forward(&self, x: &Tensor, _pass: &mut Pass) -> Result<Tensor> {
        Ok(match self.shape {
            Shape::Linear => ops::linear(x, &self.delta, None)?,
            Shape::Conv {
                stride, padding, ..
            } => ops::conv2d(x, &self.delta, None, ops::Conv { stride, padding })?,
            Shape::Embedding => {
                let (b, n) = x.dims2()?;
                let ids: Vec<u32> = x.flatten_all()?.to_vec1()?;
                ops::select(&self.delta, &ids)?.reshape((b, n, self.delta.dim(1)?))?
            }
        })
    }

    fn delta(&self, _pass: &Pass) -> Result<Tensor> {
        Ok(self.delta.clone())
    }
}

/// DoRA's shape: each output row scaled to the length of its number.
pub struct Lengths;

impl Reparametrise for Lengths {
    fn rows(&self, updated: &Tensor, _pass: &Pass) -> Result<Tensor> {
        let rows = updated.dim(0)?;
        let length = updated.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?;
        let wanted: Vec<f64> = (1..=rows).map(|i| 1.0 / i as f64).collect();
        Ok((Tensor::from_vec(wanted, rows, &Device::Cpu)? / length)?)
    }
}

pub fn projections(which: &'static [Projection], towers: &[Tower], blocks: &[usize]) -> Want {
    Want::Projections {
        sites: Sites {
            towers: towers.to_vec(),
            blocks: blocks.to_vec(),
            ..Sites::default()
        },
        default: which,
    }
}

pub fn branches(tower: Tower, block: usize, branch: Branch) -> Want {
    Want::Branches {
        sites: Sites {
            towers: vec![tower],
            blocks: vec![block],
            branches: vec![branch],
            ..Sites::default()
        },
        default: Branch::ALL,
    }
}

/// Trains existing parameters of these roles.
pub fn training(name: &'static str, roles: &[Role], sites: Sites) -> Scripted {
    let want = Want::Parameters {
        roles: roles.to_vec(),
        sites,
    };
    Scripted::new(name, vec![want], |slots, params, _| {
        slots
            .iter()
            .filter_map(Slot::parameter)
            .try_for_each(|s| params.existing(s))
    })
}
