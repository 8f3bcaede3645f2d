//! # twinspan
//!
//! Adapt frozen dual encoders: CLIP and its kin, with small trainable parts beside their weights.
//!
//! This crate is the face: it links every plugin and re-exports the crates they live in. Using it
//! (or naming it: `use twinspan as _;`) is what makes `clip`, `bridger` and the others known to
//! [`sdk::registry`]. The program of the same name is built from it.
//!
//! [`Encoder`] is a backbone to look at, [`Model`] one with adapters and a task:
//!
//! ```
//! use twinspan::sdk::registry::{self, AdapterEntry};
//!
//! let names: Vec<_> = registry::entries::<AdapterEntry>()?.iter().map(|e| e.name).collect();
//! assert!(names.contains(&"bridger"));
//! # Ok::<(), twinspan::sdk::Error>(())
//! ```

pub use twinspan_adapters as adapters;
pub use twinspan_backbones as backbones;
pub use twinspan_sdk as sdk;
pub use twinspan_tasks as tasks;

mod encoder;
pub mod etris;
mod model;
pub mod named;
pub mod scenes;

pub use encoder::{Encoder, Indices, Intermediates, kit};
pub use model::Model;
