//! twinspan-sdk
pub mod base;
pub mod checkpoint;
pub mod file;
pub mod frozen;
pub mod key_map;
pub mod ops;
