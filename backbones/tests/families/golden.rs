//! Outputs and hidden states against the reference implementations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use twinspan_backbones::block::Activation;
use twinspan_backbones::clip::Clip;
use twinspan_backbones::siglip::{Architecture, Siglip, TextSizes, VisionSizes};
use twinspan_sdk::backbone::{Backbone, Weights};
use twinspan_sdk::key_map::Expected;
use twinspan_sdk::parameter::Overlay;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::source::Description;
use twinspan_sdk::{ops, weights};

use crate::drawn::{bare, checkpoint, distance, state, walk_both};

/// A golden model.
pub struct Model {
    pub name: String,
    /// Whether its reference ran in f32.
    single: bool,
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Model {
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect();
        files.sort();
        let models = files.iter().map(|file| Self::open(file));
        models
            .filter(|m| m.json.get("parameters").is_some())
            .collect()
    }

    fn open(file: &Path) -> Self {
        let tensors = file.with_extension("safetensors");
        Self {
            name: file.file_stem().unwrap().to_string_lossy().into_owned(),
            single: false,
            json: serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap(),
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
        }
    }

    /// The backbone its configuration describes.
    pub fn backbone(&self) -> Arc<dyn Backbone> {
        let file = match self.json.get("model_cfg") {
            Some(config) => (
                "open_clip_config.json",
                serde_json::json!({ "model_cfg": config }),
            ),
            None => ("config.json", self.json["config"].clone()),
        };
        let description = Description::of([(file.0.to_string(), file.1)]);
        if let Some(options) = Clip::default().described(&description).unwrap() {
            return Arc::new(Clip::from_options(&options).unwrap());
        }
        if let Some(trunk) = self.json.get("timm_kwargs") {
            return Arc::new(timm(&self.json["model_cfg"], trunk));
        }
        let options = Siglip::default().described(&description).unwrap();
        Arc::new(Siglip::from_options(&options.unwrap()).unwrap())
    }
}

/// A SigLIP of open_clip whose vision tower timm made with these arguments; its name says nothing
/// of its sizes.
fn timm(config: &Value, trunk: &Value) -> Siglip {
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap() as usize;
    let tanh = |yes: bool| {
        if yes {
            Activation::GeluTanh
        } else {
            Activation::Gelu
        }
    };
    let mlp = |of: &Value, width: usize| {
        let ratio = of.get("mlp_ratio").and_then(Value::as_f64);
        Some((width as f64 * ratio.unwrap_or(4.0)) as usize)
    };
    let text = &config["text_cfg"];
    let (width, text_width) = (number(trunk, "embed_dim"), number(text, "width"));
    Siglip::of(Architecture {
        vision: VisionSizes {
            layers: number(trunk, "depth"),
            width,
            heads: number(trunk, "num_heads"),
            mlp: mlp(trunk, width),
            activation: tanh(trunk.get("act_layer").is_some()),
            patch: number(trunk, "patch_size"),
            image_size: number(trunk, "img_size"),
        },
        text: TextSizes {
            layers: number(text, "layers"),
            width: text_width,
            heads: number(text, "heads"),
            mlp: mlp(text, text_width),
            activation: tanh(text.get("act_kwargs").is_some()),
            no_projection: text.get("proj_type").is_some(),
            context: number(text, "context_length"),
            vocabulary: number(text, "vocab_size"),
            padding: 1,
            end: 1,
        },
    })
}

fn unit(x: &Tensor) -> Tensor {
    let norm = x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    x.broadcast_div(&norm).unwrap()
}

/// The references computed in f64 and stored f32: in f64 a wrong eps or GELU shows.
#[test]
fn every_model_gives_what_its_reference_gives() {
    let mut models = Model::all();
    assert_eq!(models.len(), 17);
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens/backbones");
    // Its open_clip models were computed with a wrong mask; `tests/clip` says more.
    for name in ["hf_clip", "siglip"] {
        match shared.join(format!("{name}.json")) {
            file if file.exists() => models.push(Model {
                single: true,
                ..Model::open(&file)
            }),
            file => eprintln!("skipped: {} is absent", file.display()),
        }
    }
    for model in &models {
        let backbone = model.backbone();
        let topology = backbone.topology().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        candle_core::safetensors::save(&state(&model.json), &file).unwrap();
        let base = weights::open_file(backbone.as_ref(), &file).unwrap();
        let overlay = Overlay::default();
        let closest = if model.single { 1e-5 } else { 1e-6 };
        for (dtype, tolerance) in [(DType::F64, closest), (DType::F32, 1e-5)] {
            let weights = Weights::new(&base, &overlay, &topology, dtype, &Device::Cpu);
            let encoders = backbone.load(&weights).unwrap();
            let inputs = [
                model.tensors["input.image"].to_dtype(dtype).unwrap(),
                model.tensors["input.tokens"].to_dtype(DType::U32).unwrap(),
            ];
            let mut pass = Pass::predict();
            let [vision, text] =
                walk_both(&encoders, &topology, &inputs, &bare(&topology), &mut pass);
            let mut found = HashMap::new();
            for (tower, walked) in [("vision", &vision), ("text", &text)] {
                for (i, stream) in walked.streams.iter().enumerate() {
                    found.insert(format!("{tower}.hidden.{i}"), stream.data.clone());
                }
                let dense = walked.features.data.clone();
                if tower == "text" {
                    found.insert("text.last".into(), dense);
                }
            }
            let (images, sentences) = (unit(&vision.pooled), unit(&text.pooled));
            let scale = encoders.logit_scale.tensor(&pass).unwrap();
            let scale = scale.exp().unwrap();
            let mut logits = ops::linear(&images, &sentences, None).unwrap();
            logits = logits.broadcast_mul(&scale).unwrap();
            if let Some(bias) = &encoders.logit_bias {
                logits = logits.broadcast_add(&bias.tensor(&pass).unwrap()).unwrap();
            }
            found.insert("output.logits_per_image".into(), logits);
            found.insert("output.image_embeds".into(), images);
            found.insert("output.text_embeds".into(), sentences);
            found.insert("output.image".into(), vision.pooled.clone());
            found.insert("output.text".into(), text.pooled.clone());
            found.insert(
                "vision.layer4".into(),
                vision.streams.last().unwrap().data.clone(),
            );
            let mut worst = 0.0f64;
            for (name, wanted) in &model.tensors {
                // The norm behind the last block is not seen alone from outside.
                if name.starts_with("input.") || name == "vision.last" {
                    continue;
                }
                let far = distance(&found[name], wanted);
                worst = worst.max(far);
                assert!(far < tolerance, "{} {dtype:?} {name}: {far:e}", model.name);
            }
            println!("{} {dtype:?}: {worst:.1e}", model.name);
        }
    }
}

/// What a layout reads it also writes, name by name and value by value.
#[test]
fn layouts_write_what_they_read() {
    for model in Model::all() {
        let backbone = model.backbone();
        let drawn = state(&model.json);
        let file = checkpoint(&drawn);
        let layouts = backbone.layouts().unwrap();
        let map = layouts.iter().max_by_key(|map| map.matches(&file)).unwrap();
        let topology = backbone.topology().unwrap();
        let expected: Vec<Expected> = weights::expected(&topology);
        let read = map.read(&file, &expected).unwrap();
        let tensors = read
            .iter()
            .map(|(name, t)| (name.clone(), t.tensor(DType::F32, &Device::Cpu).unwrap()));
        let written = map.write(tensors.collect()).unwrap();
        let kept = drawn
            .iter()
            .filter(|(name, _)| !name.ends_with("num_batches_tracked"));
        let kept: Vec<_> = kept.collect();
        assert_eq!(kept.len(), written.len(), "{}", model.name);
        for (name, tensor) in kept {
            assert_eq!(
                written[name].dims(),
                tensor.dims(),
                "{}: {name}",
                model.name
            );
            assert_eq!(
                distance(&written[name], tensor),
                0.0,
                "{}: {name}",
                model.name
            );
        }
    }
}
