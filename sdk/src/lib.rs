//! # twinspan-sdk
//!
//! Contracts and machinery for adapting frozen dual encoders with small trainable parts. Knows no
//! backbone, adapter or task; those are plugins ([`registry`]).
//!
//! Start at [`adapter::Adapter`] to write a method, at [`backbone::Backbone`] to add a model, at
//! [`task::Task`] to add a task. `ARCHITECTURE.md` beside this crate is the map.

// `#[register]`ed plugins in doc examples name this crate as its users do.
extern crate self as twinspan_sdk;

pub mod adapter;
pub mod artifact;
pub mod average;
pub mod backbone;
pub mod base;
pub mod checkpoint;
pub mod declare;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod events;
pub mod expression;
pub mod file;
pub mod frozen;
pub mod hooks;
pub mod hub;
pub mod key_map;
pub mod layers;
pub mod loader;
pub mod ops;
pub mod optimizer;
mod order;
pub mod parameter;
pub mod pass;
pub mod pickle;
pub mod plan;
pub mod plugin;
pub mod prelude;
pub mod preparation;
pub mod random;
pub mod recipe;
pub mod registry;
pub mod regrid;
pub mod run;
pub mod schedule;
pub mod site;
pub mod slots;
pub mod source;
mod state;
pub mod stream;
pub mod task;
mod tensorboard;
pub mod testkit;
pub mod tokenizer;
pub mod topology;
pub mod train;
pub mod tuned;
pub mod weights;

pub use error::{Error, Result};
#[doc(hidden)]
pub use inventory;
pub use order::Step;
