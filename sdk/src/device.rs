//! Devices by name: `auto`, `cpu`, `cuda:N`.

use candle_core::Device;

use crate::error::{Error, Result};

/// The device of a name. `auto` is the CPU until every operation has a kernel elsewhere; a CUDA
/// device is had by its name.
///
/// # Errors
/// The name is unknown, or the device cannot be had.
pub fn device(name: &str) -> Result<Device> {
    let wrong = |message: String| Error::Device {
        name: name.to_string(),
        message,
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(Device::Cpu),
        other => {
            let ordinal = match other.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
                None => None,
            };
            let Some(ordinal) = ordinal else {
                return Err(wrong("there are: auto, cpu, cuda:0, cuda:1, …".into()));
            };
            if !candle_core::utils::cuda_is_available() {
                return Err(wrong(
                    "this program was built without CUDA; build with --features cuda".into(),
                ));
            }
            Device::new_cuda_with_stream(ordinal).map_err(|e| wrong(e.to_string()))
        }
    }
}
