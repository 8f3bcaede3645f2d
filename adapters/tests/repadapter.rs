//! RepAdapter against its equation, in the weights of all that read the norm.

mod whole;

use candle_core::Tensor;
use twinspan_adapters::repadapter::RepAdapter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Sites};
use twinspan_sdk::testkit::Look;
use twinspan_sdk::tuned::Tuned;
use whole::*;

const ENDS: [Look; 4] = [
    Look::VisionFinal,
    Look::VisionPooled,
    Look::TextFinal,
    Look::TextPooled,
];

fn of(dim: usize, groups: usize, scale: f64) -> RepAdapter {
    RepAdapter {
        dim,
        groups,
        scale,
        ..Default::default()
    }
}

#[test]
fn it_keeps_the_laws() {
    keeps_the_laws(RepAdapter::default(), &[]);
    keeps_the_laws(of(4, 4, 0.3), &[]);
}

type Matrix = Vec<Vec<f64>>;

fn matrix(x: &Tensor) -> Matrix {
    x.to_vec2().unwrap()
}

fn vector(x: &Tensor) -> Vec<f64> {
    x.to_vec1().unwrap()
}

/// I + s·B·A and s·(B a + b) of a branch, by plain loops over the groups.
fn map_of(tuned: &Tuned, branch: &str, groups: usize, scale: f64) -> (Matrix, Vec<f64>) {
    let of = |name: &str| trained(tuned, &format!("repadapter.{branch}.{name}"));
    let (down, up) = (matrix(&of("down.weight")), matrix(&of("up.weight")));
    let (inner, outer) = (vector(&of("down.bias")), vector(&of("up.bias")));
    let (width, dim) = (up.len(), down.len());
    let (mut map, mut shift) = (vec![vec![0.0; width]; width], vec![0.0; width]);
    for i in 0..width {
        map[i][i] = 1.0;
        shift[i] = scale * outer[i];
        let first = i / (width / groups) * (dim / groups);
        for (j, weight) in up[i].iter().enumerate() {
            shift[i] += scale * weight * inner[first + j];
            for k in 0..width {
                map[i][k] += scale * weight * down[first + j][k];
            }
        }
    }
    (map, shift)
}

#[test]
fn forward_is_that_of_the_weights_of_all_readers() {
    for (dim, groups, scale) in [(8, 2, 1.0), (4, 1, 0.5), (8, 4, -2.0)] {
        let with = model(of(dim, groups, scale), &ENDS).unwrap();
        shake(&with);
        let mut weights = frozen(&with);
        for tower in ["vision", "text"] {
            for block in 0..3 {
                for (branch, readers) in [
                    ("attention", &["query", "key", "value"][..]),
                    ("mlp", &["up"]),
                ] {
                    let at = format!("{tower}.blocks.{block}");
                    let (map, shift) = map_of(&with, &format!("{at}.{branch}"), groups, scale);
                    let device = candle_core::Device::Cpu;
                    let map = Tensor::new(map, &device).unwrap();
                    let shift = Tensor::new(shift, &device).unwrap().unsqueeze(1).unwrap();
                    for reader in readers {
                        let name = |what: &str| format!("{at}.{reader}.{what}");
                        let weight = weights[&name("weight")].clone();
                        let moved = weight.matmul(&shift).unwrap().squeeze(1).unwrap();
                        let bias = (&weights[&name("bias")] + moved).unwrap();
                        weights.insert(name("bias"), bias);
                        weights.insert(name("weight"), weight.matmul(&map).unwrap());
                    }
                }
            }
        }
        let bare = over(frozen(&with), &ENDS);
        let plain = over(weights, &ENDS);
        assert!(apart(&features(&with), &features(&bare)) > 1e-2);
        assert!(apart(&features(&with), &features(&plain)) < 1e-11);
    }
}

#[test]
fn it_starts_as_published() {
    let model = model(RepAdapter::default(), &ENDS).unwrap();
    let of = |name: &str| trained(&model, &format!("repadapter.text.blocks.1.mlp.{name}"));
    assert_eq!(of("up.weight").dims(), [8, 4]);
    for zeros in ["up.weight", "up.bias", "down.bias"] {
        let values = of(zeros).flatten_all().unwrap();
        assert!(vector(&values).iter().all(|x| *x == 0.0), "{zeros}");
    }
    let down = vector(&of("down.weight").flatten_all().unwrap());
    let largest = down.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    // ±√(6 / (8 + 8)), of 64 draws.
    assert!(largest > 0.5 && largest <= (6f64 / 16.0).sqrt());
    // In two towers of three blocks two branches: A, a, B, b.
    assert_eq!(model.overlay.count("repadapter"), 12 * (64 + 8 + 32 + 8));
}

#[test]
fn dropout_acts_in_training_alone() {
    let dropped = RepAdapter {
        dropout: 0.5,
        ..Default::default()
    };
    let model = model(dropped, &ENDS).unwrap();
    shake(&model);
    let run = |mut pass: Pass| {
        let streams = model.forward(&pairs(), &mut pass).unwrap();
        streams.into_iter().map(|s| s.data).collect::<Vec<_>>()
    };
    assert_eq!(apart(&run(Pass::train(1)), &run(Pass::train(1))), 0.0);
    assert!(apart(&run(Pass::train(1)), &run(Pass::train(2))) > 1e-3);
    assert!(apart(&run(Pass::train(1)), &run(Pass::predict())) > 1e-3);
}

#[test]
fn impossible_options_are_refused() {
    let error = |options: RepAdapter| refusal(options, &ENDS);
    assert_eq!(error(of(0, 1, 1.0)), "repadapter: dim must be above 0");
    for (dim, groups) in [(8, 3), (6, 3), (8, 0)] {
        assert_eq!(
            error(of(dim, groups, 1.0)),
            format!(
                "repadapter: groups = {groups} must divide dim = {dim} and 8, the width before vision.blocks.0.attention"
            )
        );
    }
    assert_eq!(
        error(of(8, 2, f64::INFINITY)),
        "repadapter: scale = inf must be a number other than 0"
    );
    let dropout = RepAdapter {
        dropout: 1.0,
        ..Default::default()
    };
    assert_eq!(error(dropout), "repadapter: dropout = 1 must lie in [0, 1)");
    let absent = RepAdapter {
        sites: Sites {
            branches: vec![Branch::Convolution],
            ..Default::default()
        },
        ..Default::default()
    };
    let absent = error(absent);
    assert!(absent.contains("branch convolution"), "{absent}");
}
