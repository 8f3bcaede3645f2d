//! Tasks for twinspan: what a tuned dual encoder is asked to do.
//!
//! This file only names the modules. Referring image segmentation's data side
//! is here: pictures ([`picture`]), their preparation ([`letterbox`]), masks
//! ([`mask`]), data files ([`jsonl`]) and scores ([`metrics`]).
#![warn(missing_docs)]

pub mod jsonl;
pub mod letterbox;
pub mod mask;
pub mod metrics;
pub mod picture;
mod whole_file;
