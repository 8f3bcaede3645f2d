//! Looking at pictures and sentences as at a terminal, without training: classify, search, embed
//! and check, on the built-in encoder and on weights in every place they can be named.

mod terminal;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;
use terminal::has;
use twinspan::Encoder;
use twinspan::backbones::siglip::Siglip;
use twinspan::scenes::{SIDE, Scene};
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::{parameter::Init, weights};

/// Scenes that the encoder was not trained on: `examples/pretrain_pocket`.
const FIRST: u64 = 1 << 32;

/// A folder of pictures with one thing each, and the word of each one's colour.
fn scenes(folder: &Path, count: usize) -> Vec<(PathBuf, &'static str)> {
    fs::create_dir_all(folder).unwrap();
    let all = (FIRST..).map(|number| Scene::of(3, number, SIDE, 1..=1));
    let one = all.filter(|scene| scene.things.len() == 1).take(count);
    let saved = one.enumerate().map(|(i, scene)| {
        let path = folder.join(format!("{i}.png"));
        scene.picture().save(&path).unwrap();
        (path, scene.things[0].colour.word())
    });
    saved.collect()
}

const SMALL: &str = r#"{ "model_type": "siglip",
    "vision_config": { "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "patch_size": 8, "image_size": 36 },
    "text_config": { "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 10, "max_position_embeddings": 8,
        "projection_size": 16 } }"#;

/// A model folder as transformers writes it: a small SigLIP with drawn weights.
fn published(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), SMALL).unwrap();
    let pieces = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" },
        "model": { "type": "Unigram", "unk_id": 2, "byte_fallback": false, "vocab": [
            ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0], ["▁a", -2.0],
            ["▁cat", -2.5], ["c", -5.0], ["a", -5.0], ["t", -5.0], ["dog", -4.0]] },
    });
    fs::write(folder.join("tokenizer.json"), pieces.to_string()).unwrap();
    let description = twinspan::sdk::source::Description::of([(
        "config.json".to_string(),
        serde_json::from_str(SMALL).unwrap(),
    )]);
    let options = Siglip::default().described(&description).unwrap().unwrap();
    let siglip: Siglip = options.try_into().unwrap();
    let layouts = siglip.layouts().unwrap();
    let transformers = layouts.iter().find(|l| l.name == "transformers").unwrap();
    let drawn = weights::expected(&siglip.topology().unwrap()).into_iter();
    let drawn = drawn.map(|e| {
        let tensor =
            Init::Normal(0.3).tensor(5, &e.name, &e.shape, candle_core::DType::F32, &Device::Cpu);
        (e.name, tensor.unwrap())
    });
    let written: HashMap<String, Tensor> = transformers
        .write(drawn.collect())
        .unwrap()
        .into_iter()
        .collect();
    candle_core::safetensors::save(&written, folder.join("model.safetensors")).unwrap();
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn pocket_tells_colours_apart_and_finds_them() {
    let bench = Bench::new();
    let pictures = scenes(&bench.path("pictures"), 12);
    let colours: Vec<&str> = ["red", "green", "blue", "yellow"].to_vec();
    let known: Vec<_> = pictures
        .iter()
        .filter(|(_, c)| colours.contains(c))
        .collect();
    let mut arguments: Vec<std::ffi::OsString> = vec!["classify".into(), "--json".into()];
    arguments.extend(["--weights", "pocket", "--labels"].map(Into::into));
    arguments.push(colours.join(",").into());
    arguments.extend(["--template", "a {} thing"].map(Into::into));
    for (path, _) in &known {
        arguments.extend(["--image".into(), path.into()]);
    }
    let said = terminal::run(arguments).json();
    let rows = said.as_array().unwrap();
    assert_eq!(rows.len(), known.len());
    let right = rows.iter().zip(&known).filter(|(row, (_, colour))| {
        let labels = row["labels"].as_array().unwrap();
        let sum: f64 = labels
            .iter()
            .map(|l| l["probability"].as_f64().unwrap())
            .sum();
        assert!((sum - 1.0).abs() < 1e-5);
        labels[0]["label"] == **colour
    });
    assert_eq!(right.count(), known.len());

    // What search finds from the pictures it finds from their vectors too.
    let folder = bench.path("pictures");
    let found = |from: &str, place: &Path| {
        let said = terminal::run(vec![
            "search".into(),
            "--json".into(),
            "--weights".into(),
            "pocket".into(),
            from.into(),
            place.into(),
            "--text".into(),
            "a red thing".into(),
            "--top".into(),
            "12".into(),
            "--sheet".into(),
            bench.path("sheet.png").into(),
        ]);
        said.json()
    };
    let index = bench.path("index.safetensors");
    let said = twinspan!(
        "embed",
        "--weights",
        "pocket",
        "--images",
        &folder,
        "--text",
        "a disc",
        "--out",
        &index
    );
    has(&said.results(), &["image [12, 128], text [1, 128]"]);
    let ranked = found("--images", &folder);
    assert_eq!(found("--index", &index), ranked);
    let other = twinspan!(
        "search",
        "--weights",
        "pocket",
        "--set",
        "precision=bf16",
        "--index",
        &index,
        "--text",
        "a"
    );
    has(&other.error(1), &["it was made with other weights"]);
    let order = ranked[0]["found"].as_array().unwrap();
    let red = pictures.iter().filter(|(_, c)| *c == "red").count();
    assert!(red > 0);
    for best in &order[..red] {
        let (_, colour) = pictures
            .iter()
            .find(|(path, _)| best["image"] == path.display().to_string())
            .unwrap();
        assert_eq!(*colour, "red");
    }
    let sheet = image::open(bench.path("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (6 + 12 * 166, 6 + 166));
}

#[test]
fn embed_writes_what_the_encoder_gives() {
    let bench = Bench::new();
    let pictures = scenes(&bench.path("pictures"), 2);
    let out = bench.path("vectors.safetensors");
    fs::write(bench.path("pictures/broken.png"), b"no picture").unwrap();
    let said = twinspan!(
        "embed",
        "--weights",
        "pocket",
        "--images",
        bench.path("pictures"),
        "--unit",
        "--out",
        &out
    );
    has(&said.stderr, &["warning: left out: ", "broken.png"]);
    said.results();
    let written = candle_core::safetensors::load(&out, &Device::Cpu).unwrap();
    let encoder = Encoder::open("pocket").unwrap();
    let opened: Vec<_> = pictures
        .iter()
        .map(|(path, _)| image::open(path).unwrap().into_rgb8())
        .collect();
    let vectors = encoder.encode_image(&opened).unwrap();
    let length = vectors
        .sqr()
        .unwrap()
        .sum_keepdim(1)
        .unwrap()
        .sqrt()
        .unwrap();
    let unit = vectors.broadcast_div(&length).unwrap();
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    assert_eq!(rows(&written["image"]), rows(&unit));
}

/// A folder, a file in it, a warm cache of the hub without a network, and a model folder: the same
/// weights, the same answer.
#[test]
fn weights_are_the_same_wherever_they_are_named() {
    let bench = Bench::new();
    let picture = scenes(&bench.path("pictures"), 1).remove(0).0;
    let model = bench.path("model");
    published(&model);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let cached = bench.path("hub/models--someone--small");
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), commit).unwrap();
    published(&cached.join("snapshots").join(commit));
    let classify = |weights: &std::ffi::OsStr| {
        let output = Command::new(env!("CARGO_BIN_EXE_twinspan"))
            .args(["classify", "--labels", "a,cat", "--image"])
            .arg(&picture)
            .arg("--weights")
            .arg(weights)
            .env("HF_HUB_CACHE", bench.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, folder, said) = classify(model.as_os_str());
    assert_eq!(code, Some(0), "{said}");
    assert!(folder.contains("cat"), "{folder}");
    for weights in [
        model.join("model.safetensors").as_os_str(),
        "someone/small".as_ref(),
        "hf-hub:someone/small".as_ref(),
        format!("someone/small@{commit}").as_ref(),
    ] {
        let (code, same, said) = classify(weights);
        assert_eq!((code, &same), (Some(0), &folder), "{weights:?}: {said}");
    }
    let (code, _, said) = classify("someone/large".as_ref());
    assert_eq!(code, Some(1));
    has(
        &said,
        &[
            "the cache lacks files of `someone/large`",
            "HF_HUB_OFFLINE is set",
        ],
    );
}

#[test]
fn what_was_called_wrongly_is_named() {
    let bench = Bench::new();
    let picture = scenes(&bench.path("pictures"), 1).remove(0).0;
    let model = bench.path("model");
    published(&model);
    fs::remove_file(model.join("config.json")).unwrap();
    let index = bench.path("index.safetensors");
    fs::write(&index, b"no vectors").unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let (picture, model, index) = (text(&picture), text(&model), text(&index));
    let out = text(&bench.path("x.safetensors"));
    let classify = [
        "classify",
        "--image",
        &picture,
        "--labels",
        "a,b",
        "--weights",
    ];
    let on_pocket = |command| [command, "--weights", "pocket"];
    let refused = |start: &[&str], rest: &[&str], code, parts: &[&str]| {
        let all = start.iter().chain(rest);
        let said = terminal::run(all.map(std::ffi::OsString::from).collect());
        has(&said.error(code), parts);
    };
    let built_in = "built in, pocket";
    refused(
        &classify,
        &["pockets"],
        2,
        &["`pockets` is neither", built_in],
    );
    refused(&classify, &["clip"], 2, &[built_in]);
    refused(
        &classify,
        &[&model],
        2,
        &["no file beside", "use = \"clip\""],
    );
    // Nor is a model guessed where only its family is said.
    let family = [&model, "--set", "use=siglip"];
    refused(&classify, &family, 2, &["says which `siglip` it is of"]);
    let template = ["pocket", "--template", "x"];
    refused(&classify, &template, 2, &["--template `x`: write {}"]);
    refused(
        &classify,
        &["pocket", "--set", "presets=1"],
        2,
        &["presets"],
    );
    let search = on_pocket("search");
    let empty = ["--text", "a", "--images", &model];
    refused(&search, &empty, 1, &["holds no pictures"]);
    let damaged = ["--text", "a", "--index", &index];
    refused(&search, &damaged, 1, &["it is no file of `embed --images`"]);
    let embed = on_pocket("embed");
    refused(&embed, &["--out", &out], 2, &["nothing to embed"]);
    refused(&on_pocket("check"), &[], 1, &["no values are known"]);
}

/// Pictures as the published processors prepare them, to the bit but for the last division.
#[test]
fn pictures_are_prepared_as_published() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backbones/tests/golden");
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let mut compared = 0;
    for name in [
        "preprocess_clip_hf",
        "preprocess_siglip_hf",
        "preprocess_siglip2_hf",
        "preprocess_shortest",
        "preprocess_squash",
        "preprocess_squash_bilinear",
    ] {
        let golden = read(name);
        let mut config: Value = serde_json::from_str(SMALL).unwrap();
        config["vision_config"]["image_size"] = json!(24);
        let mut files = vec![("config.json".to_string(), config)];
        match golden.get("preprocessor_config") {
            Some(file) => files.push(("preprocessor_config.json".into(), file.clone())),
            None => files.push((
                "open_clip_config.json".into(),
                json!({ "preprocess_cfg": golden["preprocess_cfg"] }),
            )),
        }
        let description = twinspan::sdk::source::Description::of(files);
        let options = Siglip::default().described(&description).unwrap().unwrap();
        let siglip: Siglip = options.try_into().unwrap();
        let preparation = siglip.preparation();
        let file = folder.join(format!("{name}.safetensors"));
        let wanted = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        for (picture, png) in golden["pictures"].as_object().unwrap() {
            let opened = image::open(folder.join(png.as_str().unwrap())).unwrap();
            let planes =
                twinspan::tasks::prepare::prepare(&preparation, &opened.into_rgb8()).unwrap();
            let wanted = &wanted[&format!("{picture}.pixels")];
            let wanted: Vec<f32> = wanted.flatten_all().unwrap().to_vec1().unwrap();
            let far = planes.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
            let most = far.fold(0.0, f32::max);
            assert!(most < 1e-6, "{name} {picture}: {most}");
            compared += 1;
        }
    }
    assert_eq!(compared, 18);
}
