//! Shape errors that name the operation, and the choice between kernel and composition.
//!
//! Owns no arithmetic.

use candle_core::{DType, Device, Error, Result, Tensor};

/// An error saying which operation got which shapes.
pub(super) fn mismatch(op: &str, wanted: &str, tensors: &[&Tensor]) -> Error {
    let shapes: Vec<String> = tensors.iter().map(|t| format!("{:?}", t.dims())).collect();
    Error::Msg(format!(
        "{op}: wants {wanted}, got {}",
        shapes.join(" and ")
    ))
    .bt()
}

/// Refuses unless `holds`.
pub(super) fn require(holds: bool, op: &str, wanted: &str, tensors: &[&Tensor]) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(mismatch(op, wanted, tensors)),
    }
}

/// The element type for which the CPU kernels serve all of `tensors`, or `None` where the
/// composition has to.
///
/// # Errors
/// The tensors differ in type or device.
pub(super) fn kernel(op: &str, tensors: &[&Tensor]) -> Result<Option<DType>> {
    let (dtype, device) = (tensors[0].dtype(), tensors[0].device());
    for t in &tensors[1..] {
        if t.dtype() != dtype {
            let types = (dtype.as_str(), t.dtype().as_str());
            return Err(Error::Msg(format!("{op}: got {} and {}", types.0, types.1)).bt());
        }
        if !t.device().same_device(device) {
            return Err(Error::Msg(format!("{op}: the tensors lie on different devices")).bt());
        }
    }
    let served = matches!(device, Device::Cpu) && matches!(dtype, DType::F32 | DType::F64);
    Ok(served.then_some(dtype))
}

/// Calls `$f::<f32>` or `$f::<f64>` where a CPU kernel serves `$tensors`, else `$composition`.
macro_rules! choose {
    ($op:expr, $tensors:expr, $f:ident ( $($arg:expr),* $(,)? ), $composition:expr) => {
        match crate::ops::check::kernel($op, $tensors)? {
            Some(candle_core::DType::F32) => $f::<f32>($($arg),*),
            Some(_) => $f::<f64>($($arg),*),
            None => $composition,
        }
    };
}
pub(super) use choose;
