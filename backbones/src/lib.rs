//! backbones
pub mod tokenizer;
