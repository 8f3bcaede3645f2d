//! Where bottlenecks are hung: behind an output y, or beside a branch of input x.
//!
//! ```text
//! behind    y + f(y)
//! beside    y + f(x)
//! ```
//!
//! Owns these hooks, the wish for places in series, and the way between grids of different size.

use candle_core::Tensor;
use twinspan_sdk::adapter::{BranchSlot, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Channels, Hooks, Transform};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Sites};
use twinspan_sdk::{Result, ops};

use super::{Bottleneck, Matrix};
use crate::setting::wrong;

/// y + f(y), behind a branch or a projection.
struct InSeries<M>(Bottleneck<M>);

impl<M: Matrix> Transform for InSeries<M> {
    fn forward(&self, y: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Ok(ops::add(y, &self.0.forward(y, pass)?)?)
    }
}

impl<M: Matrix> BranchHook for InSeries<M> {
    fn forward(&self, _: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Transform::forward(self, output, pass)
    }
}

/// Hangs what `make` makes, of a place's name, ends and channels, behind every branch and
/// projection of `slots`.
///
/// # Errors
/// It cannot be made.
pub fn behind<M: Matrix>(
    slots: &[Slot],
    hooks: &mut Hooks,
    mut make: impl FnMut(&str, (usize, usize), Channels) -> Result<Bottleneck<M>>,
) -> Result<()> {
    for slot in slots {
        let name = slot.to_string();
        match slot {
            Slot::Branch(slot) => {
                let behind = make(&name, (slot.width, slot.width), slot.channels())?;
                hooks.branch(slot, InSeries(behind));
            }
            Slot::Projection(slot) => {
                let behind = make(&name, (slot.output, slot.output), slot.channels())?;
                hooks.output(slot, InSeries(behind));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Wishes for the places of a bottleneck in series: outputs of `default` branches, or of the
/// branches and projections that `sites` names.
pub fn outputs(sites: &Sites, default: &'static [Branch]) -> Vec<Want> {
    let (branches, projections) = (&sites.branches, &sites.projections);
    let mut wants = Vec::new();
    if !branches.is_empty() || projections.is_empty() {
        wants.push(Want::Branches {
            sites: sites.clone(),
            default,
        });
    }
    if !projections.is_empty() {
        wants.push(Want::Projections {
            sites: sites.clone(),
            default: &[],
        });
    }
    wants
}

/// Width of what a place for [`behind`] gives; none for other places.
pub fn width(slot: &Slot) -> Option<usize> {
    match slot {
        Slot::Branch(slot) => Some(slot.width),
        Slot::Projection(slot) => Some(slot.output),
        _ => None,
    }
}

/// y + f(x), x the branch's un-normed input.
struct Beside {
    bottleneck: Bottleneck,
    /// Side of the squares of x that are one pixel of y.
    squares: usize,
}

impl BranchHook for Beside {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = match self.squares {
            1 => view.input.clone(),
            side => ops::avg_pool2d(view.input, side)?,
        };
        Ok(ops::add(output, &self.bottleneck.forward(&x, pass)?)?)
    }
}

/// Hangs what `make` makes, of a place's name, ends and channels, beside every branch of `slots`;
/// its input is averaged to its output's grid where that is smaller.
///
/// # Errors
/// It cannot be made, or the grids do not divide, in the name of `owner`.
pub fn beside(
    slots: &[Slot],
    hooks: &mut Hooks,
    owner: &str,
    mut make: impl FnMut(&str, (usize, usize), Channels) -> Result<Bottleneck>,
) -> Result<()> {
    for (slot, branch) in slots.iter().filter_map(|s| Some((s, s.branch()?))) {
        let (ends, squares) = ((branch.before.width, branch.width), squares(branch, owner)?);
        let bottleneck = make(&slot.to_string(), ends, branch.channels())?;
        hooks.branch(
            branch,
            Beside {
                bottleneck,
                squares,
            },
        );
    }
    Ok(())
}

/// Side of the squares of a branch's input that one pixel of its output covers: 1 but for maps
/// that shrink.
///
/// # Errors
/// The grids do not divide, in the name of `owner`.
pub fn squares(slot: &BranchSlot, owner: &str) -> Result<usize> {
    let (Some(from), Some(to)) = (slot.before.grid, slot.stream.grid) else {
        return Ok(1);
    };
    let side = from.0 / to.0.max(1);
    match from == (to.0 * side, to.1 * side) {
        true => Ok(side),
        false => Err(wrong(
            owner,
            format!(
                "block {} of {} goes from {from:?} pixels to {to:?}, which do not divide",
                slot.block, slot.tower
            ),
        )),
    }
}
