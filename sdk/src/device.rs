//! Devices by name: `auto`, `cpu`, `cuda:N`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;

use crate::error::{Error, Result};

/// The CUDA devices that were asked for: candle takes two openings of one card for two devices,
/// whose tensors do not meet.
static OPENED: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());

fn cuda(ordinal: usize) -> candle_core::Result<Device> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&ordinal) {
        return Ok(device.clone());
    }
    // One stream for all threads: with candle's default of one a thread, a batch that a loader
    // made would not be waited for.
    let device = Device::new_cuda_with_stream(ordinal)?;
    opened.insert(ordinal, device.clone());
    Ok(device)
}

/// The device of a name; the same name gives the same device again. `auto` is the CPU until every
/// operation has a kernel elsewhere; a CUDA device is had by its name.
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
            cuda(ordinal).map_err(|e| wrong(e.to_string()))
        }
    }
}
