//! DETRIS whole, at small size: both towers, both adapters and the head give the numbers of a
//! reimplementation in PyTorch, features, logits and every gradient; and the recipes say what was
//! published.
//!
//! `golden.json` and `golden.safetensors` were written by `examples/baselines/detris.py`, which
//! draws every weight from its name here.

#[path = "../golden/mod.rs"]
mod golden;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use golden::{Gradient, noise, relative, weight};
use serde::Deserialize;
use twinspan as _;
use twinspan::sdk::base::Base;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Batch;
use twinspan::sdk::topology::Origin;
use twinspan::sdk::tuned::{Compute, Tuned};

/// Tensors are stored as f32.
const STORED: f64 = 1e-6;
/// Gradients are stored as they are; sums in another order differ by far less.
const REORDERED: f64 = 1e-9;

#[derive(Deserialize)]
struct Numbers {
    loss: f64,
    gradients: BTreeMap<String, Gradient>,
}

struct Golden {
    numbers: Numbers,
    tensors: BTreeMap<String, Tensor>,
}

impl Golden {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/detris");
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let file = folder.join("golden.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        Self {
            numbers: serde_json::from_str(&text).unwrap(),
            tensors: tensors.into_iter().collect(),
        }
    }

    fn batch(&self) -> Batch {
        let values: Vec<f64> = (0..2 * 3 * SIDE * SIDE)
            .map(|i| noise("image", i))
            .collect();
        let images = Tensor::from_vec(values, (2, 3, SIDE, SIDE), &Device::Cpu).unwrap();
        let tokens = self.tensors["input.tokens"].to_dtype(DType::U32).unwrap();
        let mask = self.tensors["input.mask"].to_dtype(DType::F64).unwrap();
        Batch::aligned(images, tokens, Some(mask)).unwrap()
    }
}

/// Side of the pictures.
const SIDE: usize = 16;
/// Rows of the stored table of positions: a grid of 6 x 6 and the class token.
const POSITIONS: usize = 37;

const RECIPE: &str = r#"
    [backbone]
    use = "dinov2-clip"
    input_size = 16
    positions = "offset"
    [backbone.model]
    embed_dim = 20
    vision = { layers = 6, width = 32, heads = 4, mlp = 64, patch = 4, image_size = 24, registers = 4 }
    text = { layers = 4, width = 24, heads = 2, mlp = 48, context = 12, vocabulary = 100 }

    [[adapter]]
    use = "dense-aligner"
    dim = 32
    attention_dim = 16
    heads = 4
    dropout = 0.0
    sites = { blocks = [1, 3, 5] }

    [[adapter]]
    use = "text-adapter"
    dim = 16
    sites = { blocks = [1, 3] }

    [task]
    use = "referring-segmentation"
    words = 9
    width = 16
    layers = 2
    heads = 4
    ffn = 24
    dropout = 0.0
    depths = [2, 4]
    residual = true
"#;

/// The weight drawn as `name`, an f32 value.
fn drawn(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(weight(name, shape), shape, &Device::Cpu).unwrap()
}

fn model() -> Tuned {
    let recipe = Recipe::parse(RECIPE, "test").unwrap();
    let topology = recipe.backbone.plugin.topology().unwrap();
    let mut base = BTreeMap::new();
    for info in topology.parameters() {
        let mut shape = info.shape.clone();
        match info.origin {
            Origin::Fresh(_) => continue,
            Origin::Resized { .. } => shape[0] = POSITIONS,
            Origin::Base => {}
        }
        base.insert(info.name.clone(), drawn(&info.name, &shape));
    }
    let compute = Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    };
    let tuned = Tuned::new(&recipe, Base::from_tensors(base), compute).unwrap();
    for (name, trained) in &tuned.overlay.trained {
        trained.var.set(&drawn(name, trained.var.dims())).unwrap();
    }
    for (name, buffer) in &tuned.overlay.buffers {
        buffer.set(&drawn(name, buffer.tensor().dims())).unwrap();
    }
    tuned
}

#[test]
fn features_and_logits_are_those_of_the_reimplementation() {
    let golden = Golden::open();
    let (tuned, pass) = (model(), &mut Pass::predict());
    let features = tuned.forward(&golden.batch(), pass).unwrap();
    let mut got: BTreeMap<String, Tensor> = BTreeMap::new();
    for (i, stream) in features.iter().take(3).enumerate() {
        got.insert(format!("eval.vision.{i}"), stream.grid().unwrap());
    }
    got.insert("eval.words".into(), features[3].data.clone());
    got.insert("eval.state".into(), features[4].data.clone());
    for (part, tensor) in tuned.head().trace(&features, pass).unwrap() {
        got.insert(format!("eval.{part}"), tensor);
    }
    let mut train = Pass::train(0);
    let logits = tuned.logits(&golden.batch(), &mut train).unwrap();
    got.insert("train.logits".into(), logits);
    let expected = golden
        .tensors
        .iter()
        .filter(|(k, _)| !k.starts_with("input."));
    let mut compared = 0;
    for (name, expected) in expected {
        let off = relative(&got[name], expected);
        println!("{name}: {off:.1e}");
        assert!(off < STORED, "{name}: {off:.1e}");
        compared += 1;
    }
    assert_eq!(compared, got.len());
}

#[test]
fn the_loss_and_every_gradient_are_those_of_the_reimplementation() {
    let golden = Golden::open();
    let tuned = model();
    let loss = tuned.loss(&golden.batch(), &mut Pass::train(0)).unwrap();
    let value = loss.to_scalar::<f64>().unwrap();
    assert!((value - golden.numbers.loss).abs() < REORDERED, "{value}");
    let gradients = loss.backward().unwrap();
    let expected = &golden.numbers.gradients;
    let ours: Vec<&String> = tuned.overlay.trained.keys().collect();
    assert_eq!(ours, expected.keys().collect::<Vec<_>>());
    for (name, trained) in &tuned.overlay.trained {
        let gradient = gradients.get(&trained.var).unwrap();
        let got: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let norm = got.iter().map(|g| g * g).sum::<f64>().sqrt();
        let along = |(i, g): (usize, &f64)| g * noise(&format!("probe.{name}"), i);
        let probe: f64 = got.iter().enumerate().map(along).sum();
        let Gradient { norm: n, probe: p } = expected[name];
        // A gradient of zero (a batch norm cancels a bias) has no norm to compare with.
        let scale = if n < 1e-12 { 1.0 } else { n };
        let off = (norm - n).abs().max((probe - p).abs()) / scale;
        assert!(off < REORDERED, "{name}: {off:.1e}");
    }
}

#[test]
fn recipes_have_the_published_sizes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/recipes");
    for (name, adapters) in [
        ("detris_b", 6 * (382_896 + 69_720)),
        ("detris_l", 3_110_448),
    ] {
        let recipe = Recipe::open(&folder.join(format!("{name}.toml"))).unwrap();
        let plan = plan(&recipe).unwrap();
        assert_eq!(plan.adapter_parameters, adapters, "{name}");
        // Pictures are prepared as for CLIP, however DINOv2 had them.
        let preparation = recipe.backbone.plugin.preparation();
        assert_eq!((preparation.size, preparation.mean[0]), (448, 0.481_454_66));
    }
}
