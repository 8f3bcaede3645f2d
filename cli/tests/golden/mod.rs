//! The golden ETRIS models: weights drawn from names, inputs, expected numbers.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use twinspan::etris::{Etris, Untold};
use twinspan::sdk::checkpoint::Checkpoint;
use twinspan::sdk::frozen::Frozen;
use twinspan::sdk::ops::{self, Interpolation};
use twinspan::sdk::random;
use twinspan::sdk::task::Batch;

/// Element `i` of the noise called `name`, in [-1, 1).
pub fn noise(name: &str, i: usize) -> f64 {
    let z = random::mix(random::hash(name), i as u64);
    (z >> 40) as f64 / (1u64 << 24) as f64 * 2.0 - 1.0
}

/// The weight drawn as `name`, rounded to f32.
pub fn weight(name: &str, shape: &[usize]) -> Vec<f64> {
    let part = name.rsplit('.').next().unwrap_or(name);
    let fan: usize = shape.iter().skip(1).product();
    let value = |v: f64| match part {
        "running_var" => 1.0 + 0.5 * v,
        "running_mean" => 0.1 * v,
        "logit_scale" => (1.0f64 / 0.07).ln(),
        "bias" | "class_embedding" => 0.1 * v,
        _ if part.ends_with("_bias") => 0.1 * v,
        _ if shape.len() <= 1 => 1.0 + 0.1 * v,
        _ => v * (3.0 / fan as f64).sqrt(),
    };
    let n = shape.iter().product();
    (0..n)
        .map(|i| f64::from(value(noise(name, i)) as f32))
        .collect()
}

#[derive(Deserialize)]
pub struct Gradient {
    pub norm: f64,
    pub probe: f64,
}

#[derive(Deserialize)]
struct Numbers {
    config: BTreeMap<String, serde_json::Value>,
    losses: Vec<f64>,
    gradients: BTreeMap<String, Gradient>,
    parameters: BTreeMap<String, Vec<usize>>,
}

/// One golden model.
pub struct Golden {
    pub losses: Vec<f64>,
    pub gradients: BTreeMap<String, Gradient>,
    pub tensors: BTreeMap<String, Tensor>,
    pub weights: BTreeMap<String, Tensor>,
}

impl Golden {
    /// `etris_vit` or `etris_rn`.
    pub fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let numbers: Numbers = serde_json::from_str(&text).unwrap();
        let file = folder.join(format!("{name}.safetensors"));
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let side = |key: &str| numbers.config[key].as_u64().map(|n| n as usize);
        let native = side("vision_patch_size").map(|p| side("image_resolution").unwrap() / p);
        let weights = numbers
            .parameters
            .iter()
            .map(|(name, shape)| (name.clone(), drawn(name, shape, native)))
            .collect();
        Self {
            losses: numbers.losses,
            gradients: numbers.gradients,
            tensors: tensors.into_iter().collect(),
            weights,
        }
    }

    /// The state dict, as a checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        let tensors = self.weights.iter();
        let frozen = tensors
            .map(|(n, t)| (n.clone(), Frozen::dense(t)))
            .collect();
        Checkpoint::from_frozen(PathBuf::from("golden"), frozen)
    }

    /// What the shapes do not tell.
    pub fn untold(&self) -> Untold {
        Untold {
            bridge_heads: Some(4),
            input_size: Some(96),
            words: 17,
        }
    }

    /// The model, read.
    pub fn read(&self) -> Etris {
        Etris::read(&self.checkpoint(), &self.untold()).unwrap()
    }

    /// The batch that every number was computed on.
    pub fn batch(&self, dtype: DType) -> Batch {
        let input = |name: &str| self.tensors[name].to_dtype(dtype).unwrap();
        let tokens = self.tensors["input.tokens"].to_dtype(DType::U32).unwrap();
        Batch::aligned(input("input.image"), tokens, Some(input("input.mask"))).unwrap()
    }
}

/// Names and shapes are the released model's after loading; CLIP's own weights are drawn under
/// CLIP's names, and a ViT's positions before they are resized.
fn drawn(name: &str, shape: &[usize], native: Option<usize>) -> Tensor {
    let clip = name
        .strip_prefix("backbone.")
        .filter(|n| !n.contains("attnpool.connect"));
    let source = clip.map_or(name.to_string(), |n| format!("clip.{n}"));
    let tensor =
        |values: Vec<f64>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    if name.ends_with("num_batches_tracked") {
        return Tensor::zeros(shape, DType::I64, &Device::Cpu).unwrap();
    }
    let (Some(side), "backbone.visual.positional_embedding") = (native, name) else {
        return tensor(weight(&source, shape), shape);
    };
    let (width, used) = (shape[1], (shape[0] - 1).isqrt());
    let stored = [side * side + 1, width];
    let table = tensor(weight(&source, &stored), &stored);
    let grid = table.narrow(0, 1, side * side).unwrap().t().unwrap();
    let grid = grid.reshape((1, width, side, side)).unwrap();
    let grid = ops::resize(&grid, (used, used), Interpolation::Bicubic, false).unwrap();
    let grid = grid.reshape((width, used * used)).unwrap().t().unwrap();
    Tensor::cat(&[&table.narrow(0, 0, 1).unwrap(), &grid], 0).unwrap()
}

/// The largest difference over the largest value.
pub fn relative(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let flat = |t: &Tensor| -> Vec<f64> {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1().unwrap()
    };
    let (got, expected) = (flat(got), flat(expected));
    let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    // f64::max drops a NaN; a difference that is none must not pass.
    differences.fold(
        0f64,
        |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) },
    ) / largest
}
