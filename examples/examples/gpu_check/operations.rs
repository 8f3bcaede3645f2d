//! Every operation on the CPU and on the device, forward and backward, against the CPU in f64.
//!
//! Owns the comparison; the operations are listed in [`crate::cases`].

use candle_core::{DType, Device, Tensor, Var};
use twinspan::sdk::{Result, random};

use crate::cases::{Case, all};
use crate::compare::{DOUBLE, SINGLE, apart, largest, marked};

/// How an argument lies in memory.
#[derive(Clone, Copy)]
enum Lie {
    Plain,
    /// The first and the last dimension are swapped.
    Swapped,
    /// A slice of something wider, not at its beginning.
    Cut,
}

const LIES: [Lie; 3] = [Lie::Plain, Lie::Swapped, Lie::Cut];

impl Lie {
    /// What has to be stored for [`Lie::look`] to show `t`.
    fn store(self, t: &Tensor) -> Result<Tensor> {
        let last = t.rank().saturating_sub(1);
        Ok(match self {
            Lie::Swapped if last > 0 => t.transpose(0, last)?.contiguous()?,
            Lie::Cut if t.rank() > 0 => t.pad_with_zeros(last, 2, 1)?,
            _ => t.clone(),
        })
    }

    /// A view of what is stored.
    fn look(self, t: &Tensor) -> Result<Tensor> {
        let last = t.rank().saturating_sub(1);
        Ok(match self {
            Lie::Swapped if last > 0 => t.transpose(0, last)?,
            Lie::Cut if t.rank() > 0 => t.narrow(last, 2, t.dim(last)? - 3)?,
            _ => t.clone(),
        })
    }
}

/// Numbers around zero as a tensor in f64, the same at every call.
fn drawn(shape: &[usize], key: u64) -> Result<Tensor> {
    let count = shape.iter().product::<usize>() as u64;
    let values: Vec<f64> = (0..count).map(|i| 2.0 * random::normal(key, i)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The result of an operation, and the gradients of what trains of its arguments.
struct Outcome {
    value: Tensor,
    gradients: Vec<Tensor>,
}

fn outcome(case: &Case, lie: Lie, dtype: DType, device: &Device) -> Result<Outcome> {
    let (mut stored, mut given) = (Vec::new(), Vec::new());
    for (i, shape) in case.shapes.iter().enumerate() {
        let argument = drawn(shape, i as u64)?.to_dtype(dtype)?;
        let var = Var::from_tensor(&lie.store(&argument)?.to_device(device)?)?;
        let tracked = match i < case.trained {
            true => var.as_tensor().clone(),
            false => var.as_detached_tensor(),
        };
        given.push(lie.look(&tracked)?);
        stored.push(var);
    }
    let value = (case.call)(&given)?;
    // Every element has a gradient of its own.
    let weights = drawn(value.dims(), 77)?.to_dtype(dtype)?;
    let sum = (&value * weights.to_device(device)?)?.sum_all()?;
    let found = sum.backward()?;
    let mut gradients = Vec::new();
    for var in &stored[..case.trained] {
        let whole = match found.get(var) {
            Some(gradient) => gradient.clone(),
            None => Tensor::full(f64::NAN, var.shape(), &Device::Cpu)?,
        };
        gradients.push(lie.look(&whole)?);
    }
    let value = value.detach();
    Ok(Outcome { value, gradients })
}

/// The largest differences of value and gradients from `right`, over all ways to lie.
fn differences(case: &Case, right: &Outcome, dtype: DType, device: &Device) -> Result<(f64, f64)> {
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for lie in LIES {
        let found = outcome(case, lie, dtype, device)?;
        forward.push(apart(&found.value, &right.value)?);
        for (gradient, right) in found.gradients.iter().zip(&right.gradients) {
            backward.push(apart(gradient, right)?);
        }
    }
    Ok((largest(forward.into_iter()), largest(backward.into_iter())))
}

/// Prints a table of all operations; whether the device computes what the CPU computes.
pub fn check(name: &str, device: &Device) -> Result<bool> {
    println!("largest difference from the CPU in f64, over the largest element; plain, transposed");
    println!("and cut arguments");
    println!(
        "{:26} {:>21} {:>21} {:>21}",
        "",
        "cpu f32",
        format!("{name} f32"),
        format!("{name} f64")
    );
    let side = ["forward", "backward"];
    println!(
        "{:26} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "operation", side[0], side[1], side[0], side[1], side[0], side[1]
    );
    let mut right = true;
    for case in all() {
        let expected = outcome(&case, Lie::Plain, DType::F64, &Device::Cpu)?;
        let mut line = format!("{:26}", case.name);
        let rows = [
            (DType::F32, &Device::Cpu, SINGLE),
            (DType::F32, device, SINGLE),
            (DType::F64, device, DOUBLE),
        ];
        for (dtype, device, bound) in rows {
            match differences(&case, &expected, dtype, device) {
                Ok((forward, backward)) => {
                    right &= forward <= bound && backward <= bound;
                    line += &format!(" {} {}", marked(forward, bound), marked(backward, bound));
                }
                Err(error) => {
                    right = false;
                    line += &format!(" ! {dtype:?}: {error}");
                }
            }
        }
        println!("{line}");
    }
    Ok(right)
}
