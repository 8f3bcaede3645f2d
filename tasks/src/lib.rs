//! Tasks for twinspan: what a tuned dual encoder is asked to do.
//!
//! This file only names the modules. The task is [`referring_segmentation`];
//! its data side is here too: pictures ([`picture`]), their preparation
//! ([`letterbox`]), masks ([`mask`]), data files ([`jsonl`]) and scores
//! ([`metrics`]).
#![warn(missing_docs)]

pub mod jsonl;
pub mod letterbox;
pub mod mask;
pub mod metrics;
pub mod picture;
pub mod referring_segmentation;
mod whole_file;
