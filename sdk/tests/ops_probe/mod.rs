//! Numbers, views and comparisons for the tests of the operations.
#![allow(dead_code)]

use candle_core::{DType, Device, Result, Tensor, Var};
use twinspan_sdk::ops;

pub type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Numbers in `[-1, 1)` that look random, the same on every run.
pub fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mixed = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 11) as f64 / (1u64 << 52) as f64 - 1.
        })
        .collect()
}

/// Such numbers as an `f64` tensor.
pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
    let n = shape.iter().product();
    Tensor::from_vec(numbers(n, seed), shape, &Device::Cpu).unwrap()
}

/// How an argument lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    Plain,
    /// The first and the last dimension are swapped in memory.
    Swapped,
    /// A slice of something larger in the last dimension, and not at its beginning.
    Cut,
}

pub const LIES: [Lie; 3] = [Lie::Plain, Lie::Swapped, Lie::Cut];

impl Lie {
    /// What has to be stored for [`Self::look`] to show `t`.
    pub fn store(self, t: &Tensor) -> Tensor {
        let last = t.rank().saturating_sub(1);
        match self {
            Lie::Swapped if last > 0 => t.transpose(0, last).unwrap().contiguous().unwrap(),
            Lie::Cut if t.rank() > 0 => t.pad_with_same(last, 2, 1).unwrap(),
            _ => t.clone(),
        }
    }

    /// A strided view of what is stored.
    pub fn look(self, t: &Tensor) -> Tensor {
        let last = t.rank().saturating_sub(1);
        match self {
            Lie::Swapped if last > 0 => t.transpose(0, last).unwrap(),
            Lie::Cut if t.rank() > 0 => t.narrow(last, 2, t.dim(last).unwrap() - 3).unwrap(),
            _ => t.clone(),
        }
    }
}

/// The sum of `y` with fixed weights, so that every element has a gradient of its own.
pub fn weigh(y: &Tensor) -> Tensor {
    let weights = tensor(y.dims(), 77).to_dtype(y.dtype()).unwrap();
    ops::mul(y, &weights).unwrap().sum_all().unwrap()
}

/// The value of an operation and its gradients, with the arguments in `tracked` as variables.
pub fn differentiate(arguments: &[Tensor], tracked: &[bool], f: Op) -> (Tensor, Vec<Tensor>) {
    let variables: Vec<Var> = arguments
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let given: Vec<Tensor> = variables
        .iter()
        .zip(tracked)
        .map(|(v, &t)| match t {
            true => v.as_tensor().clone(),
            false => v.as_detached_tensor(),
        })
        .collect();
    let y = f(&given).unwrap();
    let found = weigh(&y).backward().unwrap();
    let gradients = variables
        .iter()
        .zip(tracked)
        .filter(|&(_, &t)| t)
        .map(|(v, _)| found.get(v).expect("a gradient").clone())
        .collect();
    (y.detach(), gradients)
}

pub fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Fails unless the tensors agree within `tolerance`, relative to the largest element (at
/// least 1).
pub fn assert_close(name: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims(), "{name}");
    let (a, b) = (flat(a), flat(b));
    let scale = b.iter().fold(1f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let error = (a - b).abs();
        assert!(
            error <= tolerance * scale,
            "{name}: element {i} is {a}, expected {b}"
        );
    }
}
