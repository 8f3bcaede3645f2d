//! The testkit's toy, which has every place: with an adapter, or bare over weights that a test
//! changed by hand.

// Every test file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::base::Base;
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::laws::{Law, Outcome, of_adapter, table};
use twinspan_sdk::testkit::{self, Look, Toy, ToyTask, batch};
use twinspan_sdk::topology::Origin;
use twinspan_sdk::tuned::{Compute, Tuned};

/// The toy with an adapter, in f64, under a task that looks at `looks`.
pub fn model<P: Plugin + Adapter>(plugin: P, looks: &[Look]) -> Result<Tuned> {
    let adapter = Configured::<dyn Adapter>::of(plugin)?;
    testkit::tuned(&testkit::recipe(ToyTask::of(looks), vec![adapter])?)
}

/// Why the toy does not take an adapter.
pub fn refusal<P: Plugin + Adapter>(plugin: P, looks: &[Look]) -> String {
    let error = model(plugin, looks).err().expect("it is not refused");
    assert!(error.is_wrong_use(), "{error}");
    error.to_string()
}

/// The bare toy over these weights.
pub fn over(weights: BTreeMap<String, Tensor>, looks: &[Look]) -> Tuned {
    let recipe = testkit::recipe(ToyTask::of(looks), vec![]).unwrap();
    let compute = Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    };
    Tuned::new(&recipe, Base::from_tensors(weights), compute).unwrap()
}

/// The frozen weights of a model, by name.
pub fn frozen(tuned: &Tuned) -> BTreeMap<String, Tensor> {
    let infos = tuned.topology.parameters();
    let stored = infos.filter(|info| info.origin == Origin::Base);
    stored
        .map(|info| (info.name.clone(), tuned.value(&info.name).unwrap()))
        .collect()
}

/// What trains under `name`.
pub fn trained(tuned: &Tuned, name: &str) -> Tensor {
    let found = tuned.overlay.trained.get(name);
    found
        .unwrap_or_else(|| panic!("nothing trains as {name}"))
        .var
        .as_detached_tensor()
}

/// Moves what trains away from its start.
pub fn shake(tuned: &Tuned) {
    for (name, trained) in &tuned.overlay.trained {
        let value = trained.var.as_detached_tensor();
        let init = Init::Normal(0.3);
        let moved = init.tensor(5, name, value.dims(), DType::F64, &Device::Cpu);
        trained.var.set(&(value + moved.unwrap()).unwrap()).unwrap();
    }
}

/// Two pictures and three sentences, every pair.
pub fn pairs() -> Batch {
    let pairs = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
    batch(2, 3, &pairs, 1).unwrap()
}

/// What the task reads.
pub fn features(tuned: &Tuned) -> Vec<Tensor> {
    let streams = tuned.forward(&pairs(), &mut Pass::predict()).unwrap();
    streams.into_iter().map(|s| s.data).collect()
}

/// The largest difference of any element.
pub fn apart(a: &[Tensor], b: &[Tensor]) -> f64 {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| {
        assert_eq!(a.dims(), b.dims());
        let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        off.max(0).unwrap().to_scalar::<f64>().unwrap()
    });
    each.fold(0.0, f64::max)
}

/// Puts every law to a plugin on the toy; those of `skipped` do not apply to it.
pub fn keeps_the_laws<P: Plugin + Adapter>(plugin: P, skipped: &[Law]) {
    let adapter = Configured::<dyn Adapter>::of(plugin).unwrap();
    let toy = Configured::<dyn Backbone>::of(Toy::default()).unwrap();
    let verdicts = of_adapter(&adapter, &toy);
    for verdict in &verdicts {
        let held = match skipped.contains(&verdict.law) {
            true => matches!(verdict.outcome, Outcome::Skipped(_)),
            false => verdict.outcome == Outcome::Held,
        };
        assert!(held, "{}", table(&verdicts));
    }
}
