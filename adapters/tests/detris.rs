//! Both adapters of DETRIS against the released ones: sizes, outputs and gradients of the golden,
//! what they leave alone, and what they refuse.

mod toy;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;
use toy::{adapter, largest, largest_difference};
use twinspan_adapters::bridger::Bridger;
use twinspan_adapters::dense_aligner::DenseAligner;
use twinspan_adapters::text_adapter::TextAdapter;
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::backbone::{Backbone, Encoder, Encoders, Weights};
use twinspan_sdk::hooks::{BranchView, PlaceHooks, Scale};
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::recipe::Recipe;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Branch, Sites, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::laws::{Outcome, of_adapter};
use twinspan_sdk::testkit::{self, ToyTask};
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::{BlockInfo, BranchInfo, StreamInfo, Topology, TowerTopology};
use twinspan_sdk::tuned::Tuned;
use twinspan_sdk::{Error, Result};

/// Outputs and gradients are stored as f32: half a unit in its last place of the largest value,
/// and little more than that in a sum.
const STORED: f64 = 1e-6;
/// Class token and registers in front of the patches.
const SPECIAL: usize = 5;

// ---- the golden -------------------------------------------------------------------------------

struct Golden {
    shapes: serde_json::Map<String, Value>,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn open() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let text = std::fs::read_to_string(folder.join("detris.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let file = folder.join("detris.safetensors");
        Self {
            shapes: json["parameters"].as_object().unwrap().clone(),
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
        }
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors[name].to_dtype(DType::F64).unwrap()
    }

    /// A weight of the released module, in f64.
    fn weight(&self, name: &str) -> Tensor {
        let shape: Vec<usize> = serde_json::from_value(self.shapes[name].clone()).unwrap();
        let last = name.rsplit('.').next().unwrap();
        let fan: usize = shape.iter().skip(1).product();
        let value = |v: f64| match last {
            "running_var" => 1.0 + 0.5 * v,
            "running_mean" => 0.1 * v,
            _ if last.ends_with("bias") => 0.1 * v,
            _ if shape.len() <= 1 => 1.0 + 0.1 * v,
            _ => v * (3.0 / fan as f64).sqrt(),
        };
        let values = drawn(name, shape.iter().product());
        let values: Vec<f64> = values.map(|v| f64::from(value(v) as f32)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// Values in [-1, 1) that follow from `name`: FNV-1a, then SplitMix64 of each element's number.
fn drawn(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (1..=count as u64).map(move |i| {
        let mut z = key.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 24) * 2.0 - 1.0
    })
}

/// The released name of a parameter, and which third of it ours is where it is one.
fn released(ours: &str) -> (String, Option<usize>) {
    let (owner, rest) = ours.split_once('.').unwrap();
    let rest = rest.split_once(".blocks.0.mlp.").unwrap().1;
    let name = match rest.rsplit_once('.').unwrap() {
        ("down", kind) => format!("D_fc1.{kind}"),
        ("up", kind) => format!("D_fc2.{kind}"),
        (side @ ("image" | "text" | "back"), kind) => format!("cross.{side}_proj.{kind}"),
        ("attention.output", kind) => format!("cross.multihead_attn.out_proj.{kind}"),
        (part, kind) => match part.strip_prefix("attention.") {
            Some(part) => {
                let third = ["query", "key", "value"].iter().position(|p| *p == part);
                let whole = format!("cross.multihead_attn.in_proj_{kind}");
                return (format!("dense_aligner.{whole}"), third);
            }
            None => format!("dense_{}.{kind}", part.replace("norm", "bn")),
        },
    };
    (format!("{}.{name}", owner.replace('-', "_")), None)
}

/// Gives a model the golden's weights; every one of the released module is used.
fn fill(tuned: &Tuned, golden: &Golden, module: &str) {
    let mut used = BTreeMap::new();
    let mut value = |ours: &str| {
        let (name, third) = released(ours);
        let whole = golden.weight(&name);
        *used.entry(name).or_insert(0) += 1;
        match third {
            Some(i) => whole.chunk(3, 0).unwrap()[i].contiguous().unwrap(),
            None => whole,
        }
    };
    for (name, trained) in &tuned.overlay.trained {
        trained.var.set(&value(name)).unwrap();
    }
    for (name, buffer) in &tuned.overlay.buffers {
        buffer.set(&value(name)).unwrap();
    }
    let known = golden.shapes.keys().filter(|name| name.starts_with(module));
    for name in known.filter(|name| !name.ends_with("num_batches_tracked")) {
        let thirds = name.contains("in_proj");
        assert_eq!(used[name], if thirds { 3 } else { 1 }, "{name}");
    }
}

// ---- a backbone that stands still --------------------------------------------------------------

/// One block a tower that gives what its branch hooks add. Pictures and sentences are `x` and
/// `words`, whatever comes in.
#[derive(Clone)]
struct Still {
    x: Var,
    words: Var,
    /// Puts two prompts in before this token of each tower.
    prompts: Option<usize>,
    /// Widths of the towers.
    widths: (usize, usize),
    /// Calls its patches a map, as a ResNet would.
    map: bool,
}

impl Still {
    fn of(golden: &Golden) -> Self {
        Self {
            x: Var::from_tensor(&golden.tensor("input.x")).unwrap(),
            words: Var::from_tensor(&golden.tensor("input.words")).unwrap(),
            prompts: None,
            widths: (64, 48),
            map: false,
        }
    }
}

impl Backbone for Still {
    fn topology(&self) -> Result<Topology> {
        let tower = |width, grid: Option<(usize, usize)>| {
            let stream = StreamInfo {
                width,
                grid,
                map: self.map && grid.is_some(),
            };
            let mlp = BranchInfo {
                branch: Branch::Mlp,
                width,
                consumers: Vec::new(),
            };
            TowerTopology {
                embed: stream,
                blocks: vec![BlockInfo {
                    stream,
                    heads: 0,
                    branches: vec![mlp],
                }],
                stages: vec![0],
                last: stream,
                context: 9,
                projections: Vec::new(),
                parameters: Vec::new(),
            }
        };
        Ok(Topology {
            vision: tower(self.widths.0, Some((4, 4))),
            text: tower(self.widths.1, None),
            joint: 4,
            contrast: Default::default(),
            shared: Vec::new(),
        })
    }

    fn load(&self, _: &Weights) -> Result<Encoders> {
        let one = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        let tower = |tower| -> Box<dyn Encoder> { Box::new(StillTower(self.clone(), tower)) };
        Ok(Encoders {
            vision: tower(Tower::Vision),
            text: tower(Tower::Text),
            logit_scale: Parameter::constant(&one),
            logit_bias: None,
        })
    }

    fn preparation(&self) -> Preparation {
        Preparation::default()
    }

    fn tokenizer(&self, _: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        Err(Error::plugin("it reads no words"))
    }
}

struct StillTower(Still, Tower);

impl Encoder for StillTower {
    fn tokens(&self, _: &Tensor, _: &PlaceHooks, _: &mut Pass) -> Result<Stream> {
        let stream = match self.1 {
            Tower::Vision => Stream::patches(self.0.x.as_tensor().clone(), SPECIAL, (4, 4)),
            Tower::Text => {
                Stream::words(self.0.words.as_tensor().clone(), None, vec![6, 6])?.started()?
            }
        };
        let Some(position) = self.0.prompts else {
            return Ok(stream);
        };
        let (_, _, width) = stream.data.dims3()?;
        let prompts = Tensor::ones((1, 2, width), DType::F64, &Device::Cpu)?;
        Ok(stream.insert(position, &prompts, "another")?)
    }

    /// The vision adapter must take the normed input, the text adapter the other one.
    fn block(
        &self,
        _: usize,
        stream: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream> {
        let other = (&stream.data * 2.0)?;
        let (input, normed) = match self.1 {
            Tower::Vision => (&other, &stream.data),
            Tower::Text => (&stream.data, &other),
        };
        let view = BranchView {
            stream: &stream,
            input,
            normed,
        };
        let zeros = stream.data.zeros_like()?;
        let y = hooks.branch(Branch::Mlp, Scale::Before, view, zeros, pass)?;
        Ok(stream.with(hooks.branch(Branch::Mlp, Scale::After, view, y, pass)?))
    }

    /// The words themselves, whatever the block gave.
    fn features(&self, _: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let empty = Tensor::zeros((), DType::U32, &Device::Cpu)?;
        self.tokens(&empty, hooks, pass)
    }

    fn pooled(&self, _: &Stream, _: &PlaceHooks, _: &mut Pass) -> Result<Tensor> {
        Err(Error::plugin("it does not pool"))
    }
}

fn recipe(still: &Still, adapters: Vec<Configured<dyn Adapter>>, tap: Tap) -> Recipe {
    let topology = still.topology().unwrap();
    Recipe {
        backbone: Configured {
            name: "still",
            plugin: Arc::new(still.clone()),
            options: Default::default(),
        },
        ..toy::recipe(toy::Toy::new(topology), adapters, vec![tap])
    }
}

/// What the one block of `tap` gives.
fn output(tuned: &Tuned, pass: &mut Pass) -> Tensor {
    let images = Tensor::zeros((2, 3, 4, 4), DType::F64, &Device::Cpu).unwrap();
    let tokens = Tensor::zeros((2, 7), DType::U32, &Device::Cpu).unwrap();
    let batch = Batch::aligned(images, tokens, None).unwrap();
    tuned.forward(&batch, pass).unwrap().remove(0).data
}

fn vision() -> Tap {
    Tap::vision(At::Block(0))
}

fn text() -> Tap {
    Tap::text(At::Block(0))
}

fn small_aligner() -> DenseAligner {
    DenseAligner {
        dim: 32,
        attention_dim: 32,
        dropout: 0.0,
        factor: 1.0,
        ..Default::default()
    }
}

fn small_text_adapter() -> TextAdapter {
    TextAdapter {
        dim: 32,
        factor: 1.0,
        ..Default::default()
    }
}

/// A model of the golden's sizes with its weights.
fn aligned(golden: &Golden, still: &Still, aligner: DenseAligner) -> Tuned {
    let tuned = toy::tuned(&recipe(still, adapter(aligner), vision()), BTreeMap::new()).unwrap();
    fill(&tuned, golden, "dense_aligner");
    tuned
}

fn adapted(golden: &Golden, still: &Still, text_adapter: TextAdapter) -> Tuned {
    let adapters = adapter(text_adapter);
    let tuned = toy::tuned(&recipe(still, adapters, text()), BTreeMap::new()).unwrap();
    fill(&tuned, golden, "text_adapter");
    tuned
}

/// The pass of each part of the golden; both take gradients.
fn passes() -> [(&'static str, Pass); 2] {
    let mut eval = Pass::predict();
    eval.gradients = true;
    [("eval", eval), ("train", Pass::train(1))]
}

fn assert_close(got: &Tensor, golden: &Golden, name: &str) {
    let wanted = golden.tensor(name);
    let off = largest_difference(got, &wanted) / largest(&wanted);
    println!("{name}: {off:.1e}");
    assert!(off < STORED, "{name}: {off:.1e}");
}

// ---- tests ------------------------------------------------------------------------------------

#[test]
fn sizes_are_the_published_ones() {
    let still = Still {
        widths: (768, 512),
        ..Still::of(&Golden::open())
    };
    let count = |adapters, tap| {
        plan(&recipe(&still, adapters, tap))
            .unwrap()
            .adapter_parameters
    };
    assert_eq!(count(adapter(DenseAligner::default()), vision()), 382_896);
    assert_eq!(count(adapter(TextAdapter::default()), text()), 69_720);
}

#[test]
fn the_dense_aligner_is_the_released_one() {
    let golden = Golden::open();
    for (mode, mut pass) in passes() {
        let still = Still::of(&golden);
        let tuned = aligned(&golden, &still, small_aligner());
        let y = output(&tuned, &mut pass);
        let name = format!("dense_aligner.{mode}");
        assert_close(&y, &golden, &name);
        let cotangent: Vec<f64> = drawn("detris.cotangent", y.elem_count()).collect();
        let cotangent = Tensor::from_vec(cotangent, y.dims(), &Device::Cpu).unwrap();
        let gradients = (y * cotangent).unwrap().sum_all().unwrap();
        let gradients = gradients.backward().unwrap();
        let of = |var: &Var| gradients.get(var).unwrap();
        assert_close(of(&still.x), &golden, &format!("{name}.dx"));
        assert_close(of(&still.words), &golden, &format!("{name}.dwords"));
    }
}

#[test]
fn the_text_adapter_is_the_released_one() {
    let golden = Golden::open();
    for (mode, mut pass) in passes() {
        let still = Still::of(&golden);
        let tuned = adapted(&golden, &still, small_text_adapter());
        let y = output(&tuned, &mut pass);
        let name = format!("text_adapter.{mode}");
        assert_close(&y, &golden, &name);
        let cotangent: Vec<f64> = drawn("detris.cotangent.text", y.elem_count()).collect();
        let cotangent = Tensor::from_vec(cotangent, y.dims(), &Device::Cpu).unwrap();
        let gradients = (y * cotangent).unwrap().sum_all().unwrap();
        let gradients = gradients.backward().unwrap();
        let words = gradients.get(&still.words).unwrap();
        assert_close(words, &golden, &format!("{name}.dwords"));
    }
}

#[test]
fn the_factor_says_how_much_counts() {
    let golden = Golden::open();
    let still = Still::of(&golden);
    let whole = output(
        &aligned(&golden, &still, small_aligner()),
        &mut Pass::predict(),
    );
    let aligner = DenseAligner {
        factor: 0.25,
        ..small_aligner()
    };
    let part = output(&aligned(&golden, &still, aligner), &mut Pass::predict());
    assert!(largest_difference(&part, &(whole * 0.25).unwrap()) < 1e-15);
    let whole = output(
        &adapted(&golden, &still, small_text_adapter()),
        &mut Pass::predict(),
    );
    let text_adapter = TextAdapter {
        factor: -0.5,
        ..small_text_adapter()
    };
    let part = output(
        &adapted(&golden, &still, text_adapter),
        &mut Pass::predict(),
    );
    assert!(largest_difference(&part, &(whole * -0.5).unwrap()) < 1e-15);
}

#[test]
fn prompts_are_neither_read_nor_changed() {
    let golden = Golden::open();
    let bare = Still::of(&golden);
    let part = |x: &Tensor, start, len| x.narrow(1, start, len).unwrap().contiguous().unwrap();
    // In front of the registers' end, and amid the words: both towers have them.
    for position in [1, 5] {
        let prompted = Still {
            prompts: Some(position),
            ..bare.clone()
        };
        let pairs = [
            [&bare, &prompted].map(|still| aligned(&golden, still, small_aligner())),
            [&bare, &prompted].map(|still| adapted(&golden, still, small_text_adapter())),
        ];
        for tuned in pairs {
            let [without, with] = tuned.map(|tuned| output(&tuned, &mut Pass::predict()));
            let behind = without.dim(1).unwrap() - position;
            assert_eq!(largest(&part(&with, position, 2)), 0.0);
            let front = (part(&with, 0, position), part(&without, 0, position));
            assert!(largest_difference(&front.0, &front.1) < 1e-12);
            let rest = part(&with, position + 2, behind);
            assert!(largest_difference(&rest, &part(&without, position, behind)) < 1e-12);
        }
    }
}

#[test]
fn starts_are_the_released_ones() {
    let still = Still {
        widths: (320, 480),
        ..Still::of(&Golden::open())
    };
    let tuned = |adapters, tap| toy::tuned(&recipe(&still, adapters, tap), BTreeMap::new());
    let spread = |tuned: &Tuned, name: &str| {
        let value = tuned.overlay.trained[name].var.as_detached_tensor();
        let square = value.sqr().unwrap().mean_all().unwrap();
        square.to_scalar::<f64>().unwrap().sqrt()
    };
    let near = |tuned: &Tuned, name: &str, std: f64| {
        let found = spread(tuned, name);
        assert!(
            (found / std - 1.0).abs() < 0.1,
            "{name}: {found}, not {std}"
        );
    };
    let vision = tuned(adapter(DenseAligner::default()), vision()).unwrap();
    let here = |name: &str| format!("dense-aligner.vision.blocks.0.mlp.{name}");
    near(&vision, &here("down.weight"), (2.0 / 320f64).sqrt());
    near(&vision, &here("up.weight"), (2.0 / 128f64).sqrt());
    near(&vision, &here("text.weight"), (2.0 / 480f64).sqrt());
    near(
        &vision,
        &here("branch3.1.conv.weight"),
        (2.0 / 200f64).sqrt(),
    );
    near(
        &vision,
        &here("attention.output.weight"),
        (2.0 / 128f64).sqrt(),
    );
    near(
        &vision,
        &here("attention.key.weight"),
        (2.0 / 512f64).sqrt(),
    );
    for name in vision.overlay.trained.keys() {
        if name.ends_with("bias") {
            assert_eq!(spread(&vision, name), 0.0, "{name}");
        }
    }
    let text = tuned(adapter(TextAdapter::default()), text()).unwrap();
    let here = |name: &str| format!("text-adapter.text.blocks.0.mlp.{name}");
    near(&text, &here("down.weight"), (1.0 / 480f64 / 3.0).sqrt());
    near(
        &text,
        &here("branch2.0.conv.weight"),
        (1.0 / 96f64 / 3.0).sqrt(),
    );
    let bias = spread(&text, &here("up.bias"));
    assert!(bias > 0.0 && bias < (1.0 / 64f64).sqrt(), "{bias}");
}

#[test]
fn both_keep_the_laws() {
    let on = |configured: &Configured<dyn Adapter>| {
        let toy = Configured::<dyn Backbone>::of(testkit::Toy::default()).unwrap();
        let mut held = 0;
        for verdict in of_adapter(configured, &toy) {
            println!("{verdict}");
            match verdict.outcome {
                Outcome::Broken(_) => panic!("{verdict}"),
                Outcome::Held => held += 1,
                Outcome::Skipped(_) => {}
            }
        }
        held
    };
    // Neither is the identity at its start, and neither can be folded.
    assert_eq!(on(&adapter(DenseAligner::default())[0]), 4);
    assert_eq!(on(&adapter(TextAdapter::default())[0]), 4);
}

/// A bridge in every block makes the last words wait for the vision tower, whose first block
/// waits for the last words.
#[test]
fn a_bridge_beside_the_dense_aligner_is_refused_by_both_names() {
    let mut adapters = adapter(Bridger::default());
    adapters.extend(adapter(DenseAligner::default()));
    let recipe = testkit::recipe(ToyTask::default(), adapters).unwrap();
    let error = plan(&recipe).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Cycle { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("bridger") && message.contains("dense-aligner"),
        "{message}"
    );
    // Behind the last bridge there is nothing to wait for.
    let mut adapters = adapter(Bridger {
        stages: vec![1],
        ..Default::default()
    });
    adapters.extend(adapter(DenseAligner {
        sites: Sites {
            blocks: vec![1, 2],
            ..Default::default()
        },
        ..Default::default()
    }));
    plan(&testkit::recipe(ToyTask::default(), adapters).unwrap()).unwrap();
}

fn refusal<P: Plugin + Adapter>(plugin: P) -> String {
    let recipe = testkit::recipe(ToyTask::default(), adapter(plugin)).unwrap();
    plan(&recipe).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_is_refused() {
    let aligner = |change: fn(&mut DenseAligner)| {
        let mut aligner = DenseAligner::default();
        change(&mut aligner);
        refusal(aligner)
    };
    assert_eq!(
        aligner(|a| a.dim = 40),
        "dense-aligner: dim = 40 must be a multiple of 16 up to 65536: branches have shares of it"
    );
    assert_eq!(
        aligner(|a| a.heads = 3),
        "dense-aligner: heads = 3 must divide attention_dim = 128"
    );
    assert_eq!(
        aligner(|a| a.dropout = 1.0),
        "dense-aligner: dropout = 1 must lie in [0, 1)"
    );
    assert_eq!(
        aligner(|a| a.factor = f64::NAN),
        "dense-aligner: factor = NaN must be a number other than 0"
    );
    assert_eq!(
        aligner(|a| a.sites.towers = vec![Tower::Text]),
        "dense-aligner: it acts on the vision tower alone; sites.towers may be [\"vision\"]"
    );
    let maps = Still {
        map: true,
        ..Still::of(&Golden::open())
    };
    let recipe = recipe(&maps, adapter(DenseAligner::default()), vision());
    assert_eq!(
        plan(&recipe).map(|_| ()).unwrap_err().to_string(),
        "dense-aligner: block 0 of the vision tower has no patches; branches may be \
         [\"attention\", \"mlp\"] of a transformer"
    );
    let text_adapter = |change: fn(&mut TextAdapter)| {
        let mut text_adapter = TextAdapter::default();
        change(&mut text_adapter);
        refusal(text_adapter)
    };
    assert_eq!(
        text_adapter(|a| a.dim = 0),
        "text-adapter: dim = 0 must be a multiple of 16 up to 65536: branches have shares of it"
    );
    assert_eq!(
        text_adapter(|a| a.sites.towers = Tower::BOTH.to_vec()),
        "text-adapter: it acts on the text tower alone; sites.towers may be [\"text\"]"
    );
}
