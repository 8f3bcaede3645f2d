//! Wrong files, wrong names and odd but honest input: the first are refused by name, with what
//! would be right, and the last is served.

mod scene;
mod terminal;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageEncoder, Rgb, RgbImage, RgbaImage};
use scene::{RECIPE, names, picture, write};
use tempfile::TempDir;
use terminal::{Said, has};
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::{Error, weights};

/// A folder with data, a recipe, and a model trained for one step.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        scene::data(folder.path());
        write(folder.path(), "recipe.toml", RECIPE);
        Self(folder)
    }

    fn trained() -> Self {
        let bench = Self::new();
        bench.train(&["train.steps=1"]).results();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, settings: &[&str]) -> Said {
        let mut arguments = vec!["train".into(), self.path("recipe.toml").into()];
        arguments.push("--overwrite".into());
        let paths = [("--data", "data.jsonl"), ("--out", "model")];
        for (flag, name) in paths {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        for setting in settings {
            arguments.extend(["--set".into(), setting.into()]);
        }
        terminal::run(arguments)
    }

    /// The message of a training that fails and leaves nothing behind.
    fn refusal(&self, code: i32, settings: &[&str]) -> String {
        let before = names(self.0.path());
        let message = self.train(settings).error(code);
        assert_eq!(names(self.0.path()), before, "{message}");
        message
    }

    fn segment(&self, image: &Path, sentence: &str) -> Said {
        twinspan!(
            "segment",
            "--model",
            &self.path("model"),
            "--image",
            image,
            "--text",
            sentence,
            "--out",
            &self.path("masks"),
            "--json",
        )
    }

    /// Segments and gives width and height of the mask.
    fn mask_of(&self, image: &Path) -> (u32, u32) {
        let rows = self.segment(image, "the thing").json();
        let mask = rows[0]["mask"].as_str().unwrap();
        let overlay = rows[0]["overlay"].as_str().unwrap();
        let sizes = [mask, overlay].map(|file| image::open(file).unwrap());
        let sizes = sizes.map(|picture| (picture.width(), picture.height()));
        assert_eq!(sizes[0], sizes[1]);
        assert_eq!(rows[0]["width"], sizes[0].0);
        sizes[0]
    }
}

/// Named tensors, to be changed.
type Tensors = Vec<(String, Tensor)>;

fn jpeg(picture: &RgbImage, exif: Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new(&mut bytes);
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).unwrap();
    }
    encoder.encode_image(picture).unwrap();
    bytes
}

/// EXIF with an orientation and nothing else.
fn orientation(value: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([value, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let bench = Bench::trained();
    let folder = bench.0.path();
    let whole = jpeg(&picture(0).0, None);
    let cut = write(folder, "cut.jpg", &whole[..whole.len() / 2]);
    let text = write(folder, "notes.png", "a red square");
    let empty = write(folder, "empty.png", "");
    for (file, said) in [
        (&cut, "ends before its picture does"),
        (&text, "is not a picture; PNG, JPEG"),
        (&empty, "is empty"),
        (&bench.path("absent.png"), "cannot be read"),
        (&folder.to_path_buf(), "cannot be read"),
    ] {
        let message = bench.segment(file, "the thing").error(1);
        has(&message, &[&file.display().to_string(), said]);
    }
    assert!(!bench.path("masks").exists());

    // The same in a data file, whose message names the picture.
    fs::copy(&cut, bench.path("1.png")).unwrap();
    let message = bench.refusal(1, &["train.batch=4"]);
    has(&message, &["1.png", "ends before its picture does"]);
}

#[test]
fn a_mask_of_another_size_is_refused_by_name() {
    let bench = Bench::new();
    GrayImage::new(64, 57)
        .save(bench.path("0.mask.png"))
        .unwrap();
    let message = bench.refusal(1, &["train.batch=4"]);
    has(&message, &["0.mask.png", "64 x 57", "64 x 56"]);
}

#[test]
fn weights_that_do_not_fit_are_refused_by_tensor_with_the_nearest() {
    let bench = Bench::new();
    let recipe = Recipe::parse(RECIPE, "test").unwrap();
    let base = weights::random(&recipe.backbone.plugin.topology().unwrap(), 1).unwrap();
    let save = |change: &dyn Fn(&mut Tensors)| {
        let tensor = |name: &str| {
            let weight = base.get(name).unwrap();
            weight.tensor(DType::F32, &Device::Cpu).unwrap()
        };
        let mut tensors: Vec<_> = base.names().map(|n| (n.to_string(), tensor(n))).collect();
        change(&mut tensors);
        safetensors::serialize(tensors, None).unwrap()
    };
    let file = bench.path("weights.safetensors");
    let setting = [
        "train.steps=1",
        "backbone.weights=weights.safetensors",
        "backbone.tokenizer=bytes",
    ];
    let place = |tensors: &[(String, Tensor)]| {
        let at = tensors.iter().position(|(n, _)| n == "text.norm.bias");
        at.unwrap()
    };

    let whole = save(&|_| {});
    fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    has(
        &bench.refusal(1, &setting),
        &["weights.safetensors", "cut short: 100 of its"],
    );

    let lacking = save(&|tensors| {
        let at = place(tensors);
        tensors.remove(at);
    });
    fs::write(&file, lacking).unwrap();
    has(
        &bench.refusal(1, &setting),
        &["weights.safetensors", "1 missing", "`text.norm.bias`"],
    );

    let extra = save(&|tensors| {
        let more = tensors[place(tensors)].1.clone();
        tensors.push(("text.norm.extra".into(), more));
    });
    fs::write(&file, extra).unwrap();
    has(
        &bench.refusal(1, &setting),
        &["weights.safetensors", "1 extra", "`text.norm.extra`"],
    );

    let renamed = save(&|tensors| {
        let at = place(tensors);
        tensors[at].0 = "text.norm.bais".into();
    });
    fs::write(&file, renamed).unwrap();
    has(
        &bench.refusal(1, &setting),
        &[
            "`text.norm.bias` is missing",
            "nearest unused",
            "`text.norm.bais`",
        ],
    );

    fs::write(&file, "PK or not, this is text").unwrap();
    has(
        &bench.refusal(1, &setting),
        &["weights.safetensors", "looks like"],
    );

    fs::write(&file, save(&|_| {})).unwrap();
    bench.train(&setting).results();
}

#[test]
fn trained_weights_without_their_vocabulary_are_refused() {
    let bench = Bench::new();
    let wider = RECIPE.replace("vocabulary = 514", "vocabulary = 600");
    let recipe = write(bench.0.path(), "recipe.toml", &wider);
    let topology = Recipe::open(&recipe)
        .unwrap()
        .backbone
        .plugin
        .topology()
        .unwrap();
    let base = weights::random(&topology, 1).unwrap();
    let tensors = base.names().map(|name| {
        let weight = base.get(name).unwrap();
        (name, weight.tensor(DType::F32, &Device::Cpu).unwrap())
    });
    let bytes = safetensors::serialize(tensors, None).unwrap();
    write(bench.0.path(), "weights.safetensors", bytes);
    let setting = "backbone.weights=weights.safetensors";
    let message = bench.refusal(2, &[setting]);
    has(&message, &["[backbone]", "tokenizer = ", "\"bytes\""]);
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backbones/tests/tokenizer_data");
    let named = format!("backbone.tokenizer={}", tiny.display());
    bench.train(&[setting, &named]).results();
    bench.train(&[]).results();
}

#[test]
fn a_misspelt_plugin_field_or_site_lists_the_possible_ones() {
    let bench = Bench::new();
    for (setting, parts) in [
        (
            "backbone.use=clipp",
            &["`clipp`", "did you mean `clip`", "clip"][..],
        ),
        (
            "adapter.0.use=brigder",
            &["`brigder`", "`bridger`", "lora", "unfreeze"],
        ),
        ("task.use=segmentation", &["referring-segmentation"]),
        ("adapter.1.rnak=4", &["lora", "`rnak`", "`rank`", "`alpha`"]),
        ("adapter.0.fusion=magic", &["bridger", "`magic`", "auto"]),
        ("train.stepps=4", &["`stepps`", "`steps`", "`epochs`"]),
        ("task.words=long", &["referring-segmentation", "words"]),
        (
            "adapter.1.sites.projections=[\"qurey\"]",
            &["lora", "`qurey`", "`query`", "`value`"],
        ),
        (
            "adapter.1.sites.projections=[\"conv2\"]",
            &["`lora`", "conv2", "query, key, value, output"],
        ),
        (
            "adapter.1.sites.towers=[\"audio\"]",
            &["`audio`", "`vision`", "`text`"],
        ),
        ("adapter.1.sites.blocks=[7]", &["block 7", "blocks 0 to 2"]),
        ("adapter.0.stages=[9]", &["stage 9", "stages 1 to 3"]),
        ("adapter.3.rank=1", &["`adapter` is a list of 2"]),
        (
            "train.split=tset",
            &["`tset`", "`train` (2 objects)", "`val`"],
        ),
        (
            "sweep.seed=1",
            &["unknown section `sweep`", "backbone, adapter, task, train"],
        ),
        (
            "train.groups.lroa.rate=1e-3",
            &["`lroa`", "did you mean `lora`", "head"],
        ),
        (
            "backbone.weights=random:many",
            &["random:many", "random:SEED"],
        ),
        ("nonsense", &["KEY=VALUE"]),
    ] {
        let message = bench.refusal(2, &[setting]);
        has(&message, parts);
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn odd_pictures_get_masks_of_their_own_size() {
    let bench = Bench::trained();
    let folder = bench.0.path();
    let png = |name: &str, picture: DynamicImage| {
        let path = folder.join(name);
        picture.save(&path).unwrap();
        path
    };
    let dot = png("dot.png", RgbImage::from_pixel(1, 1, Rgb([9, 9, 9])).into());
    assert_eq!(bench.mask_of(&dot), (1, 1));
    let wide = png("wide.png", GrayImage::new(12_000, 3).into());
    assert_eq!(bench.mask_of(&wide), (12_000, 3));
    let grey = png(
        "grey.png",
        DynamicImage::ImageLuma16(image::ImageBuffer::new(20, 30)),
    );
    assert_eq!(bench.mask_of(&grey), (20, 30));
    let alpha = png("alpha.png", RgbaImage::new(31, 17).into());
    assert_eq!(bench.mask_of(&alpha), (31, 17));

    // A quarter turn, as phones store it; the same pixels upright give the same mask.
    let (upright, _) = picture(1);
    let stored = image::imageops::rotate270(&upright);
    let turned = write(folder, "turned.jpg", jpeg(&stored, Some(orientation(6))));
    assert_eq!(bench.mask_of(&turned), upright.dimensions());
    let decoded = image::load_from_memory(&jpeg(&stored, None)).unwrap();
    let same = png("same.png", decoded.rotate90());
    assert_eq!(bench.mask_of(&same), upright.dimensions());
    let [a, b] = ["turned", "same"]
        .map(|name| fs::read(bench.path("masks").join(format!("{name}-1.mask.png"))).unwrap());
    assert_eq!(a, b);
}

#[test]
fn an_empty_sentence_is_refused_and_any_other_taken() {
    let bench = Bench::trained();
    let image = bench.path("0.png");
    for blank in ["", "  \t"] {
        let message = bench.segment(&image, blank).error(2);
        has(&message, &["sentence 1", "blank"]);
    }
    for sentence in ["🐈", "左边的猫", "<|endoftext|>", "the RED one!"] {
        let rows = bench.segment(&image, sentence).json();
        assert_eq!(rows[0]["sentence"], sentence);
    }
    let long = ["cat"; 500].join(" ");
    let said = bench.segment(&image, &long);
    has(&said.stderr, &["warning: sentence 1 is longer than 24 ids"]);
    said.results();
}

#[test]
fn a_data_file_with_a_mistake_is_refused_by_its_line() {
    let bench = Bench::new();
    let good = r#"{"image": "0.png", "mask": "0.mask.png", "sentences": ["it"]}"#;
    for (line, parts) in [
        (
            "{\"image\": \"0.png\"",
            &["data.jsonl:2", "ends before"][..],
        ),
        (
            r#"{"image": "0.png", "sentences": ["it"]}"#,
            &["data.jsonl:2", "none of `mask`, `polygons` and `rle`"],
        ),
        (
            r#"{"image": "9.png", "mask": "0.mask.png", "sentences": ["it"]}"#,
            &["9.png (line 2)"],
        ),
        (
            r#"{"image": "0.png", "mask": "0.mask.png", "sentences": [" "]}"#,
            &["data.jsonl:2", "sentence 1 is blank"],
        ),
        (
            r#"{"image": "0.png", "mask": "0.mask.png", "sentence": "it"}"#,
            &["data.jsonl:2", "`sentence`", "`sentences`"],
        ),
    ] {
        write(bench.0.path(), "data.jsonl", format!("{good}\n{line}\n"));
        has(&bench.refusal(1, &[]), parts);
    }
}

/// An adapter whose vision blocks look at the end of the text tower.
mod looker {
    use serde::{Deserialize, Serialize};
    use twinspan::sdk::prelude::*;

    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct Looker {
        sites: Sites,
    }

    impl Plugin for Looker {
        const NAME: &'static str = "looker";
        const ABOUT: &'static str = "reads the sentence in every block of the vision tower";
        const OPTIONS: &'static [Opt] = &[Opt::sites("MLPs of the vision tower")];
    }

    impl Adapter for Looker {
        fn wants(&self) -> Vec<Want> {
            let vision = Sites {
                towers: vec![Tower::Vision],
                ..self.sites.clone()
            };
            vec![Want::Branches {
                sites: vision,
                default: &[Branch::Mlp],
            }]
        }

        fn reads(&self, _slot: &Slot) -> Vec<Tap> {
            vec![Tap::text(At::Final)]
        }

        fn install(&self, _: &[Slot], _: &mut Params, _: &mut Hooks) -> Result<Installed> {
            Ok(Box::new(Idle))
        }
    }

    register!(adapter: Looker);
}

#[test]
fn two_adapters_that_wait_for_each_other_are_named() {
    let cyclic = RECIPE.replace("use = \"lora\"\nrank = 2", "use = \"looker\"");
    let recipe = Recipe::parse(&cyclic, "test").unwrap();
    let error = twinspan::sdk::plan::plan(&recipe).unwrap_err();
    assert!(matches!(error, Error::Cycle { .. }), "{error}");
    assert!(error.is_wrong_use());
    has(&error.to_string(), &["`bridger`", "`looker`", "text.final"]);

    let alone = cyclic.replace(
        "use = \"bridger\"\ndim = 16\nheads = 2",
        "use = \"unfreeze\"",
    );
    let recipe = Recipe::parse(&alone, "test").unwrap();
    twinspan::sdk::plan::plan(&recipe).unwrap();
}
