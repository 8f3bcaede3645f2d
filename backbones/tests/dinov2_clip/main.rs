//! DINOv2 with registers beside a CLIP's text tower gives what transformers gives, at the size of
//! its table of positions and at others, from two files; and what cannot be is refused.
//!
//! `golden.json` and `golden.safetensors` were written by `examples/baselines/detris.py`.

#[path = "../clip/drawn.rs"]
#[allow(dead_code, reason = "the tests of CLIP use the rest")]
mod drawn;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use drawn::{Walked, bare, distance, tensor, walk_both};
use serde_json::Value;
use twinspan_backbones::dinov2_clip::{Dinov2Clip, Positions, Preset};
use twinspan_sdk::backbone::{Backbone, Weights, value_in};
use twinspan_sdk::base::Base;
use twinspan_sdk::checkpoint::Checkpoint;
use twinspan_sdk::frozen::Frozen;
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::parameter::{Buffer, Overlay};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::recipe::{Recipe, TrainOptions, WeightsChoice};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::task::Task;
use twinspan_sdk::testkit::ToyTask;
use twinspan_sdk::testkit::laws::{Outcome, of_backbone};
use twinspan_sdk::topology::Origin;
use twinspan_sdk::{Error, Result, weights};

/// Numbers are stored as f32, and transformers resizes positions in f32.
const STORED: f64 = 1e-6;

struct Golden {
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dinov2_clip");
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let file = folder.join("golden.safetensors");
        Self {
            json: serde_json::from_str(&text).unwrap(),
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
        }
    }

    /// The state dict of `vision` or `text`, drawn behind its prefix.
    fn state(&self, tower: &str, prefix: &str) -> HashMap<String, Tensor> {
        let shapes = self.json[tower]["parameters"].as_object().unwrap();
        let drawn = shapes.iter().map(|(name, shape)| {
            let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
            (name.clone(), tensor(&format!("{prefix}{name}"), &shape))
        });
        drawn.collect()
    }

    fn vision(&self) -> HashMap<String, Tensor> {
        self.state("vision", "dino.")
    }

    /// CLIP's file: its scale and a vision tower of its own are there too.
    fn text(&self) -> HashMap<String, Tensor> {
        let mut state = self.state("text", "clip.");
        for (name, shape) in [
            ("logit_scale", &[][..]),
            ("vision_model.embeddings.class_embedding", &[8]),
            ("visual_projection.weight", &[20, 8]),
        ] {
            state.insert(name.into(), tensor(name, shape));
        }
        state
    }
}

fn small(input_size: usize, positions: Positions) -> Dinov2Clip {
    let options = r#"
        [model]
        embed_dim = 20
        vision = { layers = 3, width = 32, heads = 4, mlp = 96, patch = 4, image_size = 24 }
        text = { layers = 2, width = 24, heads = 2, mlp = 48, context = 12, vocabulary = 100 }
    "#;
    Dinov2Clip {
        input_size,
        positions,
        ..Dinov2Clip::from_options(&options.parse().unwrap()).unwrap()
    }
}

type State = HashMap<String, Tensor>;

/// A folder with these files, and their paths.
fn files(states: &[&State]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = states.iter().enumerate().map(|(i, state)| {
        let path = folder.path().join(format!("{i}.safetensors"));
        candle_core::safetensors::save(state, &path).unwrap();
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

fn opened(states: &[&State]) -> Result<Base> {
    let (_folder, paths) = files(states);
    weights::open_files(&small(0, Positions::Antialias), &paths)
}

fn refusal(states: &[&State]) -> String {
    opened(states).map(|_| ()).unwrap_err().to_string()
}

/// The fresh projection of the class token, as a number of its own.
fn joint() -> Tensor {
    tensor("joint", &[20, 32]).to_dtype(DType::F64).unwrap()
}

fn walked(golden: &Golden, size: usize, positions: Positions) -> [Walked; 2] {
    let backbone = small(size, positions);
    let topology = backbone.topology().unwrap();
    let base = opened(&[&golden.vision(), &golden.text()]).unwrap();
    let mut overlay = Overlay::default();
    let fresh = Buffer::new(&joint()).unwrap();
    overlay
        .constants
        .insert("vision.joint.weight".into(), fresh);
    let weights = Weights::new(&base, &overlay, &topology, DType::F64, &Device::Cpu);
    let encoders = backbone.load(&weights).unwrap();
    let image = (0..2 * 3 * size * size).map(|i| drawn::raw(&format!("image.{size}"), i as u64));
    let image = Tensor::from_iter(image, &Device::Cpu).unwrap();
    let image = image.reshape((2, 3, size, size)).unwrap();
    let tokens = golden.tensors["tokens"].to_dtype(DType::U32).unwrap();
    let mut pass = Pass::predict();
    walk_both(
        &encoders,
        &topology,
        &[image, tokens],
        &bare(&topology),
        &mut pass,
    )
}

#[test]
fn both_towers_are_those_of_transformers() {
    let golden = Golden::open();
    let close = |got: &Tensor, name: &str| {
        let off = distance(got, &golden.tensors[name]);
        println!("{name}: {off:.1e}");
        assert!(off < STORED, "{name}: {off:.1e}");
    };
    for size in [16, 24, 40] {
        let [vision, text] = walked(&golden, size, Positions::Antialias);
        let mut compared = 0;
        for (i, stream) in vision.streams.iter().enumerate() {
            let name = format!("vision.{size}.hidden.{i}");
            // Behind the last block transformers gives the norm's output.
            if golden.tensors.contains_key(&name) && i < 3 {
                close(&stream.data, &name);
                compared += 1;
            }
        }
        assert_eq!(compared, if size == 24 { 3 } else { 1 });
        let last = &golden.tensors[&format!("vision.{size}.last")];
        let patches = last.narrow(1, 5, last.dim(1).unwrap() - 5).unwrap();
        assert!(distance(&vision.features.data, &patches) < STORED);
        let class = &golden.tensors[&format!("vision.{size}.class")];
        let projected = class.to_dtype(DType::F64).unwrap();
        let projected = projected.matmul(&joint().t().unwrap()).unwrap();
        assert!(distance(&vision.pooled, &projected) < STORED);
        close(&text.features.data, "text.last");
        close(&text.pooled, "text.pooled");
    }
}

#[test]
fn positions_are_resized_at_an_offset_as_dinov2_itself_does() {
    let golden = Golden::open();
    let base = opened(&[&golden.vision(), &golden.text()]).unwrap();
    for size in [16, 40] {
        let wanted = &golden.tensors[&format!("vision.{size}.offset")];
        let resized = |positions| {
            let topology = small(size, positions).topology().unwrap();
            let mut parameters = topology.vision.parameters.iter();
            let info = parameters.find(|p| p.name == "vision.position").unwrap();
            value_in(&base, info).unwrap()
        };
        assert!(distance(&resized(Positions::Offset), wanted) < STORED);
        assert!(distance(&resized(Positions::Antialias), wanted) > 1e-2);
    }
}

#[test]
fn meta_s_names_and_openai_s_give_the_same_base() {
    let golden = Golden::open();
    let backbone = small(0, Positions::Antialias);
    let base = opened(&[&golden.vision(), &golden.text()]).unwrap();
    let layouts = backbone.layouts().unwrap();
    let canonical = |map: &KeyMap| -> BTreeMap<String, Tensor> {
        let names = map.entries.iter().map(|e| e.canonical.clone());
        names
            .map(|name| {
                let frozen: &Frozen = base.get(&name).unwrap();
                let value = frozen.tensor(DType::F32, &Device::Cpu).unwrap();
                (name, value)
            })
            .collect()
    };
    let written = |name: &str| -> State {
        let map = layouts.iter().find(|map| map.name == name).unwrap();
        map.write(canonical(map)).unwrap().into_iter().collect()
    };
    let mut meta = written("dinov2 of Meta");
    assert_eq!(meta["blocks.2.attn.qkv.weight"].dims(), [96, 32]);
    assert_eq!(meta["register_tokens"].dims(), [1, 4, 32]);
    assert_eq!(meta["pos_embed"].dims(), [1, 37, 32]);
    meta.insert("mask_token".into(), tensor("mask", &[1, 32]));
    for text in ["text of openai", "text of open_clip with custom text"] {
        let mut text = written(text);
        text.insert("visual.proj".into(), tensor("proj", &[8, 20]));
        // The order of the files does not matter.
        for states in [[&meta, &text], [&text, &meta]] {
            let again = opened(&states).unwrap();
            assert_eq!(again.digest().unwrap(), base.digest().unwrap());
        }
    }
}

#[test]
fn one_file_of_canonical_names_will_do() {
    let golden = Golden::open();
    let base = opened(&[&golden.vision(), &golden.text()]).unwrap();
    let names: Vec<String> = base.names().map(String::from).collect();
    let whole: State = names
        .into_iter()
        .map(|name| {
            let value = base.get(&name).unwrap();
            let value = value.tensor(DType::F32, &Device::Cpu).unwrap();
            (name, value)
        })
        .collect();
    let again = opened(&[&whole]).unwrap();
    assert_eq!(again.digest().unwrap(), base.digest().unwrap());
    let twice = refusal(&[&whole, &golden.text()]);
    assert!(
        twice.contains("`logit_scale` is in ") && twice.ends_with("leave one of them out"),
        "{twice}"
    );
}

#[test]
fn what_two_files_lack_or_nobody_explains_is_refused() {
    let golden = Golden::open();
    let (vision, text) = (golden.vision(), golden.text());
    let alone = refusal(&[&vision]);
    assert!(
        alone.contains("(38 missing): `logit_scale` is missing"),
        "{alone}"
    );

    let twice = refusal(&[&vision, &vision]);
    assert!(twice.contains("`vision."), "{twice}");
    assert!(twice.ends_with("leave one of them out"), "{twice}");

    let mut strange = text.clone();
    strange.insert("audio.weight".into(), tensor("audio", &[2]));
    let message = refusal(&[&vision, &strange]);
    assert!(message.contains("`audio.weight` is not known"), "{message}");

    let mut short = vision.clone();
    short.remove("encoder.layer.1.layer_scale2.lambda1");
    let message = refusal(&[&short, &text]);
    assert!(
        message.contains("`encoder.layer.1.layer_scale2.lambda1` is missing"),
        "{message}"
    );
}

/// Files of which each fits a layout, and which leave a tower out together.
#[test]
fn a_tower_in_no_file_is_refused() {
    let golden = Golden::open();
    let mut half = golden.text();
    half.retain(|name, _| name.starts_with("text"));
    let message = refusal(&[&golden.vision(), &half]);
    assert!(message.contains("`logit_scale` is missing"), "{message}");
    let paths: [PathBuf; 0] = [];
    let none = weights::open_files(&small(0, Positions::Antialias), &paths);
    let none = none.map(|_| ()).unwrap_err();
    assert!(
        matches!(
            none,
            Error::Plugin {
                wrong_use: true,
                ..
            }
        ),
        "{none}"
    );
}

/// Two folders as the hub has them: each with its weights and a `config.json` of its own, the
/// vocabulary beside the second.
#[test]
fn a_recipe_names_both_folders() {
    /// Of the vocabulary in `tests/tokenizer_data`.
    const WORDS: usize = 522;
    let golden = Golden::open();
    let mut text = golden.text();
    let words = "text_model.embeddings.token_embedding.weight";
    text.insert(words.into(), tensor(words, &[WORDS, 24]));
    let folder = tempfile::tempdir().unwrap();
    let places = [("dino", golden.vision()), ("clip", text)].map(|(name, state)| {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).unwrap();
        let file = place.join("model.safetensors");
        candle_core::safetensors::save(&state, &file).unwrap();
        let kind = format!("{{\"model_type\": \"{name}\"}}");
        std::fs::write(place.join("config.json"), kind).unwrap();
        place.display().to_string()
    });
    let [dino, clip] = places;
    let mut backbone = small(0, Positions::Antialias);
    backbone.model.as_mut().unwrap().text.vocabulary = WORDS;
    let recipe = Recipe {
        backbone: Configured::<dyn Backbone>::of(backbone).unwrap(),
        weights: WeightsChoice {
            weights: dino,
            more_weights: vec![clip.clone()],
            ..Default::default()
        },
        adapters: Vec::new(),
        task: Configured::<dyn Task>::of(ToyTask::default()).unwrap(),
        train: TrainOptions::default(),
    };
    let described = weights::described(&recipe, &()).unwrap();
    assert_eq!(described.backbone.name, "dinov2-clip");
    let base = weights::open(&described).unwrap();
    assert_eq!(
        base.get("text.token.weight").unwrap().shape().dims(),
        [WORDS, 24]
    );
    assert!(base.get("vision.registers").is_some());

    let none = weights::tokenizer(&described)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(none.contains("has no vocabulary beside it"), "{none}");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizer_data");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(data.join(name), Path::new(&clip).join(name)).unwrap();
    }
    let tokenizer = weights::tokenizer(&described).unwrap();
    assert_eq!(tokenizer.encode("a", 4).ids.len(), 4);
}

#[test]
fn the_laws_of_a_backbone_hold() {
    let mut backbone = small(16, Positions::Offset);
    // Ids of the tokenizer without a vocabulary.
    backbone.model.as_mut().unwrap().text.vocabulary = 514;
    let backbone = Configured::<dyn Backbone>::of(backbone).unwrap();
    let verdicts = of_backbone(&backbone);
    assert_eq!(verdicts.len(), 4);
    for verdict in verdicts {
        assert_eq!(verdict.outcome, Outcome::Held, "{verdict}");
    }
}

#[test]
fn released_sizes_fit_and_others_are_refused() {
    for preset in Preset::ALL {
        let backbone = Dinov2Clip {
            preset: Some(*preset),
            input_size: 448,
            ..Default::default()
        };
        let topology = backbone.topology().unwrap();
        assert_eq!(topology.vision.last.grid, Some((32, 32)));
        assert_eq!(topology.joint, 512);
        let position = topology.parameters().find(|p| p.name == "vision.position");
        assert_eq!(position.unwrap().shape[0], 1025);
    }
    // DINOv2's base model has 86.6 million parameters, its token for hidden patches included.
    let base = Dinov2Clip::default().topology().unwrap();
    let vision = base.vision.parameters.iter();
    let stored = vision.filter(|p| !matches!(p.origin, Origin::Fresh(_)));
    assert_eq!(stored.map(|p| p.count()).sum::<usize>(), 86_583_552 - 768);

    let wrong = Dinov2Clip {
        input_size: 450,
        ..Default::default()
    };
    assert_eq!(
        wrong.topology().unwrap_err().to_string(),
        "backbone `dinov2-clip`: input_size = 450 is not a multiple of 14 (the patch)"
    );
    let mut wrong = small(0, Positions::Antialias);
    wrong.model.as_mut().unwrap().vision.registers = 0;
    assert_eq!(
        wrong.topology().unwrap_err().to_string(),
        "backbone `dinov2-clip`: vision.registers = 0: give 1 to 16777216"
    );
}

#[test]
fn a_file_of_one_tower_is_read_in_its_own_layout() {
    let golden = Golden::open();
    let (_folder, paths) = files(&[&golden.vision(), &golden.text()]);
    let layouts = small(0, Positions::Antialias).layouts().unwrap();
    let named: Vec<&str> = paths
        .iter()
        .map(|path| {
            let checkpoint = Checkpoint::open(path).unwrap();
            KeyMap::of(&layouts, &checkpoint).unwrap().name
        })
        .collect();
    assert_eq!(named, ["dinov2 of transformers", "text of transformers"]);
}
