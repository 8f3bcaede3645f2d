//! What the tests of the contracts share: running the toy and comparing numbers.

#![allow(dead_code)]

pub mod pieces;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::{self, ToyTask};
use twinspan_sdk::tuned::Tuned;

/// Sums in f64 of a few hundred terms of size one, taken in another order, differ by less.
pub const REORDERED: f64 = 1e-10;

pub type Adapters = Vec<Configured<dyn Adapter>>;

pub fn model(task: ToyTask, adapters: Adapters) -> Tuned {
    testkit::tuned(&testkit::recipe(task, adapters).unwrap()).unwrap()
}

/// The error of a model that cannot be, and of its plan: they are the same.
pub fn refused(task: ToyTask, adapters: impl Fn() -> Adapters) -> String {
    let recipe = testkit::recipe(task.clone(), adapters()).unwrap();
    let planned = twinspan_sdk::plan::plan(&recipe).unwrap_err().to_string();
    let recipe = testkit::recipe(task, adapters()).unwrap();
    let made = testkit::tuned(&recipe).err().unwrap().to_string();
    assert_eq!(planned, made);
    made
}

/// `n` pictures and sentences, each with its own.
pub fn aligned(n: usize) -> Batch {
    let pairs: Vec<(u32, u32)> = (0..n as u32).map(|i| (i, i)).collect();
    testkit::batch(n, n, &pairs, 1).unwrap()
}

/// What the task reads, without gradients.
pub fn features(model: &Tuned, batch: &Batch) -> Vec<Tensor> {
    let streams = model.forward(batch, &mut Pass::predict()).unwrap();
    streams.into_iter().map(|s| s.data).collect()
}

pub fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference between two tensors of one shape.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// What hooks saw, in order.
pub struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Seen<T> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn see(&self, value: T) {
        self.0.lock().unwrap().push(value);
    }

    /// Everything seen since the last look.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
