//! A checkpoint as ETRIS releases it becomes a model folder that computes the same and needs
//! nothing else; a broken one becomes nothing, and the message says what is broken.

mod golden;
mod scene;
mod terminal;
mod torch_file;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use golden::{Golden, relative};
use scene::names;
use tempfile::TempDir;
use terminal::{Said, has};
use torch_file::{Value, dict};
use twinspan::etris::Etris;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::task::Batch;
use twinspan::sdk::tuned::Compute;
use twinspan::tasks::letterbox::{Letterbox, Normalisation};
use twinspan::tasks::picture;

/// A folder with a checkpoint and a vocabulary of eight merges, which fits 600 rows.
struct Bench {
    folder: TempDir,
    golden: Golden,
}

impl Bench {
    fn new(model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backbones/tests/tokenizer_data");
        for name in ["vocab.json", "merges.txt"] {
            fs::copy(tiny.join(name), folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            golden: Golden::open(model),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `best_model.pth` as ETRIS's training script does.
    fn save(&self) -> PathBuf {
        let path = self.path("best_model.pth");
        torch_file::save(&path, &released(&self.golden));
        path
    }

    fn import(&self, tokenizer: &str) -> Said {
        twinspan!(
            "import",
            "etris",
            &self.path("best_model.pth"),
            "--tokenizer",
            &self.path(tokenizer),
            "--out",
            &self.path("model"),
            "--bridge-heads",
            "4",
            "--input-size",
            "96",
        )
    }

    /// The message of an import that fails and leaves nothing behind.
    fn refusal(&self) -> String {
        let before = names(self.folder.path());
        let message = self.import("vocab.json").error(1);
        assert_eq!(names(self.folder.path()), before, "{message}");
        message
    }
}

/// What ETRIS's `train.py` saves.
fn released(golden: &Golden) -> Value {
    let weights = golden.weights.iter().map(|(name, tensor)| {
        let stored = match tensor.dtype() {
            DType::F64 => tensor.to_dtype(DType::F32).unwrap(),
            _ => tensor.clone(),
        };
        (format!("module.{name}"), Value::Tensor(stored))
    });
    let average = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
    let state = dict([
        ("step", Value::Int(70_000)),
        ("exp_avg", Value::Tensor(average)),
    ]);
    let group = dict([
        ("lr", Value::Float(1e-5)),
        (
            "betas",
            Value::Tuple(vec![Value::Float(0.9), Value::Float(0.999)]),
        ),
        ("params", Value::List(vec![Value::Int(0), Value::Int(1)])),
    ]);
    dict([
        ("epoch", Value::Int(50)),
        ("cur_iou", Value::Float(0.7)),
        ("best_iou", Value::Float(0.71)),
        ("prec", dict([("Pr@50", Value::Float(0.8))])),
        ("state_dict", Value::Ordered(weights.collect())),
        (
            "optimizer",
            dict([
                ("state", Value::Dict(vec![(Value::Int(0), state)])),
                ("param_groups", Value::List(vec![group])),
            ]),
        ),
        (
            "scheduler",
            dict([
                (
                    "milestones",
                    Value::Counter(vec![(Value::Int(35), Value::Int(1))]),
                ),
                ("gamma", Value::Float(0.1)),
            ]),
        ),
    ])
}

/// Logits of the golden model itself, each sentence beside its own copy of the picture.
fn direct(golden: &Golden, image: &Path, vocabulary: &Path, sentences: &[&str]) -> Tensor {
    let etris: Etris = golden.read();
    let plugin = &etris.recipe.backbone.plugin;
    let preparation = plugin.preparation();
    let tokenizer = plugin.tokenizer(Some(vocabulary)).unwrap();
    let picture = picture::open(image).unwrap();
    let size = preparation.size;
    let letterbox =
        Letterbox::new(size, picture.width() as usize, picture.height() as usize).unwrap();
    let normalisation = Normalisation {
        mean: preparation.mean,
        std: preparation.std,
    };
    let planes = letterbox.picture(&picture, &normalisation).unwrap();
    let one = Tensor::from_vec(planes, (1, 3, size, size), &Device::Cpu).unwrap();
    let images = Tensor::cat(&vec![one; sentences.len()], 0).unwrap();
    let words = etris.recipe.task.plugin.words();
    let ids: Vec<u32> = sentences
        .iter()
        .flat_map(|s| tokenizer.encode(s, words).ids)
        .collect();
    let tokens = Tensor::from_vec(ids, (sentences.len(), words), &Device::Cpu).unwrap();
    let batch = Batch::aligned(images, tokens, None).unwrap();
    let tuned = etris.model(Compute::default()).unwrap();
    tuned.logits(&batch, &mut Pass::predict()).unwrap()
}

#[test]
fn an_imported_model_computes_what_the_checkpoint_does_and_needs_nothing_else() {
    for model in ["etris_vit", "etris_rn"] {
        let bench = Bench::new(model);
        let checkpoint = bench.save();
        let said = bench.import("vocab.json").results();
        assert!(said.lines().count() == 1, "{said}");

        let data = scene::data(bench.folder.path());
        let image = bench.path("0.png");
        let sentences = ["the left cat", "a red square, 左"];
        let expected = direct(&bench.golden, &image, &bench.path("vocab.json"), &sentences);

        fs::remove_file(checkpoint).unwrap();
        fs::remove_file(bench.path("vocab.json")).unwrap();
        fs::remove_file(bench.path("merges.txt")).unwrap();
        fs::rename(bench.path("model"), bench.path("moved")).unwrap();
        let file = bench.path("logits.safetensors");
        twinspan!(
            "segment",
            "--model",
            &bench.path("moved"),
            "--image",
            &image,
            "--text",
            sentences[0],
            "--text",
            sentences[1],
            "--out",
            &bench.path("masks"),
            "--logits",
            &file,
        )
        .results();
        let got = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let off = relative(&got["logits"], &expected);
        assert!(off < 1e-5, "{model}: {off:.1e}");

        let report = twinspan!(
            "eval",
            "--model",
            &bench.path("moved"),
            "--data",
            &data,
            "--split",
            "val",
            "--json",
        )
        .json();
        assert_eq!(report["count"], 5, "{report}");
    }
}

#[test]
fn every_form_of_vocabulary_goes_into_the_folder() {
    let bench = Bench::new("etris_vit");
    bench.save();
    let pair = bench.path("pair");
    fs::create_dir(&pair).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(bench.path(name), pair.join(name)).unwrap();
    }
    // The last is the folder by a path without a name.
    for form in ["vocab.json", "merges.txt", "pair", "pair/.."] {
        bench.import(form).results();
        let recipe = twinspan::sdk::artifact::recipe(&bench.path("model"), None).unwrap();
        let stored = PathBuf::from(&recipe.weights.tokenizer);
        assert!(stored.starts_with(bench.path("model")), "{form}");
        let tokenizer = recipe.backbone.plugin.tokenizer(Some(&stored)).unwrap();
        assert_eq!(tokenizer.vocabulary(), 522, "{form}");
    }
}

#[test]
fn a_checkpoint_with_a_tensor_missing_is_refused_by_its_name() {
    let mut bench = Bench::new("etris_vit");
    for name in [
        "neck.f4_proj.0.weight",
        "decoder.norm.bias",
        // By these the layers of a list were counted, and sizes read.
        "backbone.transformer.resblocks.3.ln_1.weight",
        "decoder.layers.1.norm1.weight",
        "bridger.linear1.2.weight",
        "neck.txt_proj.weight",
        "backbone.visual.proj",
    ] {
        let tensor = bench.golden.weights.remove(name).unwrap();
        bench.save();
        has(&bench.refusal(), &["best_model.pth", &format!("`{name}`")]);
        bench.golden.weights.insert(name.into(), tensor);
    }
}

#[test]
fn a_checkpoint_with_a_tensor_too_many_is_refused_by_its_name() {
    let mut bench = Bench::new("etris_rn");
    for name in ["neck.extra.weight", "backbone.visual.layer5.0.conv1.weight"] {
        let ones = Tensor::ones(3, DType::F64, &Device::Cpu).unwrap();
        bench.golden.weights.insert(name.into(), ones);
        bench.save();
        has(&bench.refusal(), &["best_model.pth", &format!("`{name}`")]);
        bench.golden.weights.remove(name);
    }
}

#[test]
fn a_checkpoint_with_a_tensor_of_another_shape_is_refused_by_its_name() {
    let mut bench = Bench::new("etris_vit");
    for name in [
        "proj.txt.bias",
        "decoder.layers.1.norm2.weight",
        // A width is read off this one.
        "neck.txt_proj.weight",
    ] {
        let wrong = Tensor::ones(7, DType::F64, &Device::Cpu).unwrap();
        let tensor = bench.golden.weights.insert(name.into(), wrong).unwrap();
        bench.save();
        has(&bench.refusal(), &["best_model.pth", name]);
        bench.golden.weights.insert(name.into(), tensor);
    }
}

#[test]
fn a_file_that_is_cut_or_no_checkpoint_is_refused_by_its_name() {
    let bench = Bench::new("etris_vit");
    let path = bench.save();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    has(&bench.refusal(), &["best_model.pth", "cut short"]);
    fs::write(&path, "<html>404</html>").unwrap();
    has(
        &bench.refusal(),
        &["best_model.pth", ".safetensors", ".pth"],
    );
    fs::remove_file(&path).unwrap();
    has(&bench.refusal(), &["best_model.pth"]);
}

#[test]
fn a_vocabulary_of_another_model_is_refused() {
    let bench = Bench::new("etris_vit");
    bench.save();
    let merges: String = (0..200u32)
        .map(|i| {
            let [a, b] = [i / 20, i % 20].map(|n| char::from(b'a' + n as u8));
            format!("{a} {b}\n")
        })
        .collect();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, format!("#version\n{merges}").as_bytes()).unwrap();
    fs::write(bench.path("large.gz"), packer.finish().unwrap()).unwrap();
    let before = names(bench.folder.path());
    let message = bench.import("large.gz").error(2);
    has(&message, &["large.gz", "600 rows"]);
    assert_eq!(names(bench.folder.path()), before);
}
