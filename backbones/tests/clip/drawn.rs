//! Models whose weights are functions of their names, and walks through their towers.
//!
//! Owns the rule: FNV-1a of the name, SplitMix64 of the element's number, a range by the name's
//! last part.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use twinspan_backbones::clip::Clip;
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::base::Base;
use twinspan_sdk::checkpoint::Checkpoint;
use twinspan_sdk::frozen::Frozen;
use twinspan_sdk::hooks::{Hooks, TowerHooks};
use twinspan_sdk::parameter::{Buffer, Overlay};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::site::{At, Tower};
use twinspan_sdk::source::Description;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::topology::{Origin, Topology};
use twinspan_sdk::weights;

/// Element `i` of the raw values of `name`, in [-1, 1).
pub fn raw(name: &str, i: u64) -> f64 {
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut z = key.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f64 / f64::from(1 << 24) * 2.0 - 1.0
}

/// The weight `name` of `shape`, f32.
pub fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let last = name.rsplit('.').next().unwrap();
    let fan: usize = shape.iter().skip(1).product();
    let value = |v: f64| match last {
        "running_var" => 1.0 + 0.5 * v,
        "running_mean" => 0.1 * v,
        "logit_scale" => (1.0f64 / 0.07).ln(),
        "bias" | "class_embedding" => 0.1 * v,
        _ if last.ends_with("_bias") => 0.1 * v,
        _ if shape.len() <= 1 => 1.0 + 0.1 * v,
        _ => v * (3.0 / fan as f64).sqrt(),
    };
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64)
        .map(|i| value(raw(name, i)) as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The state dict of a golden model, drawn.
pub fn state(json: &Value) -> HashMap<String, Tensor> {
    let prefix = json["prefix"].as_str().unwrap();
    let parameters = json["parameters"].as_object().unwrap();
    let drawn = parameters.iter().map(|(name, shape)| {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        let tensor = match name.ends_with("num_batches_tracked") {
            true => Tensor::zeros((), DType::I64, &Device::Cpu).unwrap(),
            false => tensor(&format!("{prefix}{name}"), &shape),
        };
        (name.clone(), tensor)
    });
    drawn.collect()
}

/// A model of the reference implementations: its configuration, weights, inputs and outputs.
pub struct Golden {
    pub json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clip/data");
        let json = std::fs::read_to_string(path.join(format!("{name}.json"))).unwrap();
        let file = path.join(format!("{name}.safetensors"));
        Self {
            json: serde_json::from_str(&json).unwrap(),
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
        }
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    pub fn tokens(&self) -> Tensor {
        self.tensor("input.tokens").to_dtype(DType::U32).unwrap()
    }

    pub fn image(&self, dtype: DType) -> Tensor {
        self.tensor("input.image").to_dtype(dtype).unwrap()
    }

    /// The reference's state dict, drawn.
    pub fn state(&self) -> HashMap<String, Tensor> {
        state(&self.json)
    }

    /// The base that `clip` reads from a file with the reference's state dict.
    pub fn base(&self, clip: &Clip) -> Base {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        candle_core::safetensors::save(&self.state(), &file).unwrap();
        weights::open_file(clip, &file).unwrap()
    }

    /// The plugin with the sizes of the configuration.
    pub fn clip(&self) -> Clip {
        let (name, file) = match self.json.get("model_cfg") {
            Some(config) => (
                "open_clip_config.json",
                serde_json::json!({ "model_cfg": config }),
            ),
            None => ("config.json", self.json["config"].clone()),
        };
        let description = Description::of([(name.to_string(), file)]);
        let options = Clip::default().described(&description).unwrap().unwrap();
        Clip::from_options(&options).unwrap()
    }
}

/// A small CLIP with every weight drawn from its canonical name: a ViT of three blocks, or a
/// ResNet with the residual of its dense pool.
pub fn small(resnet: bool) -> (Clip, Topology, Base, Overlay) {
    let mut clip = Golden::open(if resnet {
        "open_clip_resnet"
    } else {
        "open_clip_vit"
    })
    .clip();
    clip.connect = resnet;
    let topology = clip.topology().unwrap();
    let (mut base, mut overlay) = (BTreeMap::new(), Overlay::default());
    for info in topology.parameters() {
        let value = tensor(&format!("small.{}", info.name), &info.shape);
        match info.origin {
            Origin::Fresh(_) => {
                let value = Buffer::new(&value.to_dtype(DType::F64).unwrap()).unwrap();
                overlay.constants.insert(info.name.clone(), value);
            }
            _ => {
                base.insert(info.name.clone(), value);
            }
        }
    }
    (clip, topology, Base::from_tensors(base), overlay)
}

/// Pictures and ids that a model of [`small`] takes, in f64.
pub fn inputs(resnet: bool) -> [Tensor; 2] {
    let golden = Golden::open(if resnet {
        "open_clip_resnet"
    } else {
        "open_clip_vit"
    });
    [golden.image(DType::F64), golden.tokens()]
}

/// Encoders in f64.
pub fn encoders(clip: &Clip, topology: &Topology, base: &Base, overlay: &Overlay) -> Encoders {
    let weights = Weights::new(base, overlay, topology, DType::F64, &Device::Cpu);
    clip.load(&weights).unwrap()
}

/// No hooks for either tower.
pub fn bare(topology: &Topology) -> Hooks {
    Hooks::new(topology.vision.blocks.len(), topology.text.blocks.len())
}

/// What a tower gives, depth by depth: the embedding, every block, and both of its ends.
pub struct Walked {
    /// The embedding's stream, then each block's.
    pub streams: Vec<Stream>,
    pub features: Stream,
    pub pooled: Tensor,
}

/// Runs one tower.
pub fn walk(
    encoder: &dyn Encoder,
    blocks: usize,
    input: &Tensor,
    hooks: &TowerHooks,
    pass: &mut Pass,
) -> twinspan_sdk::Result<Walked> {
    let mut stream = encoder.tokens(input, hooks.place(At::Embed), pass)?;
    stream = encoder.positions(stream, pass)?;
    stream = encoder.norm(stream, pass)?;
    let mut streams = vec![stream.clone()];
    for i in 0..blocks {
        stream = encoder.block(i, stream, hooks.place(At::Block(i)), pass)?;
        streams.push(stream.clone());
    }
    let last = hooks.place(At::Final);
    Ok(Walked {
        features: encoder.features(&stream, last, pass)?,
        pooled: encoder.pooled(&stream, last, pass)?,
        streams,
    })
}

/// Runs both towers, vision first.
pub fn walk_both(
    encoders: &Encoders,
    topology: &Topology,
    inputs: &[Tensor; 2],
    hooks: &Hooks,
    pass: &mut Pass,
) -> [Walked; 2] {
    Tower::BOTH.map(|tower| {
        let encoder = match tower {
            Tower::Vision => encoders.vision.as_ref(),
            Tower::Text => encoders.text.as_ref(),
        };
        let blocks = topology.tower(tower).blocks.len();
        let input = &inputs[tower as usize];
        walk(encoder, blocks, input, hooks.tower(tower), pass).unwrap()
    })
}

/// The largest difference over the largest value of `want`, both as f64.
pub fn distance(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let values = |t: &Tensor| -> Vec<f64> {
        let t = t.to_dtype(DType::F64).unwrap();
        t.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (got, want) = (values(got), values(want));
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |m: f64, v| m.max(v.abs()));
    let largest = most(&mut want.iter().copied());
    let differs = most(&mut got.iter().zip(&want).map(|(g, w)| g - w));
    assert!(got.iter().all(|v| v.is_finite()));
    differs / largest.max(f64::MIN_POSITIVE)
}

/// Tensors in memory as a checkpoint.
pub fn checkpoint(state: &HashMap<String, Tensor>) -> Checkpoint {
    let frozen = state.iter().map(|(n, t)| (n.clone(), Frozen::dense(t)));
    Checkpoint::from_frozen("model.safetensors", frozen.collect())
}
