//! Tasks for twinspan: what a tuned dual encoder is asked to do.
//!
//! This file only names the modules. The tasks are [`referring_segmentation`],
//! [`classification`] and [`retrieval`]; their data side is here too: pictures
//! ([`picture`]), their preparation ([`prepare`], [`letterbox`]), masks
//! ([`mask`], [`run_length`]), records of objects and sentences ([`record`])
//! in data files ([`jsonl`]) and folders ([`refcoco`]), pictures by class
//! ([`folders`]) or with captions ([`captions`]), and what scores are made of
//! ([`metrics`], [`ranking`]).
#![warn(missing_docs)]

pub mod batches;
pub mod captions;
pub mod classification;
pub mod folders;
pub mod jsonl;
pub mod letterbox;
pub mod mask;
pub mod metrics;
pub mod picture;
pub mod prepare;
pub mod ranking;
pub mod record;
pub mod refcoco;
pub mod referring_segmentation;
mod resample;
pub mod retrieval;
pub mod run_length;
mod whole_file;
