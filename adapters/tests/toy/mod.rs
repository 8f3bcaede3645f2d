//! A backbone small enough to check by hand, and what installs adapters on it.

// Every test file uses a part of it.
#![allow(dead_code, unused_imports)]

mod backbone;
mod task;
mod topology;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::base::Base;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::recipe::{Recipe, TrainOptions, WeightsChoice};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::task::Batch;
use twinspan_sdk::topology::{Origin, Topology};
use twinspan_sdk::tuned::{Compute, Tuned};

pub use backbone::Toy;
use task::Look;
pub use topology::{VOCABULARY, WORDS, map_stream, token_stream, topology};

/// Values for every parameter of a topology.
pub fn base(topology: &Topology) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for info in topology.parameters().filter(|p| p.origin == Origin::Base) {
        tensors.insert(info.name.clone(), random(&info.name, &info.shape, 0.5));
    }
    tensors
}

/// Normal values in f64, the same for the same name.
pub fn random(name: &str, shape: &[usize], std: f64) -> Tensor {
    let init = Init::Normal(std);
    init.tensor(7, name, shape, DType::F64, &Device::Cpu)
        .unwrap()
}

/// A recipe on the toy.
pub fn recipe(toy: Toy, adapters: Vec<Configured<dyn Adapter>>, reads: Vec<Tap>) -> Recipe {
    Recipe {
        backbone: Configured {
            name: "toy",
            plugin: std::sync::Arc::new(toy),
            options: Default::default(),
        },
        weights: WeightsChoice::default(),
        adapters,
        task: Configured {
            name: "look",
            plugin: std::sync::Arc::new(Look(reads)),
            options: Default::default(),
        },
        train: TrainOptions::default(),
    }
}

pub fn adapter<P: Plugin + Adapter>(plugin: P) -> Vec<Configured<dyn Adapter>> {
    vec![Configured::<dyn Adapter>::of(plugin).unwrap()]
}

/// The last features of both towers.
pub fn ends() -> Vec<Tap> {
    vec![Tap::vision(At::Final), Tap::text(At::Final)]
}

/// A model in f64.
pub fn tuned(recipe: &Recipe, base: BTreeMap<String, Tensor>) -> Result<Tuned> {
    let compute = Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    };
    Tuned::new(recipe, Base::from_tensors(base), compute)
}

/// Two pictures for a stream of `grid` after the embedding, and two sentences.
pub fn batch((rows, columns): (usize, usize)) -> Batch {
    let images = random("pictures", &[2, 3, 2 * rows, 2 * columns], 1.0);
    let ids: Vec<u32> = vec![1, 4, 2, 6, 0, 1, 3, 6, 0, 0];
    let tokens = Tensor::from_vec(ids, (2, WORDS), &Device::Cpu).unwrap();
    Batch::aligned(images, tokens, None).unwrap()
}

/// The streams that the task reads.
pub fn features(tuned: &Tuned, batch: &Batch, pass: &mut Pass) -> Vec<Tensor> {
    let streams = tuned.forward(batch, pass).unwrap();
    streams.into_iter().map(|s| s.data).collect()
}

/// A scalar that depends on every feature.
pub fn loss(tuned: &Tuned, batch: &Batch, pass: &mut Pass) -> Tensor {
    let mut sum: Option<Tensor> = None;
    for (i, x) in features(tuned, batch, pass).iter().enumerate() {
        let weights = random(&format!("loss.{i}"), x.dims(), 1.0);
        let one = ops::mul(x, &weights).unwrap().sum_all().unwrap();
        sum = Some(match sum {
            Some(sum) => ops::add(&sum, &one).unwrap(),
            None => one,
        });
    }
    sum.unwrap()
}

pub fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let d = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    d.max(0).unwrap().to_scalar::<f64>().unwrap()
}

pub fn largest(a: &Tensor) -> f64 {
    largest_difference(a, &a.zeros_like().unwrap())
}

/// Gives trained parameters whose name `accepts` values away from their start.
pub fn shake(tuned: &Tuned, accepts: impl Fn(&str) -> bool) {
    for (name, trained) in &tuned.overlay.trained {
        if accepts(name) {
            let moved = random(name, trained.var.dims(), 0.3);
            trained
                .var
                .set(&(trained.var.as_detached_tensor() + moved).unwrap())
                .unwrap();
        }
    }
}

/// Every trained parameter's gradient against central differences at some of its entries, and no
/// gradient for anything else.
pub fn check_gradients(tuned: &Tuned, batch: &Batch, pass: impl Fn() -> Pass) {
    let found = loss(tuned, batch, &mut pass()).backward().unwrap();
    assert_eq!(found.get_ids().count(), tuned.overlay.trained.len());
    let value = || loss(tuned, batch, &mut pass()).to_scalar::<f64>().unwrap();
    for (name, trained) in &tuned.overlay.trained {
        let gradient = found
            .get(&trained.var)
            .unwrap_or_else(|| panic!("{name}: no gradient"));
        let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let start = trained.var.as_detached_tensor().copy().unwrap();
        let n = gradient.len();
        for i in [0, n / 2, n - 1] {
            let nudged = |by: f64| {
                let mut values: Vec<f64> = start.flatten_all().unwrap().to_vec1().unwrap();
                values[i] += by;
                let moved = Tensor::from_vec(values, start.dims(), &Device::Cpu).unwrap();
                trained.var.set(&moved).unwrap();
                value()
            };
            let h = 1e-5;
            let slope = (nudged(h) - nudged(-h)) / (2.0 * h);
            trained.var.set(&start).unwrap();
            let error = (slope - gradient[i]).abs();
            assert!(
                error < 1e-6 * (1.0 + slope.abs()),
                "{name}[{i}]: {} instead of {slope}",
                gradient[i]
            );
        }
    }
}
