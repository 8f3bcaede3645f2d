//! twinspan-sdk
pub mod frozen;
pub mod ops;
