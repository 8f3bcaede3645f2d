//! # twinspan-adapters
//!
//! Parameter-efficient adapters for twinspan, one file each. A crate that uses them by name links
//! them with `use twinspan_adapters as _;`; code that builds them needs only the struct:
//! `lora::Lora { rank: 16, ..Default::default() }`.
//!
//! What several methods share is in [`bottleneck`], [`prompt`] and [`setting`], and in modules of
//! this crate's own for low rank, grids and singular values.
//!
//! | adapter | what | acts on | at the start | folds |
//! |---|---|---|---|---|
//! | [`adalora`] | low-rank updates that share a budget of ranks (AdaLoRA, Zhang et al., 2023) | projections (query, value) | identity | yes |
//! | [`adapter`] | bottlenecks behind or beside branches (Houlsby et al., 2019; Pfeiffer et al., 2021; AdaptFormer, Chen et al., 2022) | branches (attention, mlp) |  |  |
//! | [`bridger`] | bridges between both towers at the ends of stages (ETRIS, Xu et al., 2023) | both streams at the ends of stages |  |  |
//! | [`clip-adapter`](clip_adapter) | a small network on the pooled vector (CLIP-Adapter, Gao et al., 2021) | vision pooled vectors |  |  |
//! | [`cocoop`] | context of a sentence that depends on the picture (CoCoOp, Zhou et al., 2022) | the text stream before positions |  |  |
//! | [`compacter`] | adapters of Kronecker products (Compacter, Karimi Mahabadi et al., 2021) | branches (attention, mlp) |  |  |
//! | [`conv-adapter`](conv_adapter) | depth-wise bottlenecks of convolutional stages (Conv-Adapter, Chen et al., 2022) | vision projections (conv2) | identity |  |
//! | [`convpass`] | convolutional bypasses of attention and MLP (Convpass, Jie & Deng, 2022) | vision branches (attention, mlp) | identity |  |
//! | [`coop`] | learned context in front of a sentence's words (CoOp, Zhou et al., 2022) | the text stream before positions |  |  |
//! | [`dense-aligner`](dense_aligner) | convolutions over patches that look at the final words (DETRIS, Huang et al., 2025) | vision branches (mlp) |  |  |
//! | [`dora`] | low-rank updates of directions, and lengths, of weights (DoRA, Liu et al., 2024) | projections (query, value) | identity | yes |
//! | [`fact`] | the updates of all layers as one tensor of low rank (FacT, Jie & Deng, 2023) | projections (query, key, value, output, up, down) | identity | yes |
//! | [`ia3`] | learned scales on keys, values and inner activations (IA3, Liu et al., 2022) | projections (key, value, down) | identity | yes |
//! | [`lora`] | low-rank updates of projections (LoRA, Hu et al., 2021) | projections (query, value) | identity | yes |
//! | [`lst`] | a narrow network beside each tower, no backward through it (ladder side-tuning, Sung et al., 2022) | the vision stream after the first norm; the text stream after the first norm; the stream after blocks | identity |  |
//! | [`maple`] | learned tokens in both towers, coupled by linear maps (MaPLe, Khattak et al., 2023) | the text stream before positions; the vision stream after positions; the stream before blocks |  |  |
//! | [`prefix`] | learned keys and values in front of an attention's own (prefix tuning, Li and Liang, 2021) | keys and values |  |  |
//! | [`repadapter`] | linear bottlenecks before attention and MLP, which fold (RepAdapter, Luo et al., 2023) | branches (attention, mlp) | identity | yes |
//! | [`text-adapter`](text_adapter) | convolutions over neighbouring words (DETRIS, Huang et al., 2025) | text branches (mlp) |  |  |
//! | [`tip-adapter`](tip_adapter) | remembers the training pictures beside the similarities (Tip-Adapter, Zhang et al., 2022) | logits |  |  |
//! | [`unfreeze`] | trains existing parameters: BitFit (Ben Zaken et al., 2022), norms, positions, last blocks, all | existing parameters (bias, norm-bias) | identity | yes |
//! | [`vera`] | vectors around one shared pair of random matrices (VeRA, Kopiczko et al., 2024) | projections (query, value) | identity | yes |
//! | [`vpt`] | learned tokens beside the patches of a picture (VPT, Jia et al., 2022) | the vision stream before blocks |  |  |

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
pub mod fact;
pub mod ia3;
pub mod lora;
mod low_rank;
pub mod lst;
pub mod maple;
mod pixels;
pub mod prefix;
pub mod prompt;
pub mod repadapter;
pub mod setting;
mod singular;
pub mod text_adapter;
pub mod tip_adapter;
pub mod unfreeze;
pub mod vera;
pub mod vpt;
