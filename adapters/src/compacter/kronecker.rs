//! A matrix that is a sum of Kronecker products, of which one factor is shared.
//!
//! ```text
//! W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ)       Aᵢ [n, n], sᵢ [out/n, r], tᵢ [in/n, r], W [out, in]
//! ```
//!
//! Owns the sum and the start of s and t. Whose A is, and how it starts, is [`super`]'s.

use candle_core::Tensor;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::{Result, ops};

use crate::bottleneck::Matrix;

/// Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ).
pub(super) struct Kronecker {
    /// `[n, n, n]`: Aᵢ by i.
    a: Parameter,
    /// `[n, out/n, r]`.
    s: Parameter,
    /// `[n, in/n, r]`.
    t: Parameter,
}

impl Kronecker {
    /// Over `a`, from `input` to `output` channels, both multiples of n, with factors of rank r.
    pub fn make(
        a: &Parameter,
        (input, output): (usize, usize),
        r: usize,
        params: &mut Params,
    ) -> Result<Self> {
        let n = a.dims().first().copied().unwrap_or(1);
        let mut factor = |name: &str, width: usize| {
            let start = Init::Xavier {
                fan_in: width / n,
                fan_out: r,
            };
            params.trained(name, &[n, width / n, r], start)
        };
        Ok(Self {
            a: a.clone(),
            s: factor("s", output)?,
            t: factor("t", input)?,
        })
    }
}

impl Matrix for Kronecker {
    fn values(&self, pass: &Pass) -> Result<Tensor> {
        let (a, s, t) = (
            self.a.tensor(pass)?,
            self.s.tensor(pass)?,
            self.t.tensor(pass)?,
        );
        let (n, rows, _) = s.dims3()?;
        let columns = t.dim(1)?;
        let own = s.matmul(&t.transpose(1, 2)?.contiguous()?)?;
        // Every element of every A times every element of what it belongs to, summed over i.
        let own = own.flatten_from(1)?.t()?;
        let products = ops::linear(&a.flatten_from(1)?.t()?, &own, None)?;
        let blocks = products.reshape((n, n, rows, columns))?.transpose(1, 2)?;
        Ok(blocks.reshape((n * rows, n * columns))?)
    }
}
