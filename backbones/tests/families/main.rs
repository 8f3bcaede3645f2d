//! Every structural variant of CLIP and SigLIP gives what its reference implementation gives.
//!
//! `tests/golden` holds small models of transformers, open_clip and timm: configuration, names
//! and shapes, inputs and outputs. Weights are functions of their names (`drawn.rs`). The files
//! were written by `examples/baselines/goldens.py`.

mod described;
#[path = "../clip/drawn.rs"]
#[allow(dead_code, reason = "the tests of CLIP use the rest")]
mod drawn;
mod golden;
mod sentences;
