//! Bringing a table of positions to another grid.
//!
//! Owns the ways in which released models do it, each a cubic convolution (Keys, 1981) along both
//! directions with corners not aligned. Acts once, when a model is built; resizing that is trained
//! through is [`ops::resize`].

use candle_core::{Device, Result, Tensor};

use crate::ops::{self, Interpolation};

/// How a table of positions is resized; the names are those of torch's `interpolate`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Regrid {
    /// a = -0.75, four neighbours a direction: CLIP and SigLIP.
    #[default]
    Bicubic,
    /// a = -0.5, its kernel widened where the grid shrinks (`antialias`): DINOv2 with registers.
    Antialias,
    /// As `Bicubic`, at a scale of (to + offset) / from, which shifts what is read a little
    /// (`scale_factor`): DINOv2's `interpolate_offset`.
    Offset(f64),
}

impl Regrid {
    /// The tables `grid` `[1, D, S, S]`, in f64, on the grid `to`: `[1, D, R, C]`.
    pub(crate) fn resize(self, grid: &Tensor, to: (usize, usize)) -> Result<Tensor> {
        if self == Regrid::Bicubic {
            return ops::resize(grid, to, Interpolation::Bicubic, false);
        }
        let (_, _, rows, columns) = grid.dims4()?;
        let down = self.matrix(rows, to.0)?;
        let along = self.matrix(columns, to.1)?.t()?;
        down.broadcast_matmul(&grid.broadcast_matmul(&along)?)
    }

    /// What each of `to` places takes of each of `from`, `[to, from]`.
    fn matrix(self, from: usize, to: usize) -> Result<Tensor> {
        let rows = (0..to).flat_map(|i| match self {
            Regrid::Antialias => antialiased(i, from, to),
            Regrid::Offset(offset) => plain(i, from, to as f64 + offset),
            Regrid::Bicubic => plain(i, from, to as f64),
        });
        Tensor::from_vec(rows.collect::<Vec<f64>>(), (to, from), &Device::Cpu)
    }
}

/// The kernel of cubic convolution.
fn keys(distance: f64, a: f64) -> f64 {
    let t = distance.abs();
    match t {
        t if t <= 1.0 => ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0,
        t if t < 2.0 => ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a,
        _ => 0.0,
    }
}

/// The weights of place `i` where `to` places, which need not be whole, span `from`; what lies
/// outside is the outermost.
fn plain(i: usize, from: usize, to: f64) -> Vec<f64> {
    let at = (i as f64 + 0.5) * from as f64 / to - 0.5;
    let mut weights = vec![0.0; from];
    for j in -1..=2 {
        let source = at.floor() + f64::from(j);
        let inside = source.clamp(0.0, from.saturating_sub(1) as f64) as usize;
        if let Some(weight) = weights.get_mut(inside) {
            *weight += keys(at - source, -0.75);
        }
    }
    weights
}

/// The same with a kernel as wide as a place of the new grid; what lies outside counts nothing.
fn antialiased(i: usize, from: usize, to: usize) -> Vec<f64> {
    let scale = from as f64 / to as f64;
    let (centre, wide) = (scale * (i as f64 + 0.5), scale.max(1.0));
    let weights = (0..from).map(|j| keys((j as f64 + 0.5 - centre) / wide, -0.5));
    let weights: Vec<f64> = weights.collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    const WAYS: [Regrid; 3] = [Regrid::Bicubic, Regrid::Antialias, Regrid::Offset(0.1)];

    fn largest(x: &Tensor) -> f64 {
        let x = x.abs().unwrap().flatten_all().unwrap();
        x.max(0).unwrap().to_scalar().unwrap()
    }

    /// A table that is the same everywhere stays so, whether its grid grows or shrinks.
    #[test]
    fn weights_of_a_place_sum_to_one() {
        let ones = Tensor::ones((1, 2, 5, 5), DType::F64, &Device::Cpu).unwrap();
        for (way, to) in WAYS.iter().flat_map(|w| [3, 5, 8].map(|to| (w, to))) {
            let resized = way.resize(&ones, (to, 7)).unwrap();
            assert_eq!(resized.dims(), [1, 2, to, 7]);
            assert!(largest(&(resized - 1.0).unwrap()) < 1e-12, "{way:?} {to}");
        }
    }

    #[test]
    fn without_an_offset_it_is_the_plain_one() {
        let values = (0..36).map(|i| f64::from(i * i % 17)).collect::<Vec<_>>();
        let table = Tensor::from_vec(values, (1, 1, 6, 6), &Device::Cpu).unwrap();
        for to in [(4, 4), (9, 7)] {
            let plain = Regrid::Bicubic.resize(&table, to).unwrap();
            let offset = Regrid::Offset(0.0).resize(&table, to).unwrap();
            assert!(largest(&(plain - offset).unwrap()) < 1e-12);
        }
        let same = Regrid::Antialias.resize(&table, (6, 6)).unwrap();
        assert!(largest(&(same - table).unwrap()) < 1e-12);
    }
}
