//! # twinspan-backbones
//!
//! Dual encoders for twinspan, as plugins: [`clip`] with ViT and ResNet towers.
//!
//! [`block`] and the SDK's [`declare`](twinspan_sdk::declare) are what a family of one's own starts from; [`tokenizer`] turns
//! sentences into CLIP's ids.

pub mod block;
pub mod clip;
pub mod tokenizer;
