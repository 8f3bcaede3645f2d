//! Differentiable tensor operations that know frozen from trainable.
mod packed;
pub use packed::Packed;
