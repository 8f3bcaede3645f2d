//! `twinspan merge` as a user runs it: the file it writes is the model without its adapters, in
//! each layout; what cannot be merged or written is refused by name, and nothing is written.

mod scene;
mod terminal;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use scene::{RECIPE, data, names, write};
use tempfile::TempDir;
use terminal::{Said, has};
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::weights;
use twinspan::{Encoder, Model};

const SENTENCES: [&str; 2] = ["the thing on the left", "a coloured shape"];
const FILE: [&str; 2] = [
    "backbone.weights=clip.safetensors",
    "backbone.tokenizer=bytes",
];
const FOLDING: &str = "lora[rank=2] + unfreeze@vision";

/// A CLIP's `[backbone]` table without its weights.
fn backbone() -> String {
    let (backbone, _) = RECIPE.split_once("[[adapter]]").unwrap();
    let backbone = backbone
        .replace("[backbone]\n", "")
        .replace("weights = \"random:1\"\n", "");
    backbone.replace("[backbone.model]", "[model]")
}

/// Writes the recipe's random base in a layout and an element type, as a file to train on.
fn base_file(recipe: &str, path: &Path, layout: &str, dtype: DType) {
    let recipe = Recipe::parse(recipe, "test").unwrap();
    let plugin = recipe.backbone.plugin.as_ref();
    let base = weights::random(&plugin.topology().unwrap(), 1).unwrap();
    let tensors = base.names().map(|name| {
        let tensor = base.get(name).unwrap().tensor(dtype, &Device::Cpu);
        (name.to_string(), tensor.unwrap())
    });
    let layout = weights::layout_named(plugin, layout).unwrap();
    weights::write(path, plugin, &layout, tensors.collect()).unwrap();
}

/// A folder with data, a recipe, and models trained for a few large steps.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        data(folder.path());
        write(folder.path(), "recipe.toml", RECIPE);
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, adapters: &str, settings: &[&str]) {
        let mut arguments: Vec<OsString> = vec!["train".into(), self.path("recipe.toml").into()];
        for (flag, name) in [("--data", "data.jsonl"), ("--out", "model")] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        arguments.extend(["--adapters".into(), adapters.into()]);
        for setting in settings.iter().chain(&["train.rate=1e-2"]) {
            arguments.extend(["--set".into(), setting.into()]);
        }
        terminal::run(arguments).results();
    }

    fn merge(&self, out: &str, more: &[&str]) -> Said {
        let mut arguments: Vec<OsString> = vec!["merge".into()];
        for (flag, name) in [("--model", "model"), ("--out", out)] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        arguments.extend(more.iter().map(|&a| a.into()));
        terminal::run(arguments)
    }

    /// The merged weights in a bare backbone.
    fn encoder(&self, file: &str) -> Encoder {
        let lines = format!(
            "weights = {:?}\ntokenizer = \"bytes\"\n{}",
            self.path(file),
            backbone()
        );
        Encoder::from_toml(&lines).unwrap()
    }
}

/// Vectors of pictures, patches and sentences.
fn vectors(encoder: &Encoder) -> Vec<f32> {
    let pictures: Vec<_> = (0..2).map(|number| scene::picture(number).0).collect();
    let tensors = [
        encoder.encode_image(&pictures),
        encoder.encode_patches(&pictures),
        encoder.encode_text(&SENTENCES),
    ];
    let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    tensors
        .into_iter()
        .flat_map(|t| values(t.unwrap()))
        .collect()
}

/// The largest difference, of the largest value.
fn distance(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let off = largest(&mut found.iter().zip(wanted).map(|(a, b)| (a - b).abs()));
    off / largest(&mut wanted.iter().map(|x| x.abs()))
}

fn tensors(file: &Path) -> (BTreeSet<String>, DType, String) {
    let bytes = fs::read(file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let format = header.metadata().clone().unwrap()["format"].clone();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let types: BTreeSet<&str> = tensors.values().map(|t| t.dtype().as_str()).collect();
    assert_eq!(types.len(), 1, "{types:?}");
    let dtype = tensors.values().next().unwrap().dtype();
    (tensors.into_keys().collect(), dtype, format)
}

#[test]
fn a_merged_file_gives_what_the_model_gives_in_every_layout() {
    let bench = Bench::new();
    bench.train(FOLDING, &[]);
    let model = Model::open(bench.path("model")).unwrap();
    let wanted = vectors(&model);
    let before = Encoder::from_toml(&format!("weights = \"random:1\"\n{}", backbone())).unwrap();
    assert!(distance(&vectors(&before), &wanted) > 1e-2);

    let transformers = "vision_model.encoder.layers.0.self_attn.q_proj.weight";
    let openai = "visual.transformer.resblocks.0.attn.in_proj_weight";
    let canonical = "vision.blocks.0.attention.query.weight";
    for (layout, called, mark) in [
        (&["--layout", "hf"][..], "transformers", transformers),
        (&["--layout", "transformers"], "transformers", transformers),
        (&["--layout", "open_clip"], "openai", openai),
        (&["--layout", "canonical"], "twinspan", canonical),
        // The base is no file.
        (&[], "twinspan", canonical),
    ] {
        let arguments = [layout, &["--overwrite"]].concat();
        let said = bench.merge("merged.safetensors", &arguments).results();
        has(
            &said,
            &[
                "merged.safetensors: ",
                &format!("layout `{called}`"),
                "folded in\n  lora      12 tensors: ",
                "\n  unfreeze  ",
                "left out\n  head  ",
                "parameters of task `referring-segmentation`",
                "checked\n  features ",
            ],
        );
        let (names, dtype, format) = tensors(&bench.path("merged.safetensors"));
        assert!(names.contains(mark), "{names:?}");
        assert_eq!((dtype, format.as_str()), (DType::F32, "pt"));
        let off = distance(&vectors(&bench.encoder("merged.safetensors")), &wanted);
        assert!(off < 1e-5, "{layout:?}: {off:.1e}");
    }
}

#[test]
fn a_base_from_a_file_gives_its_layout_and_its_type_to_the_merged_one() {
    let bench = Bench::new();
    // OpenAI's files are in half precision.
    let file = bench.path("clip.safetensors");
    base_file(RECIPE, &file, "openai", DType::F16);
    bench.train("lora[rank=2]@text", &FILE);

    let said = bench.merge("half.safetensors", &[]).results();
    has(
        &said,
        &[
            "tensors of f16",
            "layout `openai`",
            "differ from the model's by",
        ],
    );
    let (own, _, _) = tensors(&file);
    let (names, dtype, _) = tensors(&bench.path("half.safetensors"));
    assert_eq!((names, dtype), (own, DType::F16));
    bench
        .merge("single.safetensors", &["--dtype", "f32"])
        .results();
    let wanted = vectors(&Model::open(bench.path("model")).unwrap());
    let off = |file| distance(&vectors(&bench.encoder(file)), &wanted);
    assert!(off("single.safetensors") < 1e-5);
    let half = off("half.safetensors");
    assert!(half > 1e-5 && half < 1e-2, "{half}");

    // The model's own files stay.
    let [before, trained] = ["clip.safetensors", "model/last/tuned.safetensors"]
        .map(|name| fs::read(bench.path(name)).unwrap());
    // So do those of another model.
    fs::create_dir(bench.path("other")).unwrap();
    let others = bench.path("other/tuned.safetensors");
    fs::copy(bench.path("model/last/tuned.safetensors"), others).unwrap();
    for own in [
        "clip.safetensors",
        "model/last/tuned.safetensors",
        "other/tuned.safetensors",
    ] {
        let message = bench.merge(own, &["--overwrite"]).error(2);
        has(&message, &[own, "is a file that a model is made of"]);
    }
    assert!(fs::read(bench.path("clip.safetensors")).unwrap() == before);
    assert!(fs::read(bench.path("model/last/tuned.safetensors")).unwrap() == trained);
}

#[test]
fn positions_keep_the_size_of_the_base_unless_they_trained_in_another() {
    let bench = Bench::new();
    base_file(RECIPE, &bench.path("clip.safetensors"), "hf", DType::F32);
    let larger = [FILE[0], FILE[1], "backbone.input_size=96"];
    let table = "vision_model.embeddings.position_embedding.weight";
    for (adapters, rows) in [
        ("lora[rank=2]", 65),
        ("unfreeze[roles=[\"position\"]]", 145),
    ] {
        bench.train(adapters, &larger);
        let said = bench.merge("merged.safetensors", &["--overwrite"]);
        let warned = said.stderr.contains("warning: `vision.position` was trained in another size than the base's: [145, 32], not [65, 32]");
        assert_eq!(warned, rows == 145, "{said:?}");
        has(&said.results(), &["layout `transformers`"]);
        let bytes = fs::read(bench.path("merged.safetensors")).unwrap();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        assert_eq!(tensors[table].dims(), [rows, 32]);
        fs::remove_dir_all(bench.path("model")).unwrap();
    }
}

/// A ResNet with ETRIS's residual, which no file of a CLIP holds, its statistics training.
const RESNET: &str = r#"connect = true
[model]
embed_dim = 32
vision = { kind = "resnet", layers = [1, 1, 2, 1], width = 8, head_width = 32, image_size = 64 }
text = { layers = 3, width = 32, heads = 2, context = 32, vocabulary = 514 }
"#;

#[test]
fn statistics_are_merged_and_what_no_weight_file_holds_is_said() {
    let bench = Bench::new();
    let (_, rest) = RECIPE.split_once("[[adapter]]").unwrap();
    let backbone = RESNET.replace("[model]", "[backbone.model]");
    let recipe = format!(
        "[backbone]\nuse = \"clip\"\nweights = \"random:1\"\nbatch_norm = \"train\"\n{backbone}\n[[adapter]]{rest}"
    );
    write(bench.0.path(), "recipe.toml", &recipe);
    bench.train(
        "lora[rank=2]@conv2,query + unfreeze[roles=[\"norm\"]]@vision",
        &[],
    );
    let said = bench
        .merge("merged.safetensors", &["--layout", "open_clip"])
        .results();
    has(
        &said,
        &[
            "layout `openai`",
            "\n  batch norms  ",
            " running statistics: vision.stem.norm1.running_mean to ",
            "\n  backbone  5 tensors: vision.pool.connect.conv.weight to vision.pool.connect.norm.weight, which no weight file holds",
        ],
    );
    let message = bench
        .merge("other.safetensors", &["--layout", "hf"])
        .error(2);
    has(&message, &["no layout `hf`", "openai (or open_clip)"]);

    let model = Model::open(bench.path("model")).unwrap();
    let file = bench.path("merged.safetensors");
    let bare = format!("use = \"clip\"\nweights = {file:?}\ntokenizer = \"bytes\"\n{RESNET}");
    let bare = Encoder::from_toml(&bare).unwrap();
    let pictures: Vec<_> = (0..2).map(|number| scene::picture(number).0).collect();
    let pooled = |encoder: &Encoder| -> Vec<f32> {
        let vectors = encoder.encode_image(&pictures).unwrap();
        vectors.flatten_all().unwrap().to_vec1().unwrap()
    };
    let off = distance(&pooled(&bare), &pooled(&model));
    assert!(off < 1e-5, "{off:.1e}");
}

#[test]
fn what_does_not_fold_is_named_and_can_be_left_out() {
    let bench = Bench::new();
    bench.train(
        "bridger[dim=16, heads=2] + lora[rank=2] + lora[rank=2]@text.up",
        &[],
    );
    let before = names(bench.0.path());
    let message = bench.merge("merged.safetensors", &[]).error(2);
    has(
        &message,
        &[
            "`bridger` does not fold into the weights: it moves the streams of both towers",
            "merge without it",
            "\n  to merge the others: --without bridger",
        ],
    );
    let message = bench
        .merge("merged.safetensors", &["--without", "bridge"])
        .error(2);
    has(
        &message,
        &["`bridge`", "did you mean `bridger`", "lora, lora-2"],
    );
    assert_eq!(names(bench.0.path()), before);

    let without = ["--without", "bridger", "--without", "lora"];
    let said = bench.merge("merged.safetensors", &without).results();
    has(
        &said,
        &[
            "folded in\n  lora-2  3 tensors: text.blocks.0.mlp.up.weight to text.blocks.2.mlp.up.weight",
            "left out\n  bridger  by --without\n  lora     by --without\n  head     ",
        ],
    );
    let mut model = Model::open(bench.path("model")).unwrap();
    model.disable("bridger").unwrap();
    model.disable("lora").unwrap();
    let off = distance(
        &vectors(&bench.encoder("merged.safetensors")),
        &vectors(&model),
    );
    assert!(off < 1e-5, "{off:.1e}");

    let nothing = [
        "--without",
        "bridger",
        "--without",
        "lora",
        "--without",
        "lora-2",
    ];
    let said = bench.merge("base.safetensors", &nothing).results();
    has(
        &said,
        &["nothing  these are the weights the model was made on"],
    );
}

#[test]
fn a_file_is_written_where_it_was_asked_for_or_not_at_all() {
    let bench = Bench::new();
    bench.train("lora[rank=2]", &[]);
    write(bench.0.path(), "mine.safetensors", "mine");
    fs::create_dir(bench.path("folder.safetensors")).unwrap();
    let before = names(bench.0.path());
    let refused = |out: &str, more: &[&str], parts: &[&str]| {
        has(&bench.merge(out, more).error(2), parts);
        assert_eq!(names(bench.0.path()), before);
    };
    refused(
        "mine.safetensors",
        &[],
        &["is there already", "--overwrite"],
    );
    refused("folder.safetensors", &["--overwrite"], &["is a folder"]);
    refused("merged.bin", &[], &["does not end in .safetensors"]);
    refused(
        "absent/merged.safetensors",
        &[],
        &["--out", "absent does not exist"],
    );
    refused(
        "merged.safetensors",
        &["--layout", "open-clip"],
        &[
            "no layout `open-clip` (did you mean `open_clip`?)",
            "twinspan (or canonical), openai (or open_clip), open_clip with custom text (or custom_text), transformers (or hf)",
        ],
    );
    assert_eq!(fs::read(bench.path("mine.safetensors")).unwrap(), b"mine");
    let message = twinspan!("merge", "--model", bench.0.path(), "--out", "x.safetensors").error(2);
    has(&message, &["is not a model folder"]);
    let help = twinspan!("merge", "--help").results();
    has(
        &help,
        &[
            "transformers, or hf",
            "--without",
            "--dtype",
            "The head is the",
        ],
    );
    bench.merge("mine.safetensors", &["--overwrite"]).results();
    bench.encoder("mine.safetensors");
}
