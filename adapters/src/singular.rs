//! Singular values and vectors of a weight: no plugin.
//!
//! ```text
//! W = U · diag(σ) · Vᵀ        of which the largest r are asked for
//! ```
//!
//! By the eigenvectors of the smaller of W·Wᵀ and Wᵀ·W, in f64: the large singular values that are
//! wanted here lose nothing by the squares. Owns the decomposition and nothing of what it is for.

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, SymmetricEigen};
use twinspan_sdk::Result;

/// The largest singular values of a matrix with their vectors.
pub(crate) struct Singular {
    /// `[out, r]`.
    pub left: Tensor,
    /// `[r]`, falling.
    pub values: Tensor,
    /// `[r, in]`.
    pub right: Tensor,
}

impl Singular {
    /// Of `w` `[out, in]`; `rank` is at most the smaller of both. In f64, on the CPU.
    pub fn of(w: &Tensor, rank: usize) -> Result<Self> {
        let w = w.to_dtype(DType::F64)?.to_device(&Device::Cpu)?;
        let w = w.contiguous()?;
        let (output, input) = w.dims2()?;
        let tall = output >= input;
        let small = match tall {
            true => w.t()?.contiguous()?,
            false => w.clone(),
        };
        let n = output.min(input);
        let gram = small.matmul(&small.t()?)?.flatten_all()?.to_vec1::<f64>()?;
        let eigen = SymmetricEigen::new(DMatrix::from_row_slice(n, n, &gram));
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        order.truncate(rank);
        let values: Vec<f64> = order
            .iter()
            .map(|i| eigen.eigenvalues[*i].max(0.0).sqrt())
            .collect();
        let vectors = order.iter().flat_map(|i| {
            let column = eigen.eigenvectors.column(*i);
            column.iter().copied().collect::<Vec<f64>>()
        });
        // One row a vector of the smaller side; the larger side's follow from W.
        let near = Tensor::from_vec(vectors.collect::<Vec<_>>(), (rank, n), &Device::Cpu)?;
        let inverse = values.iter().map(|v| if *v > 0.0 { 1.0 / v } else { 0.0 });
        let inverse = Tensor::from_vec(inverse.collect::<Vec<_>>(), (rank, 1), &Device::Cpu)?;
        let far = near.matmul(&small)?.broadcast_mul(&inverse)?;
        let values = Tensor::from_vec(values, rank, &Device::Cpu)?;
        let (left, right) = match tall {
            true => (far.t()?.contiguous()?, near),
            false => (near.t()?.contiguous()?, far),
        };
        Ok(Self {
            left,
            values,
            right,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinspan_sdk::parameter::Init;

    fn off(a: &Tensor, b: &Tensor) -> f64 {
        let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        off.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn of_full_rank_it_is_the_matrix() {
        for (output, input) in [(5, 9), (9, 5), (6, 6), (1, 4)] {
            let init = Init::Normal(1.0);
            let w = init.tensor(1, "w", &[output, input], DType::F64, &Device::Cpu);
            let w = w.unwrap();
            let rank = output.min(input);
            let Singular {
                left,
                values,
                right,
            } = Singular::of(&w, rank).unwrap();
            let back = left.broadcast_mul(&values).unwrap().matmul(&right).unwrap();
            assert!(off(&back, &w) < 1e-12);
            let one = Tensor::eye(rank, DType::F64, &Device::Cpu).unwrap();
            assert!(off(&right.matmul(&right.t().unwrap()).unwrap(), &one) < 1e-12);
            let falling: Vec<f64> = values.to_vec1().unwrap();
            assert!(falling.windows(2).all(|w| w[0] >= w[1]));
        }
    }

    #[test]
    fn of_less_it_is_the_nearest_of_that_rank() {
        let vector = |name: &str, n: usize| {
            let init = Init::Normal(1.0);
            init.tensor(2, name, &[n, 1], DType::F64, &Device::Cpu)
                .unwrap()
        };
        let one = |k: &str| {
            let (u, v) = (vector(&format!("u{k}"), 7), vector(&format!("v{k}"), 4));
            u.matmul(&v.t().unwrap()).unwrap()
        };
        let w = (one("a") * 9.0).unwrap();
        let Singular {
            left,
            values,
            right,
        } = Singular::of(&w, 2).unwrap();
        let back = left.broadcast_mul(&values).unwrap().matmul(&right).unwrap();
        assert!(off(&back, &w) < 1e-12);
        // The next smaller of a matrix of rank 1 is 0, as exactly as squares say.
        assert!(values.to_vec1::<f64>().unwrap()[1] < 1e-6);
    }
}
