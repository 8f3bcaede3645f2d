//! The bridge: sizes as published, its equation, what it leaves alone, and its gradients.

mod toy;

use candle_core::{D, Tensor};
use toy::*;
use twinspan_adapters::bridger::{Bridger, fusion::Fusion, zoom::Zoom};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Hooks, StreamHook};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{At, EmbedStep, Moment, Tap, Tower};
use twinspan_sdk::stream::Stream;
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

/// The bridge's equation in plain tensor operations, for two heads at a first stage.
struct Plain<'a>(&'a Tuned);

impl Plain<'_> {
    fn of(&self, name: &str) -> Tensor {
        let trained = &self.0.overlay.trained[&format!("bridger.{name}")];
        trained.var.as_detached_tensor()
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let w = self.of(&format!("{name}.weight"));
        let y = x.broadcast_matmul(&w.t().unwrap()).unwrap();
        y.broadcast_add(&self.of(&format!("{name}.bias"))).unwrap()
    }

    /// A 1x1 convolution on pixels, with batch norm (its statistics at their start) and ReLU
    /// where there is one.
    fn zoom(&self, x: &Tensor, name: &str, transposed: bool) -> Tensor {
        let w = self
            .of(&format!("{name}.conv.weight"))
            .flatten_from(1)
            .unwrap();
        let w = if transposed { w } else { w.t().unwrap() };
        let y = x.broadcast_matmul(&w).unwrap();
        if !self
            .0
            .overlay
            .trained
            .contains_key(&format!("bridger.{name}.norm.weight"))
        {
            return y;
        }
        let w = (self.of(&format!("{name}.norm.weight")) / (1.0f64 + 1e-5).sqrt()).unwrap();
        let y = y.broadcast_mul(&w).unwrap();
        y.broadcast_add(&self.of(&format!("{name}.norm.bias")))
            .unwrap()
            .relu()
            .unwrap()
    }

    fn layer_norm(&self, x: Tensor, name: &str) -> Tensor {
        let x = x
            .broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap())
            .unwrap();
        let var = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let y = x
            .broadcast_div(&(var + 1e-5).unwrap().sqrt().unwrap())
            .unwrap();
        let y = y
            .broadcast_mul(&self.of(&format!("{name}.weight")))
            .unwrap();
        y.broadcast_add(&self.of(&format!("{name}.bias"))).unwrap()
    }

    fn attend(&self, x: &Tensor, other: &Tensor, name: &str) -> Tensor {
        let q = self.linear(x, &format!("{name}.query"));
        let k = self.linear(other, &format!("{name}.key"));
        let v = self.linear(other, &format!("{name}.value"));
        let heads = [0, 2].map(|start| {
            let head = |t: &Tensor| t.narrow(2, start, 2).unwrap().contiguous().unwrap();
            let scores = head(&q)
                .matmul(&head(&k).t().unwrap().contiguous().unwrap())
                .unwrap();
            let e = (scores / 2f64.sqrt()).unwrap().exp().unwrap();
            let p = e.broadcast_div(&e.sum_keepdim(D::Minus1).unwrap()).unwrap();
            p.matmul(&head(&v)).unwrap()
        });
        self.linear(&Tensor::cat(&heads, 2).unwrap(), &format!("{name}.output"))
    }

    fn fusion(&self, x: &Tensor, other: &Tensor, name: &str) -> Tensor {
        let part = |what: &str| format!("{name}.{what}");
        if !self
            .0
            .overlay
            .trained
            .contains_key(&format!("bridger.{name}.ffn_in.weight"))
        {
            return (x * self.attend(x, other, &part("cross"))).unwrap();
        }
        let y = self.attend(x, x, &part("self"));
        let x = self.layer_norm((x + y).unwrap(), &part("self_norm"));
        let y = self.attend(&x, other, &part("cross"));
        let x = self.layer_norm((x + y).unwrap(), &part("cross_norm"));
        let y = self.linear(&x, &part("ffn_in")).relu().unwrap();
        let y = self.linear(&y, &part("ffn_out"));
        self.layer_norm((x + y).unwrap(), &part("ffn_norm"))
    }

    /// What is added to `pixels` and `words`.
    fn added(&self, pixels: &Tensor, words: &Tensor) -> (Tensor, Tensor) {
        let v = self.zoom(pixels, "zoom_in.0", false);
        let t = self.linear(words, "linear_in.0");
        let seen_v = self.fusion(&v, &t, "fusion_vision.0");
        let seen_t = self.fusion(&t, &v, "fusion_text.0");
        (
            self.zoom(&seen_v, "zoom_out.0", true),
            self.linear(&seen_t, "linear_out.0"),
        )
    }
}

#[test]
fn a_stage_adds_its_equation_and_leaves_the_class_token() {
    for stream in [token_stream(6, GRID), map_stream(6, GRID)] {
        let topology = topology(&[stream; 3], 5);
        let first = Bridger {
            stages: vec![1],
            ..small(4)
        };
        let model = model(&topology, first, taps(0)).unwrap();
        shake(&model, |_| true);
        let batch = batch(GRID);
        let before = features(&bare(&topology, taps(0)), &batch, &mut Pass::predict());
        let after = features(&model, &batch, &mut Pass::predict());
        let pixels = |x: &Tensor| match stream.map {
            true => x
                .flatten_from(2)
                .unwrap()
                .transpose(1, 2)
                .unwrap()
                .contiguous()
                .unwrap(),
            false => x.narrow(1, 1, 6).unwrap().contiguous().unwrap(),
        };
        let (added_v, added_t) = Plain(&model).added(&pixels(&before[0]), &before[1]);
        assert!(largest(&added_v) > 1e-3 && largest(&added_t) > 1e-3);
        let moved = (&after[0] - &before[0]).unwrap();
        assert!(largest_difference(&pixels(&moved), &added_v) < 1e-12);
        assert!(largest_difference(&(&after[1] - &before[1]).unwrap(), &added_t) < 1e-12);
        if !stream.map {
            assert_eq!(largest(&moved.narrow(1, 0, 1).unwrap()), 0.0);
        }
    }
}

#[test]
fn starts_are_the_released_ones() {
    let topology = topology(&[token_stream(40, GRID); 3], 30);
    let model = model(
        &topology,
        Bridger {
            heads: 4,
            ..with(32)
        },
        ends(),
    )
    .unwrap();
    let value = |name: &str| {
        let trained = &model.overlay.trained[&format!("bridger.{name}")];
        trained.var.as_detached_tensor().flatten_all().unwrap()
    };
    let spread = |name: &str| {
        let square = value(name).sqr().unwrap().mean_all().unwrap();
        square.to_scalar::<f64>().unwrap().sqrt()
    };
    let near = |name: &str, std: f64| {
        assert!(
            (spread(name) / std - 1.0).abs() < 0.1,
            "{name}: {}",
            spread(name)
        );
    };
    near("zoom_in.0.conv.weight", (2.0 / 32f64).sqrt());
    near("zoom_out.0.conv.weight", (2.0 / 32f64).sqrt());
    near("zoom_in.2.conv.weight", (2.0 / 40f64).sqrt());
    near("zoom_out.2.conv.weight", (2.0 / 40f64).sqrt());
    near("linear_in.1.weight", 0.02);
    near("linear_out.1.weight", 0.02);
    near("fusion_text.1.cross.output.weight", 0.02);
    // Uniform in ±√(6/(d + 3d)): torch draws query, key and value as one matrix.
    let bound = (6.0 / 128f64).sqrt();
    near("fusion_text.1.cross.query.weight", bound / 3f64.sqrt());
    assert!(largest(&value("fusion_text.1.cross.key.weight")) <= bound);
    for name in [
        "linear_in.1.bias",
        "fusion_text.1.cross.value.bias",
        "zoom_in.1.norm.bias",
    ] {
        assert_eq!(largest(&value(name)), 0.0, "{name}");
    }
}

#[test]
fn prompts_are_neither_read_nor_changed() {
    let topology = topology(&[token_stream(6, GRID); 2], 5);
    let run = |adapters| {
        let model = tuned(
            &recipe(Toy::new(topology.clone()), adapters, taps(0)),
            base(&topology),
        );
        features(&model.unwrap(), &batch(GRID), &mut Pass::predict()).remove(1)
    };
    let first = Bridger {
        stages: vec![1],
        ..small(4)
    };
    let both = |first: Bridger| {
        let mut adapters = adapter(Context {});
        adapters.extend(adapter(first));
        adapters
    };
    let without = run(adapter(first.clone()));
    let with = run(both(first));
    let prompted = run(adapter(Context {}));
    let part = |x: &Tensor, start, len| x.narrow(1, start, len).unwrap();
    assert_eq!(
        largest_difference(&part(&with, 1, 2), &part(&prompted, 1, 2)),
        0.0
    );
    assert!(largest_difference(&part(&with, 0, 1), &part(&without, 0, 1)) < 1e-12);
    assert!(largest_difference(&part(&with, 3, 4), &part(&without, 1, 4)) < 1e-12);
}

/// Two tokens put in behind the first word.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Context {}

impl Plugin for Context {
    const NAME: &'static str = "context";
    const ABOUT: &'static str = "";
    const OPTIONS: &'static [Opt] = &[];
}

impl Adapter for Context {
    fn wants(&self) -> Vec<Want> {
        vec![Want::Streams {
            tower: Tower::Text,
            moments: vec![Moment::Embed(EmbedStep::Positions)],
        }]
    }

    fn install(&self, slots: &[Slot], _: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots.iter().filter_map(Slot::stream) {
            hooks.stream(slot, Context {});
        }
        Ok(Box::new(Idle))
    }
}

impl StreamHook for Context {
    fn forward(&self, stream: Stream, _: &mut Pass) -> Result<Stream> {
        Ok(stream.insert(1, &random("context", &[1, 2, 5], 1.0), "context")?)
    }
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
