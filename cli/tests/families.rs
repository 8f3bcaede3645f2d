//! Every family with every adapter and every task at small size: what is allowed trains, is saved
//! and opened; what is refused is refused by name.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use twinspan as _;
use twinspan::sdk::artifact;
use twinspan::sdk::parameter::Init;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Batch;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Result, weights};

/// Small models, each with a part that the others lack.
const FAMILIES: [(&str, &str); 7] = [
    (
        "vit",
        r#"use = "clip"
[backbone.model]
embed_dim = 24
vision = { kind = "vit", layers = 3, width = 16, heads = 2, patch = 8, image_size = 32 }
text = { layers = 3, width = 32, heads = 2, context = 16, vocabulary = 514 }"#,
    ),
    (
        "open_clip's vit",
        r#"use = "clip"
[backbone.model]
embed_dim = 24
activation = "gelu"
vision = { kind = "vit", layers = 3, width = 24, head_width = 12, mlp = 40, patch = 8, image_size = 32, pooling = "mean", no_norm_in = true, norm_pooled = true }
text = { layers = 3, width = 16, heads = 2, context = 16, vocabulary = 520, last = { padding = 0, end = 513 }, no_causal_mask = true, joint_bias = true }"#,
    ),
    (
        "resnet",
        r#"use = "clip"
[backbone.model]
embed_dim = 24
vision = { kind = "resnet", layers = [1, 1, 1, 1], width = 4, head_width = 32, image_size = 64 }
text = { layers = 3, width = 16, heads = 2, context = 16, vocabulary = 514, end = 513 }"#,
    ),
    (
        "etris's resnet",
        r#"use = "clip"
connect = true
batch_norm = "train"
[backbone.model]
embed_dim = 24
activation = "gelu"
vision = { kind = "resnet", layers = [1, 1, 2, 1], width = 4, head_width = 32, image_size = 64 }
text = { layers = 3, width = 16, heads = 2, context = 16, vocabulary = 514 }"#,
    ),
    ("siglip", SIGLIP),
    (
        "siglip 2 without projection",
        r#"use = "siglip"
[backbone.model]
vision = { layers = 3, width = 24, heads = 2, activation = "gelu", patch = 8, image_size = 32 }
text = { layers = 3, width = 24, heads = 3, mlp = 40, no_projection = true, context = 16, vocabulary = 260, padding = 0 }"#,
    ),
    ("pocket", r#"use = "pocket""#),
];

/// Its pictures have 3 pixels beside the last whole patch.
const SIGLIP: &str = r#"use = "siglip"
[backbone.model]
vision = { layers = 3, width = 16, heads = 2, patch = 8, image_size = 35 }
text = { layers = 3, width = 32, heads = 2, context = 16, vocabulary = 259 }"#;

const BRIDGER: &str = "[[adapter]]\nuse = \"bridger\"\ndim = 8\nheads = 2\n";
const LORA: &str = "[[adapter]]\nuse = \"lora\"\nrank = 2\n";
const BIASES: &str = "[[adapter]]\nuse = \"unfreeze\"\n";
const POSITIONS: &str = "[[adapter]]\nuse = \"unfreeze\"\nroles = [\"position\"]\n";

fn adapters() -> [(&'static str, String); 7] {
    [
        ("none", String::new()),
        ("bridger", BRIDGER.into()),
        ("lora", LORA.into()),
        (
            "lora in vision",
            format!("{LORA}sites = {{ towers = [\"vision\"] }}\n"),
        ),
        ("bridger and lora", format!("{BRIDGER}{LORA}")),
        ("biases", BIASES.into()),
        ("positions", POSITIONS.into()),
    ]
}

/// Without dropout, so that a few steps on one batch lower its loss.
const SEGMENTATION: &str = r#"
[task]
use = "referring-segmentation"
words = 12
width = 16
layers = 1
heads = 2
ffn = 16
dropout = 0.0
"#;
const CLASSIFICATION: &str = r#"
[task]
use = "classification"
classes = ["disc", "red square"]
templates = ["{}"]
"#;
const LINEAR: &str = r#"
[task]
use = "classification"
classes = ["disc", "red square"]
head = "linear"
"#;
const RETRIEVAL: &str = "\n[task]\nuse = \"retrieval\"\n";

const TASKS: [(&str, &str); 4] = [
    ("segmentation", SEGMENTATION),
    ("classification", CLASSIFICATION),
    ("linear", LINEAR),
    ("retrieval", RETRIEVAL),
];

const STEPS: usize = 5;

fn recipe(family: &str, adapters: &str, task: &str) -> Recipe {
    // The table of sizes lies behind the weights.
    let (head, sizes) = family.split_once('\n').unwrap_or((family, ""));
    let text = format!(
        "[backbone]\n{head}\nweights = \"random:1\"\n{sizes}\n{adapters}{task}\n[train]\nrate = 1e-3\n"
    );
    Recipe::parse(&text, "test").unwrap()
}

fn model(recipe: &Recipe) -> Result<Tuned> {
    Tuned::new(recipe, weights::open(recipe)?, Compute::default())
}

fn noise(shape: &[usize]) -> Tensor {
    let drawn = Init::Normal(1.0).tensor(1, "pictures", shape, DType::F32, &Device::Cpu);
    drawn.unwrap()
}

fn ids(recipe: &Recipe, sentences: &[&str], words: usize) -> Tensor {
    let tokenizer = weights::tokenizer(recipe).unwrap();
    let ids: Vec<u32> = sentences
        .iter()
        .flat_map(|sentence| tokenizer.encode(sentence, words).ids)
        .collect();
    Tensor::from_vec(ids, (sentences.len(), words), &Device::Cpu).unwrap()
}

/// Two pictures and two sentences as the task's data has them.
fn batch(recipe: &Recipe) -> Batch {
    let side = recipe.backbone.plugin.preparation().size;
    let context = recipe.backbone.plugin.topology().unwrap().text.context;
    let words = match recipe.task.plugin.words() {
        0 => context,
        words => words,
    };
    let every = vec![(0, 0), (0, 1), (1, 0), (1, 1)];
    let (pairs, target) = match recipe.task.name {
        "referring-segmentation" => {
            let pairs = vec![(0, 0), (0, 1), (1, 1)];
            let truth: Vec<f32> = (0..3 * side * side).map(|i| ((i / 9) % 2) as f32).collect();
            let masks = Tensor::from_vec(truth, (3, 1, side, side), &Device::Cpu);
            (pairs, masks)
        }
        "retrieval" => (vec![(0, 0), (1, 1)], Tensor::new(&[0u32, 1], &Device::Cpu)),
        _ => (every, Tensor::new(&[1u32, 0], &Device::Cpu)),
    };
    Batch {
        images: noise(&[2, 3, side, side]),
        tokens: ids(recipe, &["disc", "red square"], words),
        examples: pairs.iter().map(|pair| pair.0 as usize).collect(),
        pairs,
        target: Some(target.unwrap()),
    }
}

fn bits(t: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// A loss in training, with the same draws each time.
fn loss(tuned: &Tuned, batch: &Batch) -> Tensor {
    tuned.loss(batch, &mut Pass::train(1)).unwrap()
}

fn trains_alone(tuned: &Tuned, batch: &Batch, pair: &str) {
    let store = loss(tuned, batch).backward().unwrap();
    let got: BTreeSet<_> = store.get_ids().map(|id| format!("{id:?}")).collect();
    for (name, trained) in &tuned.overlay.trained {
        let id = format!("{:?}", trained.var.id());
        assert!(got.contains(&id), "{pair}: `{name}` gets no gradient");
    }
    let trained = tuned.overlay.trained.len();
    assert_eq!(
        got.len(),
        trained,
        "{pair}: more than trains has a gradient"
    );
}

fn learns(tuned: &mut Tuned, recipe: &Recipe, batch: &Batch, pair: &str) {
    let value = |tuned: &Tuned| loss(tuned, batch).to_scalar::<f32>().unwrap();
    let before = value(tuned);
    let mut trainer = Trainer::new(tuned, &recipe.train, STEPS).unwrap();
    for _ in 0..STEPS {
        trainer.step(std::slice::from_ref(batch)).unwrap();
    }
    let after = value(tuned);
    assert!(after < before, "{pair}: {before} became {after}");
}

fn is_kept(tuned: &Tuned, recipe: &Recipe, batch: &Batch, pair: &str) {
    let logits = |tuned: &Tuned| bits(&tuned.logits(batch, &mut Pass::predict()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let metrics = serde_json::json!({});
    artifact::save(&path, recipe, tuned, &metrics, &|_| Ok(())).unwrap();
    let base = tuned.base.clone();
    let opened = artifact::open_on(&path, recipe, base, Compute::default()).unwrap();
    assert!(
        logits(&opened) == logits(tuned),
        "{pair}: opened, other bits"
    );
}

/// Why a pair cannot be, if it cannot; everything that it must keep otherwise.
fn tried(recipe: &Recipe, pair: &str) -> Option<String> {
    let (planned, made) = (plan(recipe), model(recipe));
    let (planned, mut tuned) = match (planned, made) {
        (Ok(planned), Ok(tuned)) => (planned, tuned),
        (planned, made) => {
            let why = planned.unwrap_err().to_string();
            assert_eq!(made.err().unwrap().to_string(), why, "{pair}");
            return Some(why);
        }
    };
    let held = tuned.overlay.trained.values().map(|t| t.var.elem_count());
    let counted = planned.adapter_parameters + planned.head_parameters;
    assert_eq!(counted, held.sum::<usize>(), "{pair}");
    if counted == 0 {
        return Trainer::new(&mut tuned, &recipe.train, STEPS)
            .err()
            .map(|e| e.to_string());
    }
    let batch = batch(recipe);
    trains_alone(&tuned, &batch, pair);
    learns(&mut tuned, recipe, &batch, pair);
    is_kept(&tuned, recipe, &batch, pair);
    None
}

#[test]
fn every_pair_trains_and_is_kept_or_is_refused_by_name() {
    let mut refused: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut allowed = 0;
    for (family, backbone) in FAMILIES {
        for (task, options) in TASKS {
            for (adapter, table) in &adapters() {
                let pair = format!("{adapter} under {task}");
                let recipe = recipe(backbone, table, options);
                match tried(&recipe, &format!("{family}, {pair}")) {
                    Some(why) => refused
                        .entry(format!("{pair}: {why}"))
                        .or_default()
                        .push(family),
                    None => allowed += 1,
                }
            }
        }
    }
    let lines: Vec<String> = refused
        .into_iter()
        .map(|(why, families)| match families.len() == FAMILIES.len() {
            true => why,
            false => format!("{why} [{}]", families.join(", ")),
        })
        .collect();
    insta::assert_snapshot!(format!("{allowed} allowed\n{}", lines.join("\n")), @"
    147 allowed
    bridger and lora under linear: task `classification` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    bridger and lora under retrieval: task `retrieval` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    bridger under linear: task `classification` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    bridger under retrieval: task `retrieval` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    lora under linear: `lora` acts at text.blocks.0, which task `classification` never reads: no gradient would reach it; restrict its sites
    none under classification: nothing trains: neither an adapter nor the head has parameters
    none under retrieval: nothing trains: neither an adapter nor the head has parameters
    ");
}

#[test]
fn what_a_task_reads_nowhere_of_siglip_is_left_out_unless_it_is_asked_for() {
    let of = |sites: &str, task: &str| {
        let lora = format!("{LORA}sites = {{ {sites} }}\n");
        plan(&recipe(SIGLIP, &lora, task))
    };
    let default = of("", SEGMENTATION).unwrap();
    assert_eq!(default.left_out, ["vision.pool.query"]);
    let sites = &default.adapters[0].sites;
    assert!(sites.contains(&"vision.pool.value".to_string()));
    assert!(!sites.contains(&"vision.pool.query".to_string()));
    // Named, those of the blocks are meant and reached.
    let named = of(r#"projections = ["query", "key"]"#, SEGMENTATION).unwrap();
    assert_eq!(named.left_out, ["vision.pool.query", "vision.pool.key"]);
    let blocks = of(r#"projections = ["query"], blocks = [1]"#, SEGMENTATION).unwrap();
    assert!(blocks.left_out.is_empty());
    // No sentence is read, and a sentence's vector is projected in one place.
    let joint = of(r#"projections = ["joint"]"#, LINEAR).unwrap_err();
    insta::assert_snapshot!(joint, @"`lora` acts at text.pooled, which task `classification` never reads: no gradient would reach it; restrict its sites");
    let retrieval = of("", RETRIEVAL).unwrap();
    assert!(retrieval.left_out.is_empty());
}
