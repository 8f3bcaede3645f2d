//! How far results lie apart, and what of it is rounding.

use candle_core::{DType, Device, Tensor};
use twinspan::sdk::Result;

/// Sums of a few thousand products in f32 against f64.
pub const SINGLE: f64 = 2e-5;
/// The same sums in f64, in another order.
pub const DOUBLE: f64 = 1e-11;

/// The largest difference of two tensors over the largest element of `right`; 0 where both are
/// zeros, not a number where one holds one.
pub fn apart(found: &Tensor, right: &Tensor) -> Result<f64> {
    let flat = |t: &Tensor| -> Result<Vec<f64>> {
        let t = t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(t.flatten_all()?.to_vec1()?)
    };
    let (found, right) = (flat(found)?, flat(right)?);
    if found.len() != right.len() {
        return Ok(f64::NAN);
    }
    let differences = found.iter().zip(&right).map(|(f, r)| f - r);
    let (most, size) = (largest(differences), largest(right.iter().copied()));
    Ok(if most == 0.0 { 0.0 } else { most / size })
}

/// The largest absolute value; not a number where there is one.
pub fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most: f64, value| {
        match most.is_nan() || value.is_nan() {
            true => f64::NAN,
            false => most.max(value.abs()),
        }
    })
}

/// The difference as the tables print it, marked where it is not below `bound`.
pub fn marked(difference: f64, bound: f64) -> String {
    let mark = if difference <= bound { ' ' } else { '!' };
    format!("{difference:9.1e}{mark}")
}
