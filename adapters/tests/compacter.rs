//! Compacter against its sum, element by element; what is shared, how it starts, its refusals.

mod by_hand;

use by_hand::*;
use candle_core::{Device, Tensor};
use twinspan_adapters::bottleneck::Activation;
use twinspan_adapters::compacter::{Compacter, Placement};
use twinspan_sdk::site::{Projection, Sites};

#[test]
fn it_keeps_the_laws_in_both_placements() {
    for placement in [Placement::Houlsby, Placement::Pfeiffer] {
        let compacter = Compacter {
            placement,
            ..Default::default()
        };
        assert_eq!(laws(compacter), ["identity at the start", "merged"]);
    }
    let behind = Compacter {
        n: 2,
        rank: 2,
        sites: Sites {
            projections: vec![Projection::Patch, Projection::Down],
            ..Default::default()
        },
        ..Default::default()
    };
    assert_eq!(laws(behind), ["identity at the start", "merged"]);
}

/// Element (a·p + x, b·q + y) is the sum over i of A[i, a, b] s[i, x]·t[i, y].
fn sum(values: &Values, name: &str) -> Tensor {
    let a = &values["compacter.a"];
    let (s, t) = (&values[&format!("{name}.s")], &values[&format!("{name}.t")]);
    let n = a.dim(0).unwrap();
    let (p, q, r) = (s.dim(1).unwrap(), t.dim(1).unwrap(), s.dim(2).unwrap());
    let (a, s, t) = (flat(a), flat(s), flat(t));
    let mut weight = Vec::new();
    for row in 0..n * p {
        for column in 0..n * q {
            let mut element = 0.0;
            for i in 0..n {
                let own: f64 = (0..r)
                    .map(|k| s[(i * p + row % p) * r + k] * t[(i * q + column % q) * r + k])
                    .sum();
                element += a[(i * n + row / p) * n + column / q] * own;
            }
            weight.push(element);
        }
    }
    Tensor::from_vec(weight, (n * p, n * q), &Device::Cpu).unwrap()
}

#[test]
fn weights_are_sums_of_kronecker_products() {
    let compacter = Compacter {
        n: 2,
        rank: 3,
        reduction: 2,
        activation: Activation::Relu,
        ..Default::default()
    };
    is_as_by_hand(compacter, |values, slot, _, y| {
        let layer = |part: &str, x: &Tensor| {
            let name = format!("compacter.{slot}.{part}");
            affine(&sum(values, &name), &values[&format!("{name}.bias")], x)
        };
        (y + layer("up", &layer("down", y).relu().unwrap())).unwrap()
    });
}

#[test]
fn a_is_one_parameter_and_the_rest_is_every_weight_s_own() {
    let model = model(Compacter::default()).unwrap();
    let dims = |name: &str| {
        model.overlay.trained[&format!("compacter.{name}")]
            .var
            .dims()
    };
    assert_eq!(dims("a"), [4, 4, 4]);
    // Width 8 over 32, rounded up to a multiple of 4.
    assert_eq!(dims("text.blocks.0.attention.down.s"), [4, 1, 1]);
    assert_eq!(dims("text.blocks.0.attention.down.t"), [4, 2, 1]);
    assert_eq!(dims("vision.blocks.2.mlp.up.s"), [4, 2, 1]);
    assert_eq!(dims("vision.blocks.2.mlp.up.t"), [4, 1, 1]);
    // A, and at each of 12 branches s and t of both weights and the biases.
    assert_eq!(
        model.overlay.count("compacter"),
        64 + 12 * (2 * (8 + 4) + 8 + 4)
    );
}

#[test]
fn it_starts_near_the_identity() {
    let model = model(Compacter::default()).unwrap();
    let value = |name: &str| {
        let trained = &model.overlay.trained[&format!("compacter.{name}")];
        largest(&trained.var.as_detached_tensor())
    };
    assert!(value("a") > 1e-5 && value("a") < 1e-3);
    let s = value("text.blocks.0.mlp.up.s");
    assert!(s > 0.1 && s <= (6.0f64 / 3.0).sqrt());
    assert_eq!(value("text.blocks.0.mlp.up.bias"), 0.0);
}

#[test]
fn impossible_options_are_refused() {
    let start = Compacter::default;
    for (name, wrong) in [
        ("n", Compacter { n: 0, ..start() }),
        ("rank", Compacter { rank: 0, ..start() }),
        (
            "reduction",
            Compacter {
                reduction: 0,
                ..start()
            },
        ),
    ] {
        assert_eq!(refusal(wrong), format!("compacter: {name} must be above 0"));
    }
    assert_eq!(
        refusal(Compacter { n: 3, ..start() }),
        "compacter: n = 3 does not divide 8, the width of vision.blocks.0.attention"
    );
    assert_eq!(
        refusal(Compacter {
            dropout: 1.5,
            ..start()
        }),
        "compacter: dropout = 1.5 must lie in [0, 1)"
    );
}
