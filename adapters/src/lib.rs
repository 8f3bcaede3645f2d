//! # twinspan-adapters
//!
//! Parameter-efficient adapters for twinspan, one file each. A crate that uses them by name links
//! them with `use twinspan_adapters as _;`; code that builds them needs only the struct:
//! `lora::Lora { rank: 16, ..Default::default() }`.
//!
//! | name | what it is | acts on | start | folds |
//! |---|---|---|---|---|
//! | [`bridger`] | lets the towers see each other at stages (ETRIS) | both streams | not the identity | no |
//! | [`dense_aligner`] | convolutions over patches that look at the final words (DETRIS) | vision MLPs, reads words | not the identity | no |
//! | [`lora`] | low-rank updates of weights, LoRA+ and rsLoRA | projections | identity | yes |
//! | [`text_adapter`] | convolutions over neighbouring words (DETRIS) | text MLPs | not the identity | no |
//! | [`unfreeze`] | trains what is there: BitFit, norms, positions, all | existing parameters | identity | yes |

pub mod bridger;
mod dense;
pub mod dense_aligner;
pub mod lora;
pub mod text_adapter;
pub mod unfreeze;
