//! LoRA against its equation, on a linear layer, a strided convolution and an embedding.

mod toy;

use std::collections::BTreeMap;

use candle_core::Tensor;
use toy::*;
use twinspan_adapters::lora::Lora;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::topology::{Shape, Topology};

const GRID: (usize, usize) = (6, 5);

/// Linear layers and an embedding in the text tower, convolutions of stride 1 and 2 in the other.
fn mixed() -> Topology {
    topology(&[map_stream(4, GRID), map_stream(6, (3, 3))], 5)
}

fn everywhere() -> Lora {
    Lora {
        rank: 2,
        alpha: 3.0,
        sites: Sites {
            projections: vec![
                Projection::Patch,
                Projection::Token,
                Projection::Query,
                Projection::Conv1,
            ],
            ..Default::default()
        },
        ..Default::default()
    }
}

/// W + s·B·A of every projection, by plain sums.
fn updated(
    topology: &Topology,
    trained: impl Fn(&str) -> Tensor,
    scale: f64,
) -> BTreeMap<String, Tensor> {
    let mut base = base(topology);
    for p in topology.projections() {
        let a = trained(&format!("lora.{}.a", p.name));
        let b = trained(&format!("lora.{}.b", p.name));
        let product = b
            .flatten_from(1)
            .unwrap()
            .matmul(&a.flatten_from(1).unwrap())
            .unwrap();
        let weight = base.get_mut(&format!("{}.weight", p.name)).unwrap();
        let delta = match p.shape {
            Shape::Embedding => product.t().unwrap(),
            _ => product.reshape(weight.dims()).unwrap(),
        };
        *weight = (weight.clone() + (delta * scale).unwrap()).unwrap();
    }
    base
}

#[test]
fn forward_is_that_of_the_updated_weights() {
    for (lora, scale) in [
        (everywhere(), 1.5),
        (
            Lora {
                rslora: true,
                ..everywhere()
            },
            3.0 / 2f64.sqrt(),
        ),
    ] {
        let topology = mixed();
        let toy = Toy::new(topology.clone());
        let with = tuned(&recipe(toy.clone(), adapter(lora), ends()), base(&topology)).unwrap();
        shake(&with, |_| true);
        let trained = |name: &str| with.overlay.trained[name].var.as_detached_tensor();
        let plain = updated(&topology, trained, scale);
        let plain = tuned(&recipe(toy, vec![], ends()), plain).unwrap();
        let batch = batch(GRID);
        let got = features(&with, &batch, &mut Pass::predict());
        let expected = features(&plain, &batch, &mut Pass::predict());
        for (got, expected) in got.iter().zip(&expected) {
            assert!(largest_difference(got, expected) < 1e-12);
        }
    }
}

#[test]
fn folded_and_unfolded_agree() {
    let topology = mixed();
    let build = |folded| {
        let toy = Toy {
            topology: topology.clone(),
            folded,
        };
        let model = tuned(&recipe(toy, adapter(everywhere()), ends()), base(&topology)).unwrap();
        shake(&model, |_| true);
        features(&model, &batch(GRID), &mut Pass::predict())
    };
    for (folded, unfolded) in build(true).iter().zip(&build(false)) {
        assert!(largest_difference(folded, unfolded) < 1e-12);
    }
}

#[test]
fn it_starts_as_the_identity() {
    let topology = mixed();
    let toy = Toy::new(topology.clone());
    let with = tuned(
        &recipe(toy.clone(), adapter(everywhere()), ends()),
        base(&topology),
    )
    .unwrap();
    let without = tuned(&recipe(toy, vec![], ends()), base(&topology)).unwrap();
    let batch = batch(GRID);
    let with = features(&with, &batch, &mut Pass::predict());
    let without = features(&without, &batch, &mut Pass::predict());
    for (with, without) in with.iter().zip(&without) {
        assert_eq!(largest_difference(with, without), 0.0);
    }
}

#[test]
fn starts_are_those_of_the_table() {
    let topology = mixed();
    let recipe = recipe(Toy::new(topology.clone()), adapter(everywhere()), ends());
    let model = tuned(&recipe, base(&topology)).unwrap();
    let value = |name: &str| model.overlay.trained[name].var.as_detached_tensor();
    let linear = largest(&value("lora.text.blocks.0.query.a"));
    assert!(linear > 0.0 && linear <= (1.0 / 5f64).sqrt());
    let conv = largest(&value("lora.vision.blocks.1.conv1.a"));
    assert!(conv > 0.0 && conv <= (1.0 / 36f64).sqrt());
    assert_eq!(value("lora.vision.blocks.1.conv1.a").dims(), [2, 4, 3, 3]);
    assert_eq!(value("lora.vision.blocks.1.conv1.b").dims(), [6, 2, 1, 1]);
    assert_eq!(largest(&value("lora.vision.blocks.1.conv1.b")), 0.0);
    assert_eq!(value("lora.text.embed.token.a").dims(), [2, VOCABULARY]);
    assert_eq!(largest(&value("lora.text.embed.token.a")), 0.0);
    assert!(largest(&value("lora.text.embed.token.b")) > 0.0);
}

#[test]
fn gradients_reach_a_and_b_alone() {
    let topology = mixed();
    let recipe = recipe(Toy::new(topology.clone()), adapter(everywhere()), ends());
    let model = tuned(&recipe, base(&topology)).unwrap();
    shake(&model, |_| true);
    check_gradients(&model, &batch(GRID), || Pass::train(1));
}

#[test]
fn dropout_acts_in_training_alone() {
    let topology = mixed();
    let lora = Lora {
        dropout: 0.5,
        ..everywhere()
    };
    let recipe = recipe(Toy::new(topology.clone()), adapter(lora), ends());
    let model = tuned(&recipe, base(&topology)).unwrap();
    shake(&model, |_| true);
    let batch = batch(GRID);
    let run = |mut pass: Pass| features(&model, &batch, &mut pass).remove(0);
    let (once, again, other) = (
        run(Pass::train(1)),
        run(Pass::train(1)),
        run(Pass::train(2)),
    );
    assert_eq!(largest_difference(&once, &again), 0.0);
    assert!(largest_difference(&once, &other) > 1e-3);
    assert!(largest_difference(&once, &run(Pass::predict())) > 1e-3);
}

#[test]
fn b_learns_faster_by_the_ratio() {
    let topology = mixed();
    let lora = Lora {
        rate_ratio: 16.0,
        ..Default::default()
    };
    let model = tuned(
        &recipe(Toy::new(topology.clone()), adapter(lora), ends()),
        base(&topology),
    );
    for (name, trained) in &model.unwrap().overlay.trained {
        assert_eq!(
            trained.rate,
            if name.ends_with(".b") { 16.0 } else { 1.0 },
            "{name}"
        );
    }
}

#[test]
fn impossible_options_are_refused() {
    let topology = mixed();
    let error = |lora: Lora| {
        let recipe = recipe(Toy::new(topology.clone()), adapter(lora), ends());
        let error = tuned(&recipe, base(&topology)).err().unwrap();
        assert!(error.is_wrong_use());
        error.to_string()
    };
    let start = Lora::default;
    assert_eq!(
        error(Lora { rank: 0, ..start() }),
        "lora: rank must be above 0"
    );
    let rates = error(Lora {
        rate_ratio: 0.0,
        ..start()
    });
    assert_eq!(rates, "lora: rate_ratio = 0 must be above 0");
    let dropout = error(Lora {
        dropout: 1.0,
        ..start()
    });
    assert_eq!(dropout, "lora: dropout = 1 must lie in [0, 1)");
}
