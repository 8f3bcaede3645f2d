//! Elementwise nonlinearities.
//!
//! Owns their slopes; knows no shapes.

use candle_core::{Result, Tensor};

use super::composed;
use super::record::replay;

/// `x Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016).
///
/// # Errors
/// The element type is no float.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    replay("gelu", [x], |[x]| composed::gelu(x))
}

/// `x σ(1.702 x)`, the approximation that CLIP was trained with.
///
/// # Errors
/// The element type is no float.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    replay("quick_gelu", [x], |[x]| composed::quick_gelu(x))
}

/// `max(x, 0)`; the slope at 0 is 0.
///
/// # Errors
/// The element type is no float.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    replay("relu", [x], |[x]| composed::relu(x))
}

/// `1 / (1 + e⁻ˣ)`.
///
/// # Errors
/// The element type is no float.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    replay("sigmoid", [x], |[x]| composed::sigmoid(x))
}

/// The hyperbolic tangent.
///
/// # Errors
/// The element type is no float.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    replay("tanh", [x], |[x]| composed::tanh(x))
}
