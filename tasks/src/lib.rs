//! Tasks for twinspan: what a tuned dual encoder is asked to do.
//!
//! This file only names the modules. The task is [`referring_segmentation`];
//! its data side is here too: pictures ([`picture`]), their preparation
//! ([`letterbox`]), masks ([`mask`], [`run_length`]), records of objects and
//! sentences ([`record`]) in data files ([`jsonl`]) and folders ([`refcoco`]),
//! and scores ([`metrics`]).
#![warn(missing_docs)]

pub mod jsonl;
pub mod letterbox;
pub mod mask;
pub mod metrics;
pub mod picture;
pub mod prepare;
pub mod record;
pub mod refcoco;
pub mod referring_segmentation;
mod resample;
pub mod run_length;
mod whole_file;
