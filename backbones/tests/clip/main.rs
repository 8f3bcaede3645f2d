//! Tests of the plugin `clip`: against the reference implementations, and of what its topology
//! promises.

mod drawn;
mod golden;
mod hooks;
mod key_maps;
mod options;
mod pool;
mod topology;
