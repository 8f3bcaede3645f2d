//! # twinspan-adapters
//!
//! Parameter-efficient adapters for twinspan, one file each. A crate that uses them by name links
//! them with `use twinspan_adapters as _;`; code that builds them needs only the struct:
//! `lora::Lora { rank: 16, ..Default::default() }`.
//!
//! | name | what it is | acts on | start | folds |
//! |---|---|---|---|---|
//! | [`bridger`] | lets the towers see each other at stages (ETRIS) | both streams | not the identity | no |
//! | [`clip_adapter`] | mixes a small network's answer into the pooled vector | pooled vectors | not the identity | no |
//! | [`ia3`] | scales keys, values and inner activations | projections | identity | yes |
//! | [`lora`] | low-rank updates of weights, LoRA+ and rsLoRA | projections | identity | yes |
//! | [`repadapter`] | linear bottlenecks before attention and MLP | normed inputs of branches | identity | yes |
//! | [`tip_adapter`] | remembers the training pictures | logits | not the identity | no |
//! | [`unfreeze`] | trains what is there: BitFit, norms, positions, all | existing parameters | identity | yes |

pub mod bridger;
pub mod clip_adapter;
pub mod ia3;
pub mod lora;
pub mod repadapter;
pub mod tip_adapter;
pub mod unfreeze;
