//! # twinspan-adapters
//!
//! Parameter-efficient adapters for twinspan, one file each. A crate that uses them by name links
//! them with `use twinspan_adapters as _;`; code that builds them needs only the struct:
//! `lora::Lora { rank: 16, ..Default::default() }`.
//!
//! | name | what it is | acts on | start | folds |
//! |---|---|---|---|---|
//! | [`adapter`] | bottlenecks as Houlsby, Pfeiffer and AdaptFormer place them | branches, projections | near the identity; in parallel the identity | no |
//! | [`bridger`] | lets the towers see each other at stages (ETRIS) | both streams | not the identity | no |
//! | [`compacter`] | the same of Kronecker products that share a factor | branches, projections | near the identity | no |
//! | [`conv_adapter`] | depth-wise bottlenecks of convolutional stages | convolutions, branches on a grid | identity | no |
//! | [`convpass`] | convolutional bypasses of a vision transformer | branches on a grid | identity | no |
//! | [`lora`] | low-rank updates of weights, LoRA+ and rsLoRA | projections | identity | yes |
//! | [`unfreeze`] | trains what is there: BitFit, norms, positions, all | existing parameters | identity | yes |
//!
//! [`bottleneck`] and [`depthwise`] hold the arithmetic that several of them share, [`setting`]
//! their numbers in recipes.

pub mod adapter;
pub mod bottleneck;
pub mod bridger;
pub mod compacter;
pub mod conv_adapter;
pub mod convpass;
pub mod depthwise;
pub mod lora;
pub mod setting;
pub mod unfreeze;
