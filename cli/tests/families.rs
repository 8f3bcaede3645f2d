//! Every family with every adapter and every task at small size: what is allowed trains, is saved
//! and opened; what is refused is refused by name.
//! What towers do that read a whole context, and plans of the largest presets.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use twinspan as _;
use twinspan::sdk::adapter::{Slot, Want};
use twinspan::sdk::artifact;
use twinspan::sdk::ops;
use twinspan::sdk::parameter::Init;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::site::{At, EmbedStep, Moment, Tap, Tower};
use twinspan::sdk::stream::{Form, SpanKind, Stream};
use twinspan::sdk::task::Batch;
use twinspan::sdk::testkit::{By, Scripted};
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Inputs, Tuned};
use twinspan::sdk::{Result, weights};

/// Small models, each with a part that the others lack.
const FAMILIES: [(&str, &str); 8] = [
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
    (
        "dinov2 beside clip",
        r#"use = "dinov2-clip"
positions = "offset"
input_size = 32
[backbone.model]
embed_dim = 20
vision = { layers = 3, width = 16, heads = 2, patch = 8, image_size = 48, registers = 2 }
text = { layers = 3, width = 32, heads = 2, context = 16, vocabulary = 514 }"#,
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
const DETRIS: &str = r#"
[[adapter]]
use = "dense-aligner"
dim = 16
attention_dim = 8
heads = 2
dropout = 0.0
[[adapter]]
use = "text-adapter"
dim = 16
"#;
const BIASES: &str = "[[adapter]]\nuse = \"unfreeze\"\n";
const POSITIONS: &str = "[[adapter]]\nuse = \"unfreeze\"\nroles = [\"position\"]\n";

fn adapters() -> [(&'static str, String); 8] {
    [
        ("none", String::new()),
        ("bridger", BRIDGER.into()),
        ("lora", LORA.into()),
        (
            "lora in vision",
            format!("{LORA}sites = {{ towers = [\"vision\"] }}\n"),
        ),
        ("bridger and lora", format!("{BRIDGER}{LORA}")),
        ("detris", DETRIS.into()),
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
    180 allowed
    bridger and lora under linear: task `classification` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    bridger and lora under retrieval: task `retrieval` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    bridger under linear: task `classification` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    bridger under retrieval: task `retrieval` reads vision.pooled by item, but with `bridger` it depends on the pair of picture and sentence
    detris under classification: `dense-aligner` matches no site: it asks for branches [mlp] at towers [vision]; the backbone offers convolution [resnet, etris's resnet]
    detris under linear: `dense-aligner` matches no site: it asks for branches [mlp] at towers [vision]; the backbone offers convolution [resnet, etris's resnet]
    detris under linear: task `classification` reads vision.pooled by item, but with `dense-aligner` it depends on the pair of picture and sentence [vit, open_clip's vit, siglip, siglip 2 without projection, dinov2 beside clip, pocket]
    detris under retrieval: `dense-aligner` matches no site: it asks for branches [mlp] at towers [vision]; the backbone offers convolution [resnet, etris's resnet]
    detris under retrieval: task `retrieval` reads vision.pooled by item, but with `dense-aligner` it depends on the pair of picture and sentence [vit, open_clip's vit, siglip, siglip 2 without projection, dinov2 beside clip, pocket]
    detris under segmentation: `dense-aligner` matches no site: it asks for branches [mlp] at towers [vision]; the backbone offers convolution [resnet, etris's resnet]
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

/// The families whose towers fill their whole context.
fn filling() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = FAMILIES.into_iter();
    all.filter(|(_, table)| table.contains("padding = 0") || *table == SIGLIP)
}

/// `text.embed`, `text.final` and `text.pooled` of sentences.
fn read(tuned: &Tuned, tokens: &Tensor) -> Result<[Stream; 3]> {
    let taps = [At::Embed, At::Final, At::Pooled].map(Tap::text);
    let inputs = Inputs {
        tokens: Some(tokens.clone()),
        ..Inputs::default()
    };
    let read = tuned.route(&taps)?.walk(&inputs, &mut Pass::predict())?;
    Ok(read.try_into().unwrap())
}

fn mask(stream: &Stream) -> Vec<Vec<u8>> {
    stream.word_padding().unwrap().unwrap().to_vec2().unwrap()
}

/// What words a task leaves out of the context is padding, as if written out.
#[test]
fn the_tower_pads_what_a_task_leaves_short() {
    assert_eq!(filling().count(), 3);
    for (family, table) in filling() {
        let recipe = recipe(table, "", SEGMENTATION);
        let tuned = model(&recipe).unwrap();
        let short = ids(&recipe, &["disc", "red square"], 12);
        let padding = weights::tokenizer(&recipe).unwrap().padding();
        let more = Tensor::full(padding, (2, 4), &Device::Cpu).unwrap();
        let long = Tensor::cat(&[&short, &more], 1).unwrap();
        let (short, long) = (read(&tuned, &short).unwrap(), read(&tuned, &long).unwrap());
        for (short, long) in short.iter().zip(&long) {
            assert!(bits(&short.data) == bits(&long.data), "{family}");
        }
        for item in mask(&short[1]) {
            let shown = item.iter().take_while(|hidden| **hidden == 0).count();
            assert!((5..=12).contains(&shown), "{family}: {shown} words");
            assert_eq!(item.len(), 16, "{family}");
            assert!(item[shown..].iter().all(|hidden| *hidden == 1), "{family}");
        }
    }
}

/// Puts three prompts in front of the words, before their positions.
fn prompts() -> Scripted {
    let want = Want::Streams {
        tower: Tower::Text,
        moments: vec![Moment::Embed(EmbedStep::Tokens)],
    };
    Scripted::new("prompts", vec![want], |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::stream) {
            let three = noise(&[1, 3, slot.stream.width]);
            let put = move |stream: Stream, _: &mut Pass| Ok(stream.insert(0, &three, "prompts")?);
            hooks.stream(slot, By(put));
        }
        Ok(())
    })
}

fn prompted(table: &str, task: &str) -> Recipe {
    let mut recipe = recipe(table, "", task);
    recipe.adapters.push(prompts().configured());
    recipe
}

#[test]
fn prompts_push_padding_out_and_keep_the_words() {
    for (family, table) in filling() {
        let recipe = prompted(table, SEGMENTATION);
        let tuned = model(&recipe).unwrap();
        let bare = model(&self::recipe(table, "", SEGMENTATION)).unwrap();
        let tokens = ids(&recipe, &["disc", "red square"], 12);
        let [with, last, _] = read(&tuned, &tokens).unwrap();
        let [without, ..] = read(&bare, &tokens).unwrap();

        assert_eq!(
            with.span(|kind| matches!(kind, SpanKind::Prompt(_))),
            Some((0, 3))
        );
        let Form::Tokens { end, .. } = &last.form else {
            panic!("{family}: words are no tokens");
        };
        assert_eq!(end, &[15, 15], "{family}");
        assert!(mask(&with) == mask(&last), "{family}");
        for (with, without) in mask(&last).iter().zip(&mask(&without)) {
            assert_eq!(with[..], without[..13], "{family}");
        }
        // Each word at its new place.
        let table = tuned.base.get("text.position").unwrap();
        let table = table.tensor(DType::F32, &Device::Cpu).unwrap();
        let at = |from: usize| table.narrow(0, from, 13).unwrap();
        let moved = (at(3) - at(0)).unwrap();
        let words = without.content().unwrap().narrow(1, 0, 13).unwrap();
        let off = (with.content().unwrap() - words.broadcast_add(&moved).unwrap()).unwrap();
        let off: f32 = off.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        assert!(off < 1e-6, "{family}: {off}");

        // Words are never pushed out.
        let full = ids(&recipe, &["disc", "a red square, left"], 16);
        let error = read(&tuned, &full).err().unwrap().to_string();
        assert_eq!(
            error,
            "19 tokens of text, prompts included, exceed the 16 positions of the backbone"
        );
    }
}

/// The stream with noise in the tokens that `hidden` marks.
fn disturbed(stream: &Stream, hidden: &Tensor) -> Stream {
    let noise = noise(stream.data.dims());
    let noise = noise.broadcast_mul(&hidden.unsqueeze(2).unwrap()).unwrap();
    stream.with(ops::add(&stream.data, &noise).unwrap())
}

#[test]
fn the_decoder_looks_at_words_alone() {
    for (family, table) in FAMILIES {
        let prompted = prompted(table, SEGMENTATION);
        for recipe in [recipe(table, "", SEGMENTATION), prompted] {
            let tuned = model(&recipe).unwrap();
            let mut features = tuned
                .forward(&batch(&recipe), &mut Pass::predict())
                .unwrap();
            let at = features.len() - 2;
            let logits = |features: &[Stream]| {
                bits(
                    &tuned
                        .head()
                        .forward(features, &mut Pass::predict())
                        .unwrap(),
                )
            };
            let (seen, words) = (logits(&features), features[at].clone());
            let Form::Tokens {
                padding: Some(padding),
                ..
            } = &words.form
            else {
                panic!("{family}: words without a mask");
            };
            let hidden = padding.to_dtype(DType::F32).unwrap();
            let prompts = words.span(|kind| matches!(kind, SpanKind::Prompt(_)));
            let prompts = prompts.map_or(0, |(_, len)| len);
            let place = Tensor::arange(0u32, hidden.dim(1).unwrap() as u32, &Device::Cpu).unwrap();
            let in_front = place
                .lt(prompts as u32)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap();
            let unseen = hidden.broadcast_add(&in_front).unwrap();
            assert!(unseen.sum_all().unwrap().to_scalar::<f32>().unwrap() > 3.0);
            features[at] = disturbed(&words, &unseen);
            assert!(logits(&features) == seen, "{family}: padding is seen");
            features[at] = disturbed(&words, &(1.0 - unseen).unwrap());
            assert!(logits(&features) != seen, "{family}: words are not seen");
        }
    }
}

/// Large models of each family, as a line of what a plan counts.
#[test]
fn large_presets_are_planned_without_weights() {
    let line = |family: &str, preset: &str, adapters: &str| {
        let table = format!("use = \"{family}\"\npreset = \"{preset}\"");
        let task = "\n[task]\nuse = \"referring-segmentation\"\n";
        let plan = plan(&recipe(&table, adapters, task)).unwrap();
        let adapters: Vec<String> = plan
            .adapters
            .iter()
            .map(|a| format!("{} {} at {}", a.label, a.parameters, a.sites.len()))
            .collect();
        format!(
            "{preset} {}: {}; head {}; left out: {:?}",
            plan.backbone_parameters,
            adapters.join(", "),
            plan.head_parameters,
            plan.left_out,
        )
    };
    let both = "[[adapter]]\nuse = \"bridger\"\n[[adapter]]\nuse = \"lora\"\n";
    let all = "[[adapter]]\nuse = \"unfreeze\"\nroles = [\"all\"]\n";
    let lines = [
        line("siglip", "siglip2-so400m-patch14-384", both),
        line("clip", "ViT-bigG-14", both),
        line("clip", "ViT-bigG-14", all),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r#"
    siglip2-so400m-patch14-384 1136008498: bridger 996032 at 3, lora 2009088 at 109; head 27161217; left out: ["vision.pool.query"]
    ViT-bigG-14 2539567105: bridger 1245248 at 3, lora 3866624 at 160; head 28504833; left out: []
    ViT-bigG-14 2539567105: unfreeze 2539567104 at 1293; head 28504833; left out: ["logit_scale"]
    "#);
    // In f32 the last plan's model trains 10 GB.
    assert!(peak() < 1000, "plans took {} MB", peak());
}

/// The most memory that this process has had, in MB; 0 where the system does not say.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) / 1000
}
