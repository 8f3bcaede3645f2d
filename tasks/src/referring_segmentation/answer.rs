//! From logits to an answer on the picture: sigmoid, bicubic to the input with
//! aligned corners, and back through the letterbox, as ETRIS evaluates. Owns
//! that chain; thresholds are the caller's.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use twinspan_sdk::{Error, Result};

use crate::letterbox::{Letterbox, upsample_bicubic_aligned};

/// Logits of several sentences, on the CPU.
pub(super) struct Logits {
    values: Vec<f32>,
    grid: (usize, usize),
}

impl Logits {
    /// From `[P, 1, h, w]`.
    pub fn of(logits: &Tensor) -> Result<Self> {
        let (_, _, rows, columns) = logits.dims4()?;
        let logits = logits.detach().to_dtype(DType::F32)?;
        Ok(Self {
            values: logits.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?,
            grid: (rows, columns),
        })
    }

    /// How many sentences there are.
    pub fn len(&self) -> usize {
        self.values.len() / (self.grid.0 * self.grid.1).max(1)
    }

    /// The probability of every pixel of the picture, row by row, for sentence
    /// `index`. Cubic sampling overshoots; values may leave [0, 1].
    pub fn probability(&self, index: usize, letterbox: &Letterbox) -> Result<Vec<f32>> {
        let area = self.grid.0 * self.grid.1;
        let plane = &self.values[index * area..(index + 1) * area];
        let sigmoid = |x: &f32| 1.0 / (1.0 + (-x).exp());
        let plane: Vec<f32> = plane.par_iter().map(sigmoid).collect();
        let side = letterbox.size;
        upsample_bicubic_aligned(&plane, self.grid, (side, side))
            .and_then(|plane| letterbox.back(&plane))
            .map_err(Error::plugin)
    }
}
