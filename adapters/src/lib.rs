//! # twinspan-adapters
//!
//! Parameter-efficient adapters for twinspan, one file each. A crate that uses them by name links
//! them with `use twinspan_adapters as _;`; code that builds them needs only the struct:
//! `lora::Lora { rank: 16, ..Default::default() }`.
//!
//! | name | what it is | acts on | start | folds |
//! |---|---|---|---|---|
//! | [`adalora`] | low-rank updates that share a budget of ranks | projections | identity | yes |
//! | [`bridger`] | lets the towers see each other at stages (ETRIS) | both streams | not the identity | no |
//! | [`dense_aligner`] | convolutions over patches that look at the final words (DETRIS) | vision MLPs, reads words | not the identity | no |
//! | [`dora`] | low-rank updates of directions, and lengths, of weights | projections | identity | yes |
//! | [`lora`] | low-rank updates of weights, LoRA+, rsLoRA and PiSSA | projections | identity | yes |
//! | [`text_adapter`] | convolutions over neighbouring words (DETRIS) | text MLPs | not the identity | no |
//! | [`unfreeze`] | trains what is there: BitFit, norms, positions, all | existing parameters | identity | yes |
//! | [`vera`] | vectors around one shared pair of random matrices | projections | identity | yes |

pub mod adalora;
pub mod bridger;
mod by_site;
mod dense;
pub mod dense_aligner;
pub mod dora;
pub mod lora;
mod low_rank;
mod singular;
pub mod text_adapter;
pub mod unfreeze;
pub mod vera;
