//! # twinspan-adapters
//!
//! Parameter-efficient adapters for twinspan, one file each. A crate that uses them by name links
//! them with `use twinspan_adapters as _;`; code that builds them needs only the struct:
//! `lora::Lora { rank: 16, ..Default::default() }`.
//!
//! [`prompt`] owns what prompts of every kind share.
//!
//! | name | what it is | acts on | start | folds |
//! |---|---|---|---|---|
//! | [`adalora`] | low-rank updates that share a budget of ranks | projections | identity | yes |
//! | [`adapter`] | bottlenecks as Houlsby, Pfeiffer and AdaptFormer place them | branches, projections | near the identity; in parallel the identity | no |
//! | [`bridger`] | lets the towers see each other at stages (ETRIS) | both streams | not the identity | no |
//! | [`clip_adapter`] | mixes a small network's answer into the pooled vector | pooled vectors | not the identity | no |
//! | [`cocoop`] | context that depends on the picture | the text stream, reading pictures | not the identity | no |
//! | [`compacter`] | the same of Kronecker products that share a factor | branches, projections | near the identity | no |
//! | [`conv_adapter`] | depth-wise bottlenecks of convolutional stages | convolutions, branches on a grid | identity | no |
//! | [`convpass`] | convolutional bypasses of a vision transformer | branches on a grid | identity | no |
//! | [`coop`] | learned context in front of words | the text stream | not the identity | no |
//! | [`dense_aligner`] | convolutions over patches that look at the final words (DETRIS) | vision MLPs, reads words | not the identity | no |
//! | [`dora`] | low-rank updates of directions, and lengths, of weights | projections | identity | yes |
//! | [`ia3`] | scales keys, values and inner activations | projections | identity | yes |
//! | [`lora`] | low-rank updates of weights, LoRA+, rsLoRA and PiSSA | projections | identity | yes |
//! | [`lst`] | a narrow network beside each tower, without a backward through it | the stream after blocks | identity | no |
//! | [`maple`] | coupled tokens in the first blocks of both towers | both streams | not the identity | no |
//! | [`prefix`] | learned keys and values in front of an attention's own | attentions | not the identity | no |
//! | [`repadapter`] | linear bottlenecks before attention and MLP | normed inputs of branches | identity | yes |
//! | [`text_adapter`] | convolutions over neighbouring words (DETRIS) | text MLPs | not the identity | no |
//! | [`tip_adapter`] | remembers the training pictures | logits | not the identity | no |
//! | [`unfreeze`] | trains what is there: BitFit, norms, positions, all | existing parameters | identity | yes |
//! | [`vera`] | vectors around one shared pair of random matrices | projections | identity | yes |
//! | [`vpt`] | learned tokens beside patches, once or before every block | the vision stream | not the identity | no |

pub mod adalora;
pub mod adapter;
pub mod bottleneck;
pub mod bridger;
mod by_site;
pub mod clip_adapter;
pub mod cocoop;
pub mod compacter;
pub mod conv_adapter;
pub mod convpass;
pub mod coop;
mod dense;
pub mod dense_aligner;
mod depthwise;
pub mod dora;
pub mod ia3;
pub mod lora;
mod low_rank;
pub mod lst;
pub mod maple;
pub mod prefix;
mod prompt;
pub mod repadapter;
pub mod setting;
mod singular;
pub mod text_adapter;
pub mod tip_adapter;
pub mod unfreeze;
pub mod vera;
pub mod vpt;
