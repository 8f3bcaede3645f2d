//! # twinspan-backbones
//!
//! Dual encoders for twinspan, as plugins: [`clip`] with ViT and ResNet towers, and
//! [`pocket`], a small one whose weights are part of this crate.
//!
//! [`block`] and the SDK's [`declare`](twinspan_sdk::declare) are what a family of one's own starts from; [`tokenizer`] turns
//! sentences into CLIP's ids.

pub mod block;
pub mod clip;
pub mod pocket;
pub mod tokenizer;
