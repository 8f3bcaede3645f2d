//! Rows brought to length 1.
//!
//! Owns nothing but the formula: candle's operations in it keep the gradient.

use candle_core::{Result, Tensor};

/// `x / ‖x‖` for every row of `x [N, E]`; a row of zeros has no direction and becomes NaN.
///
/// # Errors
/// `x` has another rank, or its element type is no float.
pub fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
}
