//! The bridge: sizes as published, its equation, what it leaves alone, and its gradients.

mod toy;

use candle_core::{D, Tensor};
use toy::*;
use twinspan_adapters::bridger::{Bridger, fusion::Fusion, zoom::Zoom};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::topology::{StreamInfo, Topology};
use twinspan_sdk::tuned::Tuned;
use twinspan_sdk::{Error, Result};

const GRID: (usize, usize) = (2, 3);

fn transformers() -> Topology {
    topology(&[token_stream(768, (26, 26)); 3], 512)
}

fn convolutions() -> Topology {
    let maps = [(512, 52), (1024, 26), (2048, 13)];
    topology(&maps.map(|(c, n)| map_stream(c, (n, n))), 512)
}

fn small(dim: usize) -> Bridger {
    Bridger {
        dim,
        heads: 2,
        dropout: 0.0,
        ..Default::default()
    }
}

fn count(topology: Topology, bridger: Bridger) -> Result<usize> {
    Ok(plan(&recipe(Toy::new(topology), adapter(bridger), ends()))?.adapter_parameters)
}

fn with(dim: usize) -> Bridger {
    Bridger {
        dim,
        ..Default::default()
    }
}

fn model(topology: &Topology, bridger: Bridger, reads: Vec<Tap>) -> Result<Tuned> {
    let recipe = recipe(Toy::new(topology.clone()), adapter(bridger), reads);
    tuned(&recipe, base(topology))
}

fn bare(topology: &Topology, reads: Vec<Tap>) -> Tuned {
    tuned(
        &recipe(Toy::new(topology.clone()), vec![], reads),
        base(topology),
    )
    .unwrap()
}

fn taps(block: usize) -> Vec<Tap> {
    vec![Tap::vision(At::Block(block)), Tap::text(At::Block(block))]
}

#[test]
fn sizes_are_the_published_ones() {
    assert_eq!(count(transformers(), with(64)).unwrap(), 598_592);
    assert_eq!(count(transformers(), with(128)).unwrap(), 1_387_648);
    assert_eq!(count(convolutions(), with(64)).unwrap(), 1_942_080);
    assert_eq!(count(convolutions(), with(56)).unwrap(), 1_678_104);
}

#[test]
fn weights_have_the_released_shapes() {
    let maps = [
        map_stream(8, (8, 12)),
        map_stream(6, (4, 6)),
        map_stream(10, (2, 3)),
    ];
    let model = model(&topology(&maps, 5), small(4), ends()).unwrap();
    let shape = |name: &str| model.overlay.trained[name].var.dims().to_vec();
    assert_eq!(shape("bridger.zoom_in.0.conv.weight"), [4, 8, 2, 2]);
    assert_eq!(shape("bridger.zoom_out.0.conv.weight"), [4, 8, 2, 2]);
    assert_eq!(shape("bridger.zoom_in.1.conv.weight"), [4, 6, 1, 1]);
    assert_eq!(shape("bridger.zoom_out.1.conv.weight"), [4, 6, 1, 1]);
    assert_eq!(shape("bridger.zoom_in.2.conv.weight"), [10, 4, 2, 2]);
    assert_eq!(shape("bridger.zoom_out.2.conv.weight"), [10, 4, 2, 2]);
    assert_eq!(shape("bridger.fusion_vision.1.self.query.weight"), [4, 4]);
    assert_eq!(shape("bridger.fusion_text.1.ffn_in.weight"), [128, 4]);
    assert!(
        !model
            .overlay
            .trained
            .contains_key("bridger.norm_text.0.weight")
    );
    assert!(model.overlay.buffers.is_empty());

    let topology = topology(&[token_stream(6, GRID); 3], 5);
    let model = self::model(&topology, small(4), ends()).unwrap();
    let shape = |name: &str| model.overlay.trained[name].var.dims().to_vec();
    assert_eq!(shape("bridger.zoom_in.1.conv.weight"), [4, 6, 1, 1]);
    assert_eq!(shape("bridger.zoom_out.1.conv.weight"), [4, 6, 1, 1]);
    assert_eq!(shape("bridger.zoom_in.2.conv.weight"), [6, 4, 1, 1]);
    assert_eq!(shape("bridger.zoom_out.2.conv.weight"), [6, 4, 1, 1]);
    assert_eq!(
        model.overlay.buffers["bridger.zoom_out.2.norm.running_var"]
            .tensor()
            .dims(),
        [6]
    );
}

/// What the first bridge of a gated model adds, from its equation.
fn gated(model: &Tuned, map: &Tensor, words: &Tensor) -> (Tensor, Tensor) {
    let of = |name: &str| {
        let trained = &model.overlay.trained[&format!("bridger.{name}")];
        trained.var.as_detached_tensor()
    };
    let linear = |x: &Tensor, name: &str| {
        let w = of(&format!("{name}.weight"));
        let y = x.broadcast_matmul(&w.t().unwrap()).unwrap();
        y.broadcast_add(&of(&format!("{name}.bias"))).unwrap()
    };
    let normed = |x: Tensor, name: &str| {
        // Running statistics at their start: mean 0, variance 1.
        let w = (of(&format!("{name}.norm.weight")) / (1.0f64 + 1e-5).sqrt()).unwrap();
        let y = x.broadcast_mul(&w).unwrap();
        let y = y.broadcast_add(&of(&format!("{name}.norm.bias"))).unwrap();
        y.relu().unwrap()
    };
    let gate = |x: &Tensor, other: &Tensor, name: &str| {
        let project = |x: &Tensor, what: &str| linear(x, &format!("{name}.cross.{what}"));
        let (q, k, v) = (
            project(x, "query"),
            project(other, "key"),
            project(other, "value"),
        );
        let heads: Vec<Tensor> = [0, 2]
            .iter()
            .map(|start| {
                let head = |t: &Tensor| t.narrow(2, *start, 2).unwrap().contiguous().unwrap();
                let scores = head(&q).matmul(&head(&k).t().unwrap().contiguous().unwrap());
                let e = (scores.unwrap() / 2f64.sqrt()).unwrap().exp().unwrap();
                let p = e.broadcast_div(&e.sum_keepdim(D::Minus1).unwrap()).unwrap();
                p.matmul(&head(&v)).unwrap()
            })
            .collect();
        let y = linear(
            &Tensor::cat(&heads, 2).unwrap(),
            &format!("{name}.cross.output"),
        );
        (x * y).unwrap()
    };
    let pixels = map
        .flatten_from(2)
        .unwrap()
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap();
    let zoom_in = of("zoom_in.0.conv.weight").flatten_from(1).unwrap();
    let v = pixels.broadcast_matmul(&zoom_in.t().unwrap()).unwrap();
    let v = normed(v, "zoom_in.0");
    let t = linear(words, "linear_in.0");
    let zoom_out = of("zoom_out.0.conv.weight").flatten_from(1).unwrap();
    let seen = gate(&v, &t, "fusion_vision.0")
        .broadcast_matmul(&zoom_out)
        .unwrap();
    let added_v = normed(seen, "zoom_out.0");
    let added_t = linear(&gate(&t, &v, "fusion_text.0"), "linear_out.0");
    (added_v, added_t)
}

#[test]
fn a_stage_adds_its_equation_and_leaves_the_class_token() {
    let topology = topology(&[token_stream(6, GRID); 3], 5);
    let first = Bridger {
        stages: vec![1],
        ..small(4)
    };
    let model = model(&topology, first, taps(0)).unwrap();
    shake(&model, |_| true);
    let batch = batch(GRID);
    let before = features(&bare(&topology, taps(0)), &batch, &mut Pass::predict());
    let after = features(&model, &batch, &mut Pass::predict());
    let patches = before[0].narrow(1, 1, 6).unwrap().transpose(1, 2).unwrap();
    let map = patches.reshape((2, 6, GRID.0, GRID.1)).unwrap();
    let (added_v, added_t) = gated(&model, &map, &before[1]);
    assert!(largest(&added_v) > 1e-3 && largest(&added_t) > 1e-3);
    let moved = (&after[0] - &before[0]).unwrap();
    assert_eq!(largest(&moved.narrow(1, 0, 1).unwrap()), 0.0);
    assert!(largest_difference(&moved.narrow(1, 1, 6).unwrap(), &added_v) < 1e-12);
    assert!(largest_difference(&(&after[1] - &before[1]).unwrap(), &added_t) < 1e-12);
}

#[test]
fn the_second_stage_sees_the_first() {
    let topology = topology(&[token_stream(6, GRID); 2], 5);
    let model = model(&topology, small(4), taps(1)).unwrap();
    shake(&model, |name| name.contains("norm_"));
    // Nothing of the first stage enters the streams: what is left goes from stage to stage.
    for name in ["zoom_out.0.norm.weight", "linear_out.0.weight"] {
        let var = &model.overlay.trained[&format!("bridger.{name}")].var;
        var.set(&var.zeros_like().unwrap()).unwrap();
    }
    let batch = batch(GRID);
    let once = features(&model, &batch, &mut Pass::predict());
    shake(&model, |name| name.contains("linear_in.0"));
    let again = features(&model, &batch, &mut Pass::predict());
    assert!(largest_difference(&once[1], &again[1]) > 1e-6);
    assert!(largest_difference(&once[0], &again[0]) > 1e-6);
}

#[test]
fn shapes_are_kept_on_any_grid_and_stage() {
    let resized = [
        map_stream(8, (5, 7)),
        map_stream(6, (3, 4)),
        map_stream(10, (3, 4)),
    ];
    let strided = [map_stream(8, (4, 6)), map_stream(6, (2, 3))];
    let equal = [token_stream(6, GRID); 2];
    let check = |streams: &[StreamInfo], bridger: Bridger| {
        let topology = topology(streams, 5);
        let grid = streams[0].grid.unwrap();
        let model = model(&topology, bridger, ends()).unwrap();
        let bare = features(&bare(&topology, ends()), &batch(grid), &mut Pass::predict());
        let with = features(&model, &batch(grid), &mut Pass::predict());
        for (with, bare) in with.iter().zip(&bare) {
            assert_eq!(with.dims(), bare.dims());
        }
    };
    for zoom in [Zoom::Linear, Zoom::ConvInterpolate, Zoom::Mlp] {
        for streams in [&resized[..], &strided, &equal] {
            check(streams, Bridger { zoom, ..small(4) });
        }
    }
    for fusion in [Fusion::Auto, Fusion::Gate, Fusion::Transformer] {
        for stages in [vec![], vec![2]] {
            for streams in [&strided[..], &equal] {
                let stages = stages.clone();
                check(
                    streams,
                    Bridger {
                        fusion,
                        stages,
                        ..small(4)
                    },
                );
            }
        }
    }
}

#[test]
fn a_stage_left_out_has_no_parameters() {
    let two = Bridger {
        stages: vec![1, 3],
        ..with(64)
    };
    let per_stage = 199_360;
    assert_eq!(
        count(transformers(), two).unwrap(),
        2 * per_stage + 2 * 2 * 64
    );
}

#[test]
fn gradients_are_right_on_tokens_and_on_maps() {
    let tokens = topology(&[token_stream(4, GRID); 2], 3);
    let maps = topology(&[map_stream(4, (4, 6)), map_stream(3, GRID)], 3);
    for (topology, grid) in [(tokens, GRID), (maps, (4, 6))] {
        let model = model(&topology, small(4), ends()).unwrap();
        shake(&model, |_| true);
        check_gradients(&model, &batch(grid), || Pass::train(1));
    }
}

#[test]
fn dropout_is_the_transformer_fusions_alone() {
    let tokens = topology(&[token_stream(4, GRID); 2], 3);
    let drops = |fusion| {
        let bridger = Bridger {
            fusion,
            dropout: 0.5,
            ..small(4)
        };
        let model = model(&tokens, bridger, ends()).unwrap();
        shake(&model, |_| true);
        let run = |seed| features(&model, &batch(GRID), &mut Pass::train(seed)).remove(0);
        largest_difference(&run(1), &run(2)) > 0.0
    };
    assert!(!drops(Fusion::Gate));
    assert!(drops(Fusion::Transformer));
}

#[test]
fn what_does_not_fit_is_refused_with_the_choices() {
    let refused = |error: Error| {
        assert!(error.is_wrong_use());
        error.to_string()
    };
    let odd = [map_stream(8, (5, 7)), map_stream(6, (3, 4))];
    let grids = refused(count(topology(&odd, 5), small(4)).unwrap_err());
    assert!(
        grids.contains("5x7") && grids.contains("conv-interpolate"),
        "{grids}"
    );
    let heads = refused(count(transformers(), with(12)).unwrap_err());
    assert_eq!(
        heads,
        "bridger: 8 heads do not divide dim = 12; heads may be 1, 2, 3, 4, 6, 12"
    );
    let stages = Bridger {
        stages: vec![4],
        ..with(64)
    };
    let stages = refused(count(transformers(), stages).unwrap_err());
    assert!(stages.contains("stages 1 to 3"), "{stages}");
    let dropout = Bridger {
        dropout: 1.0,
        ..with(64)
    };
    let dropout = refused(count(transformers(), dropout).unwrap_err());
    assert_eq!(dropout, "bridger: dropout = 1 must lie in [0, 1)");
    let flat = StreamInfo {
        grid: None,
        ..token_stream(6, GRID)
    };
    let flat = refused(count(topology(&[flat; 2], 5), small(4)).unwrap_err());
    assert!(flat.contains("does not lie on a grid"), "{flat}");
}
