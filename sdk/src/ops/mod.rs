//! Differentiable tensor operations that know frozen from trainable.
//!
//! Every operation takes and returns candle tensors. On the CPU, in `f32` and `f64`, kernels of
//! our own run with hand-written backwards; elsewhere a composition of candle's operations does
//! ([`composed`]). Owns no parameters, layers or names of weights.
//!
//! Rules that hold for all of them:
//! - gradients are computed for tracked tensors only, and an untracked tensor gets no entry in
//!   candle's `GradStore`;
//! - strided views are welcome;
//! - shapes that do not fit are errors that name the operation and the shapes, never panics;
//! - the same arguments give the same bits: sums are cut into fixed pieces.

mod activation;
mod attention;
mod batch_norm;
mod bce;
pub mod bench;
mod broadcast;
mod check;
pub mod composed;
mod concat;
mod conv;
mod correlate;
mod cross_entropy;
mod dropout;
mod layer_norm;
mod linear;
mod memory;
mod panels;
mod parallel;
mod pool;
mod product;
mod real;
mod record;
mod resize;
mod select;
mod softmax;
mod unit;
mod waiting;
mod windows;

pub use activation::{gelu, gelu_tanh, quick_gelu, relu, sigmoid, tanh};
pub use attention::{Mask, attention};
pub use batch_norm::{Statistics, batch_norm, batch_norm_train};
pub use bce::bce_with_logits;
pub use broadcast::{add, mul};
pub use concat::concat;
pub use conv::{Conv, conv_transpose2d, conv2d};
pub use correlate::correlate_per_sample;
pub use cross_entropy::cross_entropy;
pub use dropout::{Dropout, dropout};
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_frozen};
pub use memory::Recycler;
pub use pool::avg_pool2d;
pub use resize::{Interpolation, resize};
pub use select::select;
pub use softmax::softmax;
pub use unit::unit;
pub use waiting::sleep_soon;
