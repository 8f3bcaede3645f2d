//! The dense attention pool against plain loops, and its positions on another grid.

use candle_core::{DType, Tensor};
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::base::Base;
use twinspan_sdk::parameter::Overlay;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::topology::StreamInfo;

use crate::drawn::{bare, distance, encoders, inputs, small, walk_both};

type Matrix = Vec<Vec<f64>>;

/// A canonical tensor as rows; further dimensions are flattened.
fn rows(base: &Base, overlay: &Overlay, name: &str) -> Matrix {
    let tensor = match base.get(name) {
        Some(found) => found.tensor(DType::F64, &candle_core::Device::Cpu).unwrap(),
        None => overlay.constants[name].tensor(),
    };
    let first = tensor.dim(0).unwrap();
    tensor.reshape((first, ())).unwrap().to_vec2().unwrap()
}

#[test]
fn every_place_of_the_dense_pool_is_a_query() {
    let (clip, topology, base, overlay) = small(true);
    let encoders = encoders(&clip, &topology, &base, &overlay);
    let mut pass = Pass::predict();
    let [vision, _] = walk_both(
        &encoders,
        &topology,
        &inputs(true),
        &bare(&topology),
        &mut pass,
    );
    let map = &vision.streams.last().unwrap().data;
    let (batch, channels, side, _) = map.dims4().unwrap();
    let of = |name: &str| rows(&base, &overlay, &format!("vision.pool.{name}"));
    let column = |name: &str| -> Vec<f64> { of(name).into_iter().flatten().collect() };
    let linear = |name: &str, x: &[f64]| -> Vec<f64> {
        let bias = column(&format!("{name}.bias"));
        let weight = of(&format!("{name}.weight"));
        let dot = |row: &[f64]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        weight
            .iter()
            .zip(bias)
            .map(|(row, b)| dot(row) + b)
            .collect()
    };
    let (head, heads) = (16, channels / 16);
    let positions = of("position");
    let mut want = Vec::new();
    for sample in 0..batch {
        let picture = map.get(sample).unwrap().flatten_from(1).unwrap();
        let bare: Matrix = picture.t().unwrap().to_vec2().unwrap();
        let placed: Matrix = bare
            .iter()
            .zip(&positions[1..])
            .map(|(x, p)| x.iter().zip(p).map(|(x, p)| x + p).collect())
            .collect();
        let all = |name: &str| -> Matrix { placed.iter().map(|x| linear(name, x)).collect() };
        let (queries, keys, values) = (all("query"), all("key"), all("value"));
        let outputs: Matrix = queries
            .iter()
            .zip(&bare)
            .map(|(query, x)| {
                let mut mixed = vec![0.0; channels];
                for h in 0..heads {
                    let of_head = h * head..(h + 1) * head;
                    let scores: Vec<f64> = keys
                        .iter()
                        .map(|key| {
                            let pairs = of_head.clone().map(|c| query[c] * key[c]);
                            (pairs.sum::<f64>() / (head as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for (score, value) in scores.iter().zip(&values) {
                        for c in of_head.clone() {
                            mixed[c] += score / total * value[c];
                        }
                    }
                }
                let pooled = linear("output", &mixed);
                let weight = of("connect.conv.weight");
                let norm = |part: &str| column(&format!("connect.norm.{part}"));
                let (scale, shift) = (norm("weight"), norm("bias"));
                let (mean, var) = (norm("running_mean"), norm("running_var"));
                (0..pooled.len())
                    .map(|e| {
                        let y: f64 = weight[e].iter().zip(x).map(|(a, b)| a * b).sum();
                        let y = (y - mean[e]) / (var[e] + 1e-5).sqrt() * scale[e] + shift[e];
                        (pooled[e] + y).max(0.0)
                    })
                    .collect()
            })
            .collect();
        want.extend(outputs.into_iter().flatten());
    }
    let want = Tensor::from_vec(want, (batch, side * side, ()), map.device()).unwrap();
    let got = vision.features.data.flatten_from(2).unwrap();
    let distance = distance(&got.transpose(1, 2).unwrap(), &want);
    assert!(distance < 1e-12, "{distance:e}");
}

#[test]
fn a_larger_input_gives_a_larger_map_and_keeps_the_table() {
    let (mut clip, small, base, overlay) = small(true);
    clip.input_size = 96;
    let topology = clip.topology().unwrap();
    let parameters: Vec<_> = topology.parameters().collect();
    assert_eq!(parameters, small.parameters().collect::<Vec<_>>());
    assert_eq!(
        topology.vision.last,
        StreamInfo {
            width: 16,
            grid: Some((3, 3)),
            map: true
        }
    );
    let encoders = encoders(&clip, &topology, &base, &overlay);
    let [image, tokens] = inputs(true);
    let image = image.pad_with_same(2, 16, 16).unwrap();
    let inputs = [image.pad_with_same(3, 16, 16).unwrap(), tokens];
    let mut pass = Pass::predict();
    let [vision, _] = walk_both(&encoders, &topology, &inputs, &bare(&topology), &mut pass);
    assert_eq!(vision.features.data.dims(), [2, 16, 3, 3]);
    assert_eq!(vision.pooled.dims(), [2, 16]);
}

#[test]
fn without_connect_the_pool_is_left_as_it_is() {
    let (mut clip, _, base, _) = small(true);
    clip.connect = false;
    let topology = clip.topology().unwrap();
    assert!(topology.parameters().all(|p| !p.name.contains("connect")));
    let encoders = encoders(&clip, &topology, &base, &Overlay::default());
    let mut pass = Pass::predict();
    let [vision, _] = walk_both(
        &encoders,
        &topology,
        &inputs(true),
        &bare(&topology),
        &mut pass,
    );
    let values = vision.features.data.flatten_all().unwrap();
    assert!(values.min(0).unwrap().to_scalar::<f64>().unwrap() < 0.0);
}
