//! # twinspan-backbones
//!
//! Dual encoders for twinspan, as plugins: [`clip`] with ViT and ResNet towers, [`siglip`],
//! [`dinov2_clip`], whose towers were trained apart, and [`pocket`], a small one whose weights are
//! part of this crate.
//!
//! [`block`] and the SDK's [`declare`](twinspan_sdk::declare) are what a family of one's own
//! starts from; [`tokenizer`] turns sentences into ids.

pub mod block;
pub mod clip;
pub mod dinov2_clip;
mod json;
mod layout;
pub mod pictures;
pub mod pocket;
mod probe;
pub mod siglip;
mod sizes;
mod text;
pub mod tokenizer;
mod vit;
