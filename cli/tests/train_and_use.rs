//! A model from recipe and data to masks: what is in its folder, that the same gives the same to
//! the bit, and that it opens on its own base alone.

mod scene;
mod terminal;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use scene::{RECIPE, names, write};
use tempfile::TempDir;
use terminal::{Said, has};
use twinspan::backbones::clip::Clip;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::weights;

/// A folder with data and a recipe.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        scene::data(folder.path());
        write(folder.path(), "recipe.toml", RECIPE);
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, recipe: &str, out: &str, settings: &[&str]) -> Said {
        let mut arguments = vec!["train".into(), self.path(recipe).into()];
        arguments.push("--overwrite".into());
        for (flag, name) in [("--data", "data.jsonl"), ("--out", out)] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        for setting in settings {
            arguments.extend(["--set".into(), setting.into()]);
        }
        terminal::run(arguments)
    }

    /// The bytes that a training gives.
    fn trained(&self, recipe: &str, out: &str, settings: &[&str]) -> Vec<u8> {
        self.train(recipe, out, settings).results();
        fs::read(self.path(out).join("last/tuned.safetensors")).unwrap()
    }

    fn eval(&self, more: &[&str]) -> Said {
        let mut arguments = vec!["eval".into(), "--model".into(), self.path("model").into()];
        arguments.extend(["--data".into(), self.path("data.jsonl").into()]);
        arguments.extend(more.iter().map(|&a| a.into()));
        terminal::run(arguments)
    }

    fn segment(&self, out: &str) -> Said {
        twinspan!(
            "segment",
            "--model",
            &self.path("model"),
            "--image",
            &self.path("3.png"),
            "--text",
            "the thing",
            "--text",
            "a coloured shape",
            "--out",
            &self.path(out),
            "--logits",
            &self.path(&format!("{out}.safetensors")),
        )
    }
}

#[test]
fn a_trained_model_has_its_folder_scores_and_masks() {
    let bench = Bench::new();
    let said = bench.train("recipe.toml", "model", &["train.steps=4"]);
    has(&said.stderr, &["training ", "beside the frozen"]);
    has(&said.results(), &["model: 4 steps", "last loss"]);
    assert_eq!(
        names(&bench.path("model")),
        [
            "events.jsonl",
            "events.out.tfevents.0.twinspan",
            "last",
            "recipe.toml"
        ]
    );
    assert_eq!(
        names(&bench.path("model/last")),
        [
            "README.md",
            "metrics.json",
            "recipe.toml",
            "state.safetensors",
            "tuned.safetensors"
        ]
    );
    let text = fs::read_to_string(bench.path("model/recipe.toml")).unwrap();
    let recipe = Recipe::parse(&text, "test").unwrap();
    assert_eq!(
        recipe.to_toml().unwrap(),
        text,
        "every default is filled in"
    );
    has(
        &text,
        &[
            "alpha = 8.0",
            "optimizer = \"adam\"",
            "steps = 4",
            "global = true",
        ],
    );
    let metrics = fs::read_to_string(bench.path("model/last/metrics.json")).unwrap();
    let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
    assert_eq!(metrics["steps"], 4);
    assert!(metrics["loss"].as_f64().unwrap() > 0.0);
    let card = fs::read_to_string(bench.path("model/last/README.md")).unwrap();
    has(&card, &["`clip`", "`bridger`", "`lora`", "`head`", "loss"]);

    let report = bench.eval(&["--split", "val", "--json"]).json();
    assert_eq!(
        (&report["split"], &report["count"]),
        (&"val".into(), &5.into())
    );
    let scores = report["scores"].as_object().unwrap();
    assert!(!scores.is_empty());
    for (name, score) in scores {
        let score = score.as_f64().unwrap();
        assert!((0.0..=100.0).contains(&score), "{name}: {score}");
    }
    has(
        &bench.eval(&["--split", "val"]).results(),
        &["val: 5 sentences"],
    );
    let one = bench
        .eval(&["--split", "val", "--json", "--batch", "1"])
        .json();
    assert_eq!(one["scores"], report["scores"], "the batch does not matter");
    let message = bench.eval(&["--split", "test"]).error(2);
    has(
        &message,
        &["`test`", "`train` (2 objects)", "`val` (2 objects)"],
    );
    has(
        &bench.eval(&["--split", "val", "--batch", "0"]).error(2),
        &["--batch"],
    );

    let first = bench.segment("once").results();
    assert_eq!(first.lines().count(), 2, "{first}");
    bench.segment("twice").results();
    let expected = [
        "3-1.mask.png",
        "3-1.overlay.png",
        "3-2.mask.png",
        "3-2.overlay.png",
    ];
    assert_eq!(names(&bench.path("once")), expected);
    let own = image::open(bench.path("3.png")).unwrap();
    for name in expected {
        let [once, twice] = ["once", "twice"].map(|out| bench.path(out).join(name));
        assert_eq!(fs::read(&once).unwrap(), fs::read(twice).unwrap(), "{name}");
        let picture = image::open(once).unwrap();
        assert_eq!(
            (picture.width(), picture.height()),
            (own.width(), own.height())
        );
        if name.contains("mask") {
            let binary = |value: &u8| [0, 255].contains(value);
            assert!(picture.to_luma8().into_raw().iter().all(binary));
        }
    }
    let logits = ["once", "twice"].map(|out| fs::read(bench.path(&format!("{out}.safetensors"))));
    assert_eq!(logits[0].as_ref().unwrap(), logits[1].as_ref().unwrap());
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let bench = Bench::new();
    let once = bench.trained("recipe.toml", "model", &[]);
    assert!(once == bench.trained("recipe.toml", "second", &[]));
    assert!(
        once == bench.trained("model/recipe.toml", "third", &[]),
        "from the model's own recipe"
    );
    assert!(once != bench.trained("recipe.toml", "fourth", &["train.seed=1"]));
    // A model folder is replaced whole.
    assert!(once == bench.trained("recipe.toml", "fourth", &[]));
    let hidden: Vec<_> = names(bench.0.path())
        .into_iter()
        .filter(|n| n.starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn a_folder_with_what_a_model_is_made_from_is_never_replaced() {
    let bench = Bench::new();
    // A project: its own recipe in it makes no model of it.
    let before = names(bench.0.path());
    let project = twinspan!(
        "train",
        &bench.path("recipe.toml"),
        "--data",
        &bench.path("data.jsonl"),
        "--out",
        bench.0.path(),
    );
    has(&project.error(2), &["is not a model folder"]);
    assert_eq!(names(bench.0.path()), before);

    // A model that holds its own base, as imported ones do.
    bench.trained("recipe.toml", "model", &[]);
    openai_file(&bench.path("model/base.safetensors"));
    let setting = [
        "backbone.weights=model/base.safetensors",
        "backbone.tokenizer=bytes",
    ];
    let message = bench.train("recipe.toml", "model", &setting).error(2);
    has(&message, &["base.safetensors", "would be replaced"]);
    assert!(bench.path("model/base.safetensors").exists());
    bench.train("recipe.toml", "other", &setting).results();
}

#[test]
fn a_place_that_takes_no_folder_is_refused_before_training() {
    let bench = Bench::new();
    let empty = bench.path("empty");
    fs::create_dir(&empty).unwrap();
    let (recipe, data) = (bench.path("recipe.toml"), bench.path("data.jsonl"));
    for (out, said) in [
        (".", "does not end in a name"),
        ("/proc/model", "/proc/model"),
    ] {
        let arguments: [&OsStr; 6] = [
            "train".as_ref(),
            recipe.as_ref(),
            "--data".as_ref(),
            data.as_ref(),
            "--out".as_ref(),
            out.as_ref(),
        ];
        let run = terminal::run_in(&empty, arguments.map(OsStr::to_os_string).to_vec());
        assert_ne!(run.code, Some(0), "{run:?}");
        assert!(!run.stderr.contains("training"), "{run:?}");
        has(&run.stderr, &["error: ", said]);
    }
    assert!(names(&empty).is_empty());
}

#[test]
fn sentences_that_are_cut_are_told_before_training() {
    let bench = Bench::new();
    let long = ["cat"; 500].join(" ");
    let text = fs::read_to_string(bench.path("data.jsonl")).unwrap();
    write(
        bench.0.path(),
        "data.jsonl",
        text.replace("the thing", &long),
    );
    let said = bench.train("recipe.toml", "model", &[]);
    let [warning, training] = ["warning: ", "training "].map(|start| said.stderr.find(start));
    assert!(warning.unwrap() < training.unwrap(), "{said:?}");
    has(
        &said.stderr,
        &["4 of 10 sentences", "task.words = 24", "cat cat"],
    );
    said.results();
    let said = bench.eval(&["--split", "val"]);
    has(&said.stderr, &["warning: ", "are cut"]);
    said.results();
}

/// Writes the random base under OpenAI's names, as a file that was downloaded.
fn openai_file(path: &Path) {
    let recipe = Recipe::parse(RECIPE, "test").unwrap();
    let base = weights::random(&recipe.backbone.plugin.topology().unwrap(), 1).unwrap();
    let tensors = base.names().map(|name| {
        let weight = base.get(name).unwrap();
        (
            name.to_string(),
            weight.tensor(DType::F32, &Device::Cpu).unwrap(),
        )
    });
    let clip: Clip = recipe.backbone.options.clone().try_into().unwrap();
    let names = clip.openai_map("").unwrap();
    let written = names.write(tensors.collect()).unwrap();
    assert!(written.contains_key("transformer.resblocks.0.attn.in_proj_weight"));
    fs::write(path, safetensors::serialize(written, None).unwrap()).unwrap();
}

#[test]
fn a_folder_serves_as_the_weight_file_in_it_does() {
    let bench = Bench::new();
    let folder = bench.path("clip");
    fs::create_dir(&folder).unwrap();
    openai_file(&folder.join("model.safetensors"));
    let weights = "backbone.weights=clip";
    let message = bench.train("recipe.toml", "model", &[weights]).error(2);
    has(
        &message,
        &["clip has no vocabulary beside it", "tokenizer = "],
    );
    let settings = [weights, "backbone.tokenizer=bytes"];
    let of_bytes = bench.trained("recipe.toml", "folder", &settings);
    assert!(of_bytes == bench.trained("recipe.toml", "random", &[]));
    fs::write(folder.join("config.json"), "{").unwrap();
    let message = bench.train("recipe.toml", "model", &settings).error(1);
    has(&message, &["config.json", "is not the JSON it should be"]);
}

#[test]
fn training_leaves_the_weight_file_alone_and_the_model_knows_its_own() {
    let bench = Bench::new();
    let file = bench.path("clip.safetensors");
    openai_file(&file);
    let before = fs::read(&file).unwrap();
    let setting = [
        "backbone.weights=clip.safetensors",
        "backbone.tokenizer=bytes",
    ];
    let tuned = bench.trained("recipe.toml", "model", &setting);
    assert!(
        fs::read(&file).unwrap() == before,
        "the weight file changed"
    );
    // The same values under other names are the same base.
    assert!(tuned == bench.trained("recipe.toml", "random", &[]));

    let scores = bench.eval(&["--split", "val"]).results();
    let moved = bench.path("elsewhere.safetensors");
    fs::rename(&file, &moved).unwrap();
    let message = bench.eval(&["--split", "val"]).error(1);
    has(&message, &["clip.safetensors", "--weights"]);
    let moved = moved.to_str().unwrap();
    let again = bench
        .eval(&["--split", "val", "--weights", moved])
        .results();
    assert_eq!(again, scores);
    assert_eq!(
        bench
            .eval(&["--split", "val", "--weights", "random:1"])
            .results(),
        scores
    );

    let message = bench
        .eval(&["--split", "val", "--weights", "random:2"])
        .error(1);
    has(
        &message,
        &[
            "model/last was made on weights with digest",
            "but these have",
        ],
    );
}

#[test]
fn a_damaged_model_is_refused() {
    let bench = Bench::new();
    let whole = bench.trained("recipe.toml", "model", &[]);
    let file = bench.path("model/last/tuned.safetensors");
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    has(
        &bench.eval(&["--split", "val"]).error(1),
        &["tuned.safetensors", "cut short"],
    );
    fs::write(
        &file,
        safetensors::serialize(
            [(
                "a",
                &candle_core::Tensor::ones(2, DType::F32, &Device::Cpu).unwrap(),
            )],
            None,
        )
        .unwrap(),
    )
    .unwrap();
    has(
        &bench.eval(&["--split", "val"]).error(1),
        &["tuned.safetensors", "not written as a twinspan artifact"],
    );
    fs::write(&file, whole).unwrap();
    let recipe = fs::read_to_string(bench.path("model/last/recipe.toml")).unwrap();
    fs::write(
        bench.path("model/last/recipe.toml"),
        recipe.replace("rank = 2", "rank = 3"),
    )
    .unwrap();
    has(
        &bench.eval(&["--split", "val"]).error(1),
        &["lora", "shape"],
    );
}

#[test]
fn a_folder_that_is_no_model_is_kept_and_nothing_is_trained() {
    let bench = Bench::new();
    let occupied = bench.path("photos");
    fs::create_dir(&occupied).unwrap();
    write(&occupied, "1.txt", "mine");
    let said = bench.train("recipe.toml", "photos", &[]);
    assert!(!said.stderr.contains("training"), "{said:?}");
    has(&said.error(2), &["photos", "is not a model folder"]);
    assert_eq!(names(&occupied), ["1.txt"]);
    let said = bench.train("recipe.toml", "absent/model", &[]);
    has(&said.error(2), &["absent", "does not exist"]);

    // A picture that turns out bad in the middle leaves the older model as it was.
    let older = bench.trained("recipe.toml", "model", &[]);
    write(bench.0.path(), "1.png", "not a picture");
    let before = names(bench.0.path());
    has(
        &bench.train("recipe.toml", "model", &[]).error(1),
        &["1.png"],
    );
    assert_eq!(names(bench.0.path()), before);
    assert!(fs::read(bench.path("model/last/tuned.safetensors")).unwrap() == older);
}

#[test]
fn a_run_that_diverges_fails_and_leaves_the_model_as_it_was() {
    let bench = Bench::new();
    let before = bench.trained("recipe.toml", "model", &[]);
    let message = bench
        .train(
            "recipe.toml",
            "model",
            &["train.rate=1e300", "train.steps=1"],
        )
        .error(1);
    has(&message, &["diverged"]);
    assert!(fs::read(bench.path("model/last/tuned.safetensors")).unwrap() == before);
}
