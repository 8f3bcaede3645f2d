//! The head of referring segmentation: its size, its numbers against the
//! released model's, and its gradients.

mod tiny;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::SafeTensors;
use tiny::topology;
use twinspan_sdk::parameter::{Overlay, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::random;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Head, Task};
use twinspan_sdk::topology::Topology;
use twinspan_tasks::referring_segmentation::{ReferringSegmentation, Sentences};

fn build(task: &ReferringSegmentation, topology: &Topology) -> (Overlay, Box<dyn Head>) {
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 7, false, DType::F64, &Device::Cpu);
    let head = task.head(topology, &mut params).unwrap();
    (overlay, head)
}

fn count(task: &ReferringSegmentation, topology: &Topology) -> usize {
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 0, true, DType::F32, &Device::Cpu);
    task.head(topology, &mut params).unwrap();
    overlay.count("head")
}

fn refusal(task: &ReferringSegmentation, topology: &Topology) -> String {
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 0, true, DType::F32, &Device::Cpu);
    match task.head(topology, &mut params) {
        Ok(_) => "not refused".into(),
        Err(error) => error.to_string(),
    }
}

/// Values in [-1, 1) that follow from a name.
fn drawn(name: &str, shape: &[usize]) -> Tensor {
    let key = random::hash(name);
    let values = (0..shape.iter().product::<usize>() as u64)
        .map(|i| 2.0 * random::uniform(key, i) - 1.0)
        .collect::<Vec<_>>();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn the_released_sizes_come_out() {
    let task = ReferringSegmentation::default();
    let vit = topology((768, 26), (768, 26), (512, 26), 512, 512);
    assert_eq!(count(&task, &vit), 22_671_361);
    let rn50 = topology((512, 52), (1024, 26), (1024, 13), 512, 1024);
    assert_eq!(count(&task, &rn50), 26_735_105);
    let rn101 = topology((512, 52), (1024, 26), (512, 13), 512, 512);
    assert_eq!(count(&task, &rn101), 24_244_225);
}

#[test]
fn each_alignment_can_be_left_out() {
    let rn50 = topology((512, 52), (1024, 26), (1024, 13), 512, 1024);
    let flat = ReferringSegmentation {
        hierarchical: false,
        ..Default::default()
    };
    let last = 1024 * 512 * 4 + 2 * 512;
    assert_eq!(count(&flat, &rn50), last + 7_899_136 + 5_968_897);
    let local = ReferringSegmentation {
        global: false,
        ..Default::default()
    };
    assert_eq!(count(&local, &rn50), 26_735_105 - 7_899_136);

    let (first, second) = (Tap::vision(At::Block(0)), Tap::vision(At::Block(1)));
    let (last, words) = (Tap::vision(At::Final), Tap::text(At::Final));
    let state = Tap::text(At::Pooled);
    let reads = |task: &ReferringSegmentation| task.reads(&rn50).unwrap();
    let task = ReferringSegmentation::default();
    assert_eq!(reads(&task), [first, second, last, words, state]);
    assert_eq!(reads(&flat), [last, words, state]);
    assert_eq!(reads(&local), [first, second, last, state]);
}

#[test]
fn what_cannot_be_a_head_is_refused() {
    let fits = topology((5, 4), (7, 2), (6, 1), 10, 6);
    let said = |task: ReferringSegmentation| refusal(&task, &fits);
    assert_eq!(
        said(ReferringSegmentation {
            width: 20,
            ..Default::default()
        }),
        "task `referring-segmentation`: `width` must be even and a multiple of `heads` (8), got 20"
    );
    assert_eq!(
        said(ReferringSegmentation {
            words: 78,
            ..Default::default()
        }),
        "task `referring-segmentation`: `words` must lie between 3 and 77, the backbone's longest sentence; got 78"
    );
    assert_eq!(
        said(ReferringSegmentation {
            threshold: f64::NAN,
            ..Default::default()
        }),
        "task `referring-segmentation`: `threshold` must lie in [0, 1), got NaN"
    );
    assert_eq!(
        said(ReferringSegmentation {
            layers: 0,
            ..Default::default()
        }),
        "task `referring-segmentation`: `layers` must be above 0"
    );
    for depths in [vec![1], vec![1, 0], vec![1, 3], vec![0, 1, 2]] {
        assert_eq!(
            said(ReferringSegmentation {
                depths: depths.clone(),
                ..Default::default()
            }),
            format!(
                "task `referring-segmentation`: `depths` must be two blocks of the 3 of the vision tower, counted from 0, the first before the second; got {depths:?}"
            )
        );
    }
    let task = ReferringSegmentation::default();
    let uneven = topology((5, 5), (7, 2), (6, 1), 10, 6);
    assert!(refusal(&task, &uneven).ends_with("this one's are 5 x 5, 2 x 2 and 1 x 1"));
    let mut short = fits.clone();
    short.vision.stages.pop();
    assert!(refusal(&task, &short).ends_with("this one has 2"));
}

#[test]
fn options_are_documented_and_round_trip() {
    let task = ReferringSegmentation::default();
    let table = toml::Table::try_from(&task).unwrap();
    let written: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    let documented = ReferringSegmentation::OPTIONS.iter().map(|o| o.name);
    assert_eq!(documented.collect::<BTreeSet<_>>(), written);
    let text = toml::to_string(&task).unwrap();
    assert!(text.contains("dropout = 0.1\n") && text.contains("sentences = \"random\""));
    assert_eq!(
        toml::from_str::<ReferringSegmentation>(&text).unwrap(),
        task
    );
    let all: ReferringSegmentation = toml::from_str("sentences = \"all\"").unwrap();
    assert_eq!(all.sentences, Sentences::All);
    assert!(toml::from_str::<ReferringSegmentation>("word = 3").is_err());
}

/// The name of a parameter or buffer in the released model, and which third of
/// its rows ours is where the released one is fused.
fn released(name: &str) -> (String, Option<usize>) {
    let name = name.strip_prefix("head.").unwrap();
    let parts: Vec<&str> = name.split('.').collect();
    let block = |place: &[&str]| match place {
        ["conv", last] => format!("0.{last}"),
        ["norm", last] => format!("1.{last}"),
        other => panic!("{other:?}"),
    };
    let attention = |at: String, place: &[&str]| match place {
        ["output", last] => (format!("{at}.out_proj.{last}"), None),
        [third, last] => {
            let thirds = ["query", "key", "value"];
            let third = thirds.iter().position(|t| t == third).unwrap();
            (format!("{at}.in_proj_{last}"), Some(third))
        }
        other => panic!("{other:?}"),
    };
    let whole = |name: String| (name, None);
    match parts[..] {
        ["neck", "maps", i, ..] => {
            let number = i.parse::<usize>().unwrap() + 3;
            whole(format!("neck.f{number}_proj.{}", block(&parts[3..])))
        }
        ["neck", "gates", i, ..] => {
            let number = i.parse::<usize>().unwrap() + 3;
            attention(format!("neck.fusion{number}.multihead_attn"), &parts[3..])
        }
        ["neck", "sentence", last] => whole(format!("neck.txt_proj.{last}")),
        ["neck", "merge", ..] => whole(format!("neck.aggr.{}", block(&parts[2..]))),
        ["neck", "place", "0", ..] => {
            whole(format!("neck.coordconv.0.conv1.{}", block(&parts[3..])))
        }
        ["neck", "place", "1", ..] => whole(format!("neck.coordconv.1.{}", block(&parts[3..]))),
        ["decoder", "norm", last] => whole(format!("decoder.norm.{last}")),
        ["decoder", "layers", i, branch, part, last] => {
            let at = format!("decoder.layers.{i}");
            match (branch, part) {
                ("self_attention", "norm_in") => whole(format!("{at}.norm1.{last}")),
                ("self_attention", "norm_out") => whole(format!("{at}.self_attn_norm.{last}")),
                ("self_attention", _) => attention(format!("{at}.self_attn"), &[part, last]),
                ("cross_attention", "norm_in") => whole(format!("{at}.norm2.{last}")),
                ("cross_attention", "norm_out") => whole(format!("{at}.cross_attn_norm.{last}")),
                ("cross_attention", _) => attention(format!("{at}.multihead_attn"), &[part, last]),
                ("feed_forward", "norm_in") => whole(format!("{at}.norm3.{last}")),
                ("feed_forward", "up") => whole(format!("{at}.ffn.0.{last}")),
                ("feed_forward", "norm") => whole(format!("{at}.ffn.3.{last}")),
                ("feed_forward", "down") => whole(format!("{at}.ffn.4.{last}")),
                other => panic!("{other:?}"),
            }
        }
        ["projector", "refine", "0", ..] => whole(format!("proj.vis.1.{}", block(&parts[3..]))),
        ["projector", "refine", "1", ..] => whole(format!("proj.vis.3.{}", block(&parts[3..]))),
        ["projector", "output", last] => whole(format!("proj.vis.4.{last}")),
        ["projector", "kernel", last] => whole(format!("proj.txt.{last}")),
        _ => panic!("{name}"),
    }
}

/// The value that the reference drew for a parameter; see `data/README.md`.
fn reference(name: &str, shape: &[usize]) -> Tensor {
    let (name, third) = released(name);
    let values: usize = shape.iter().product();
    let skipped = third.unwrap_or(0) * values;
    let key = random::hash(&name);
    let fan: usize = shape[1..].iter().product();
    let last = name.rsplit('.').next().unwrap();
    let value = |i: usize| {
        let bits = random::mix(key, (skipped + i) as u64) >> 40;
        let v = bits as f64 / (1u64 << 24) as f64 * 2.0 - 1.0;
        let value = match last {
            "running_var" => 1.0 + 0.5 * v,
            "running_mean" => 0.1 * v,
            "bias" | "in_proj_bias" => 0.1 * v,
            _ if shape.len() < 2 => 1.0 + 0.1 * v,
            _ => v * (3.0 / fan as f64).sqrt(),
        };
        f64::from(value as f32)
    };
    let values: Vec<f64> = (0..values).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn meets_the_released_model(name: &str, topology: &Topology) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/head"));
    let bytes = std::fs::read(path.join(format!("{name}.safetensors"))).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| {
        let tensor = stored.tensor(name).unwrap();
        let values = tensor.data().as_chunks().0.iter();
        let values: Vec<f64> = values.map(|b| f64::from(f32::from_le_bytes(*b))).collect();
        Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap()
    };
    let ids = stored.tensor("tokens").unwrap();
    let padding: Vec<u8> = ids
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|b| u8::from(i64::from_le_bytes(*b) == 0))
        .collect();
    assert!(padding.contains(&1));
    let padding = Tensor::from_vec(padding, (1, 17), &Device::Cpu).unwrap();

    let task = ReferringSegmentation {
        width: 128,
        ffn: 96,
        ..Default::default()
    };
    let (mut overlay, head) = build(&task, topology);
    let values: BTreeMap<String, Tensor> = overlay
        .tensors()
        .into_iter()
        .map(|(name, value)| (name.clone(), reference(&name, value.dims())))
        .collect();
    let names: BTreeSet<_> = values.keys().map(|name| released(name)).collect();
    assert_eq!(names.len(), values.len());
    overlay.restore(&values).unwrap();
    let features = [
        Stream::map(floats("vision.0")),
        Stream::map(floats("vision.1")),
        Stream::map(floats("vision.2")),
        Stream::words(floats("words"), Some(padding), vec![0]).unwrap(),
        Stream::pooled(floats("state")),
    ];
    let logits = head.forward(&features, &mut Pass::predict()).unwrap();
    let expected = floats("logits");
    assert_eq!(logits.dims(), expected.dims());
    let norm = |t: &Tensor| {
        t.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
            .sqrt()
    };
    let off = norm(&(&logits - &expected).unwrap()) / norm(&expected);
    assert!(off < 1e-6, "{name} is off by {off}");
}

#[test]
fn the_vit_head_meets_the_released_model() {
    meets_the_released_model("vit", &topology((128, 6), (128, 6), (64, 6), 128, 64));
}

#[test]
fn the_resnet_head_meets_the_released_model() {
    meets_the_released_model("rn", &topology((128, 12), (256, 6), (64, 3), 128, 64));
}

fn small() -> ReferringSegmentation {
    ReferringSegmentation {
        width: 8,
        layers: 2,
        heads: 2,
        ffn: 6,
        dropout: 0.0,
        ..Default::default()
    }
}

/// Three maps, words of another width than the head's with padding, sentences.
fn features() -> Vec<(&'static str, Tensor)> {
    vec![
        ("first", drawn("first", &[2, 5, 4, 4])),
        ("second", drawn("second", &[2, 7, 2, 2])),
        ("last", drawn("last", &[2, 6, 1, 1])),
        ("words", drawn("words", &[2, 5, 10])),
        ("state", drawn("state", &[2, 6])),
    ]
}

fn streams(values: &[Tensor]) -> Vec<Stream> {
    let padding = Tensor::new(&[[0u8, 0, 0, 0, 0], [0, 0, 0, 1, 1]], &Device::Cpu).unwrap();
    let [first, second, last, words, state] = values else {
        panic!("{} features", values.len());
    };
    vec![
        Stream::map(first.clone()),
        Stream::map(second.clone()),
        Stream::map(last.clone()),
        Stream::words(words.clone(), Some(padding), vec![4, 2]).unwrap(),
        Stream::pooled(state.clone()),
    ]
}

fn batch(masks: Tensor) -> Batch {
    let pairs = masks.dim(0).unwrap();
    let images = Tensor::zeros((pairs, 3, 4, 4), DType::F64, &Device::Cpu).unwrap();
    let tokens = Tensor::zeros((pairs, 5), DType::U32, &Device::Cpu).unwrap();
    Batch::aligned(images, tokens, Some(masks)).unwrap()
}

fn loss(head: &dyn Head, values: &[Tensor], batch: &Batch, gradients: bool) -> Tensor {
    let mut pass = Pass::train(1);
    pass.gradients = gradients;
    let logits = head.forward(&streams(values), &mut pass).unwrap();
    assert_eq!(logits.dims(), [2, 1, 8, 8]);
    head.loss(&logits, batch).unwrap()
}

fn set(var: &Var, values: &[f64]) {
    let value = Tensor::from_slice(values, var.shape(), &Device::Cpu).unwrap();
    var.set(&value).unwrap();
}

#[test]
fn every_gradient_is_the_slope() {
    let (overlay, head) = build(&small(), &topology((5, 4), (7, 2), (6, 1), 10, 6));
    let masks = drawn("masks", &[2, 1, 12, 12]).abs().unwrap();
    let batch = batch(masks);
    let mut vars: Vec<(String, Var)> = overlay
        .trained
        .iter()
        .map(|(name, trained)| (name.clone(), trained.var.clone()))
        .collect();
    // Zero biases would hide what reads them.
    for (name, var) in vars.iter().filter(|(name, _)| name.ends_with("bias")) {
        var.set(&(drawn(name, var.dims()) * 0.1).unwrap()).unwrap();
    }
    let inputs: Vec<Var> = features()
        .iter()
        .map(|(_, value)| Var::from_tensor(value).unwrap())
        .collect();
    let of_inputs = features().into_iter().zip(&inputs);
    vars.extend(of_inputs.map(|((name, _), var)| (name.to_string(), var.clone())));

    let tracked: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = loss(head.as_ref(), &tracked, &batch, true)
        .backward()
        .unwrap();
    let value = || {
        let inputs: Vec<Tensor> = inputs.iter().map(Var::as_detached_tensor).collect();
        loss(head.as_ref(), &inputs, &batch, false)
            .to_scalar::<f64>()
            .unwrap()
    };
    const STEP: f64 = 1e-5;
    for (name, var) in &vars {
        let grad = grads
            .get(var)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        let grad: Vec<f64> = grad.flatten_all().unwrap().to_vec1().unwrap();
        let start: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
        let dead = name.contains("gates") && (name.contains("query") || name.contains("key"));
        if dead {
            assert!(grad.iter().all(|g| *g == 0.0), "{name} is not dead");
        }
        for probe in 0..4u64 {
            let place = (random::uniform(random::hash(name), probe) * start.len() as f64) as usize;
            let mut moved = start.clone();
            moved[place] = start[place] + STEP;
            set(var, &moved);
            let above = value();
            moved[place] = start[place] - STEP;
            set(var, &moved);
            let below = value();
            set(var, &start);
            let slope = (above - below) / (2.0 * STEP);
            let off = (slope - grad[place]).abs();
            assert!(
                off < 1e-8 + 1e-5 * slope.abs(),
                "{name}[{place}]: slope {slope}, gradient {}",
                grad[place]
            );
        }
    }
}

#[test]
fn a_sentence_s_padding_changes_nothing() {
    let (_, head) = build(&small(), &topology((5, 4), (7, 2), (6, 1), 10, 6));
    let mut values: Vec<Tensor> = features().into_iter().map(|(_, value)| value).collect();
    let logits = |values: &[Tensor]| {
        let logits = head
            .forward(&streams(values), &mut Pass::predict())
            .unwrap();
        logits.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let before = logits(&values);
    let mut words: Vec<f64> = values[3].flatten_all().unwrap().to_vec1().unwrap();
    // Words 3 and 4 of the second sentence are padding, word 4 of the first is not.
    words[80..].fill(5.0);
    values[3] = Tensor::from_slice(&words, (2, 5, 10), &Device::Cpu).unwrap();
    assert_eq!(logits(&values), before);
    words[40] += 1.0;
    values[3] = Tensor::from_slice(&words, (2, 5, 10), &Device::Cpu).unwrap();
    assert_ne!(logits(&values), before);
}

#[test]
fn the_residual_adds_the_fused_map() {
    let fits = topology((5, 4), (7, 2), (6, 1), 10, 6);
    let features: Vec<Tensor> = features().into_iter().map(|(_, value)| value).collect();
    let neck = |residual: bool, still: bool| {
        let task = ReferringSegmentation {
            residual,
            ..small()
        };
        let (overlay, head) = build(&task, &fits);
        for (name, trained) in &overlay.trained {
            let place = name.contains("neck.place.1.norm");
            let value = drawn(name, trained.var.dims());
            let value = if place && still {
                value.zeros_like().unwrap()
            } else {
                value
            };
            trained.var.set(&value).unwrap();
        }
        let trace = head
            .trace(&streams(&features), &mut Pass::predict())
            .unwrap();
        assert_eq!(trace[0].0, "neck");
        trace[0].1.flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    // With a last norm of zeros, what the convolutions make of the map is zero.
    let merged = neck(true, true);
    assert!(neck(false, true).iter().all(|value| *value == 0.0));
    assert!(merged.iter().any(|value| *value != 0.0));
    let sum = neck(false, false)
        .into_iter()
        .zip(&merged)
        .map(|(a, b)| a + b);
    assert_eq!(neck(true, false), sum.collect::<Vec<f64>>());
}

#[test]
fn depths_may_be_named() {
    let fits = topology((5, 4), (7, 2), (6, 1), 10, 6);
    let mut fits = fits.clone();
    // A tower of one stage more: its own stages would be refused.
    fits.vision.stages.push(3);
    let task = ReferringSegmentation {
        depths: vec![0, 2],
        ..Default::default()
    };
    let taps = task.reads(&fits).unwrap();
    assert_eq!(
        taps[..2],
        [Tap::vision(At::Block(0)), Tap::vision(At::Block(2))]
    );
    assert!(ReferringSegmentation::default().reads(&fits).is_err());
}

#[test]
fn without_both_alignments_a_head_still_answers() {
    let bare = ReferringSegmentation {
        hierarchical: false,
        global: false,
        ..small()
    };
    let (_, head) = build(&bare, &topology((5, 4), (7, 2), (6, 1), 10, 6));
    let features = [
        Stream::map(drawn("last", &[2, 6, 1, 1])),
        Stream::pooled(drawn("state", &[2, 6])),
    ];
    let logits = head.forward(&features, &mut Pass::predict()).unwrap();
    assert_eq!(logits.dims(), [2, 1, 8, 8]);
    assert!(head.forward(&features[..1], &mut Pass::predict()).is_err());
}

#[test]
fn the_loss_takes_the_nearest_pixel_above_and_left() {
    let (_, head) = build(&small(), &topology((5, 4), (7, 2), (6, 1), 10, 6));
    for ((rows, columns), n) in [((3, 5), 7), ((4, 4), 10), ((5, 3), 2), ((6, 6), 6)] {
        let logits = drawn("logits", &[2, 1, rows, columns]);
        let masks = drawn("masks", &[2, 1, n, n]).abs().unwrap();
        let x: Vec<f64> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let z: Vec<f64> = masks.flatten_all().unwrap().to_vec1().unwrap();
        let mut sum = 0.0;
        for p in 0..2 {
            for i in 0..rows {
                for j in 0..columns {
                    let x = x[(p * rows + i) * columns + j];
                    let z = z[(p * n + i * n / rows) * n + j * n / columns];
                    let probability = 1.0 / (1.0 + (-x).exp());
                    sum -= z * probability.ln() + (1.0 - z) * (1.0 - probability).ln();
                }
            }
        }
        let expected = sum / (2 * rows * columns) as f64;
        // Masks come as f32 where the model computes in f64.
        let masks = masks.to_dtype(DType::F32).unwrap();
        let got = head.loss(&logits, &batch(masks)).unwrap();
        assert!((got.to_scalar::<f64>().unwrap() - expected).abs() < 1e-7);
    }
    let mut without = batch(drawn("masks", &[2, 1, 4, 4]));
    without.target = None;
    assert!(
        head.loss(&drawn("logits", &[2, 1, 4, 4]), &without)
            .is_err()
    );
}
