//! Methods on the toy with every place: their laws, their refusals, and what they give against
//! hooks written out in plain tensor arithmetic.

// Every test file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::hooks::BranchView;
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::testkit::laws::{Outcome, of_adapter, table};
use twinspan_sdk::testkit::{By, Scripted, Toy, ToyTask, batch, recipe, tuned};
use twinspan_sdk::tuned::Tuned;

/// What is equal but for the order of sums of some hundred terms differs by less.
pub const ROUNDING: f64 = 1e-12;

/// Trained values by name.
pub type Values = BTreeMap<String, Tensor>;

/// Puts every law to an adapter on the toy; which were skipped, in words.
pub fn laws<P: Plugin + Adapter>(adapter: P) -> Vec<String> {
    let adapter = Configured::<dyn Adapter>::of(adapter).unwrap();
    let toy = Configured::<dyn Backbone>::of(Toy::default()).unwrap();
    let verdicts = of_adapter(&adapter, &toy);
    let broken = |o: &Outcome| matches!(o, Outcome::Broken(_));
    assert!(
        !verdicts.iter().any(|v| broken(&v.outcome)),
        "{}",
        table(&verdicts)
    );
    let skipped = verdicts.iter().filter(|v| v.outcome != Outcome::Held);
    skipped.map(|v| v.law.to_string()).collect()
}

/// The adapter on the toy.
pub fn model<P: Plugin + Adapter>(adapter: P) -> twinspan_sdk::Result<Tuned> {
    let adapter = Configured::<dyn Adapter>::of(adapter)?;
    tuned(&recipe(ToyTask::default(), vec![adapter])?)
}

/// Why the adapter is refused.
pub fn refusal<P: Plugin + Adapter>(adapter: P) -> String {
    let error = model(adapter).err().unwrap();
    assert!(error.is_wrong_use());
    error.to_string()
}

/// The same with every trained value moved away from its start, and these values.
pub fn stirred<P: Plugin + Adapter>(adapter: P) -> (Tuned, Values) {
    let model = model(adapter).unwrap();
    let mut values = Values::new();
    for (name, trained) in &model.overlay.trained {
        let away = Init::Normal(0.3).tensor(5, name, trained.var.dims(), DType::F64, &Device::Cpu);
        let value = (trained.var.as_detached_tensor() + away.unwrap()).unwrap();
        trained.var.set(&value).unwrap();
        values.insert(name.clone(), value);
    }
    (model, values)
}

/// A branch's new output from the values, the slot's name, what the hook sees and the output.
pub type ByHand = fn(&Values, &str, BranchView, &Tensor) -> Tensor;

/// The features of the adapter against those of hooks `by_hand` at the same branches.
pub fn is_as_by_hand<P: Plugin + Adapter>(adapter: P, by_hand: ByHand) {
    let wants = adapter.wants();
    let (found, values) = stirred(adapter);
    let values = Arc::new(values);
    let scripted = Scripted::new("by hand", wants, move |slots, _, hooks| {
        for (slot, branch) in slots.iter().filter_map(|s| Some((s, s.branch()?))) {
            let (values, name) = (values.clone(), slot.to_string());
            let hook = move |view: BranchView<'_>, y: &Tensor, _: &mut Pass| {
                Ok(by_hand(&values, &name, view, y))
            };
            hooks.branch(branch, By(hook));
        }
        Ok(())
    });
    let expected = recipe(ToyTask::default(), vec![scripted.configured()]).unwrap();
    let expected = tuned(&expected).unwrap();
    let bare = tuned(&recipe(ToyTask::default(), Vec::new()).unwrap()).unwrap();
    let (found, expected, bare) = (features(&found), features(&expected), features(&bare));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(off(found, expected) < ROUNDING * (1.0 + largest(expected)));
    }
    let moved = found.iter().zip(&bare).map(|(a, b)| off(a, b));
    assert!(moved.fold(0.0, f64::max) > 1e-3);
}

fn features(tuned: &Tuned) -> Vec<Tensor> {
    let batch = batch(2, 3, &[(0, 0), (0, 1), (1, 2)], 1).unwrap();
    let streams = tuned.forward(&batch, &mut Pass::predict()).unwrap();
    streams.into_iter().map(|s| s.data).collect()
}

/// The largest difference.
pub fn off(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    largest(&(a - b).unwrap())
}

/// The largest absolute value.
pub fn largest(a: &Tensor) -> f64 {
    let all = a.abs().unwrap().flatten_all().unwrap();
    all.max(0).unwrap().to_scalar::<f64>().unwrap()
}

/// W x + b on the last dimension, of `NAME.weight` and `NAME.bias`.
pub fn linear(values: &Values, name: &str, x: &Tensor) -> Tensor {
    let weight = &values[&format!("{name}.weight")];
    affine(weight, &values[&format!("{name}.bias")], x)
}

/// W x + b on the last dimension.
pub fn affine(weight: &Tensor, bias: &Tensor, x: &Tensor) -> Tensor {
    let y = x.broadcast_matmul(&weight.t().unwrap()).unwrap();
    y.broadcast_add(bias).unwrap()
}

/// x Φ(x).
pub fn gelu(x: &Tensor) -> Tensor {
    let erf = (x / 2f64.sqrt()).unwrap().erf().unwrap();
    (x * ((erf + 1.0).unwrap() * 0.5).unwrap()).unwrap()
}

/// x σ(1.702 x).
pub fn quick_gelu(x: &Tensor) -> Tensor {
    let e = (x * -1.702).unwrap().exp().unwrap();
    (x / (e + 1.0).unwrap()).unwrap()
}

/// `x [B, C, H, W]` with `k [O, C/groups, n, n]`, sum by sum.
pub fn convolved(
    x: &Tensor,
    k: &Tensor,
    bias: &Tensor,
    groups: usize,
    (stride, padding): (usize, usize),
) -> Tensor {
    let (b, c, h, w) = x.dims4().unwrap();
    let (o, each, n, _) = k.dims4().unwrap();
    assert_eq!(each * groups, c);
    let (xs, ks) = (flat(x), flat(k));
    let bias = flat(bias);
    let (rows, columns) = (
        (h + 2 * padding - n) / stride + 1,
        (w + 2 * padding - n) / stride + 1,
    );
    let mut y = Vec::new();
    for item in 0..b {
        for out in 0..o {
            let first = out / (o / groups) * each;
            for row in 0..rows {
                for column in 0..columns {
                    let mut sum = bias[out];
                    for (j, dy, dx) in taps(each, n) {
                        let (at_y, at_x) = (row * stride + dy, column * stride + dx);
                        let inside = |at: usize, size| at >= padding && at < size + padding;
                        if inside(at_y, h) && inside(at_x, w) {
                            let pixel = (at_y - padding) * w + at_x - padding;
                            let x = xs[(item * c + first + j) * h * w + pixel];
                            sum += x * ks[((out * each + j) * n + dy) * n + dx];
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    Tensor::from_vec(y, (b, o, rows, columns), &Device::Cpu).unwrap()
}

fn taps(channels: usize, n: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..channels).flat_map(move |j| (0..n * n).map(move |i| (j, i / n, i % n)))
}

/// The values in order.
pub fn flat(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}
