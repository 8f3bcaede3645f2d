//! Referring segmentation's data, from files on disk to batches and scores.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::{GrayImage, Luma, Rgb, RgbImage};
use tempfile::TempDir;
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::task::{Batch, Dataset, Kit, Task};
use twinspan_sdk::tokenizer::{Encoded, Tokenizer};
use twinspan_tasks::letterbox::{Letterbox, Normalisation};
use twinspan_tasks::referring_segmentation::{ReferringSegmentation, Sentences};

const SIDE: usize = 32;
const START: u32 = 1000;
const END: u32 = 1001;

/// Numbers words by their length.
struct Lengths;

impl Tokenizer for Lengths {
    fn encode(&self, sentence: &str, len: usize) -> Encoded {
        let words: Vec<u32> = sentence
            .split_whitespace()
            .map(|w| w.len() as u32)
            .collect();
        let kept = words.len().min(len - 2);
        let mut ids = vec![START];
        ids.extend(&words[..kept]);
        ids.push(END);
        ids.resize(len, 0);
        Encoded {
            ids,
            end: kept as u32 + 1,
            cut: kept < words.len(),
        }
    }

    fn vocabulary(&self) -> usize {
        1002
    }
}

fn kit() -> Kit {
    Kit {
        preparation: Preparation {
            size: SIDE,
            mean: Normalisation::CLIP.mean,
            std: Normalisation::CLIP.std,
            ..Preparation::default()
        },
        tokenizer: Arc::new(Lengths),
        context: 77,
        dtype: DType::F32,
        device: Device::Cpu,
    }
}

/// A wide picture with two objects, a tall one with one in `val`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let wide = RgbImage::from_fn(40, 20, |x, y| Rgb([6 * x as u8, 12 * y as u8, 200]));
    wide.save(folder.path().join("wide.png")).unwrap();
    let mask = |from: u32| {
        GrayImage::from_fn(40, 20, move |x, y| {
            Luma([255 * u8::from((from..from + 15).contains(&x) && y >= 5)])
        })
    };
    mask(2).save(folder.path().join("left.png")).unwrap();
    mask(22).save(folder.path().join("right.png")).unwrap();
    let tall = RgbImage::from_pixel(16, 48, Rgb([90, 10, 40]));
    tall.save(folder.path().join("tall.png")).unwrap();
    let long = vec!["very"; 500].join(" ");
    let lines = [
        r#"{"image": "wide.png", "mask": "left.png", "sentences": ["a", "bb cc", "the left one"]}"#.into(),
        r#"{"image": "wide.png", "mask": "right.png", "sentences": ["the right one"]}"#.into(),
        r#"{"image": "tall.png", "polygons": [[2,4, 14,4, 14,40, 2,40]], "sentences": ["it"], "split": "val"}"#.into(),
        format!(r#"{{"image": "tall.png", "polygons": [], "sentences": ["{long}"], "split": "val"}}"#),
    ];
    std::fs::write(folder.path().join("data.jsonl"), lines.join("\n")).unwrap();
    folder
}

fn open(folder: &Path, sentences: Sentences) -> Arc<dyn Dataset> {
    let task = ReferringSegmentation {
        sentences,
        ..Default::default()
    };
    task.open(&folder.join("data.jsonl").into(), kit()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ids(batch: &Batch) -> Vec<Vec<u32>> {
    batch.tokens.to_vec2().unwrap()
}

#[test]
fn two_objects_share_their_picture() {
    let folder = folder();
    let data = open(folder.path(), Sentences::Random);
    let batch = data.train("train", &[0, 1], 3).unwrap();
    assert_eq!(batch.images.dims(), [1, 3, SIDE, SIDE]);
    assert_eq!(batch.tokens.dims(), [2, 17]);
    assert_eq!(batch.pairs, [(0, 0), (0, 1)]);
    assert_eq!(batch.examples, [0, 1]);
    let wide = twinspan_tasks::picture::open(folder.path().join("wide.png")).unwrap();
    let letterbox = Letterbox::new(SIDE, 40, 20).unwrap();
    let prepared = letterbox.picture(&wide, &Normalisation::CLIP).unwrap();
    assert_eq!(values(&batch.images), prepared);

    let target = batch.target.unwrap();
    assert_eq!(target.dims(), [2, 1, SIDE, SIDE]);
    for (index, name) in ["left.png", "right.png"].into_iter().enumerate() {
        let grey = image::open(folder.path().join(name)).unwrap().into_luma8();
        let mask = letterbox.mask(grey.as_raw()).unwrap();
        assert!(mask.iter().any(|&v| v > 0 && v < 255));
        let mask: Vec<f32> = mask.iter().map(|&v| f32::from(v) / 255.0).collect();
        assert_eq!(values(&target.get(index).unwrap()), mask);
        // The picture is twice as wide as high: a quarter of the input above and below is border.
        assert!(mask[..SIDE * (SIDE / 4 - 1)].iter().all(|&v| v == 0.0));
    }
}

#[test]
fn evaluation_takes_every_sentence() {
    let folder = folder();
    let data = open(folder.path(), Sentences::Random);
    assert_eq!(
        data.splits(),
        [("train".into(), 2), ("val".into(), 2)].into()
    );
    assert_eq!(data.len("val").unwrap(), 2);
    let batch = data.evaluate("train", &[1, 0]).unwrap();
    assert_eq!(batch.images.dim(0).unwrap(), 1);
    assert_eq!(batch.pairs, [(0, 0), (0, 1), (0, 2), (0, 3)]);
    assert_eq!(batch.examples, [1, 0, 0, 0]);
    assert!(batch.target.is_none());
    let ids = ids(&batch);
    assert_eq!(ids[0][..6], [START, 3, 5, 3, END, 0]);
    assert_eq!(ids[2][..5], [START, 2, 2, END, 0]);
}

#[test]
fn pictures_of_a_mixed_batch_keep_their_order() {
    let folder = folder();
    let lines = std::fs::read_to_string(folder.path().join("data.jsonl")).unwrap();
    let lines = lines.replace(r#", "split": "val""#, "");
    std::fs::write(folder.path().join("data.jsonl"), lines).unwrap();
    let data = open(folder.path(), Sentences::Random);
    let batch = data.train("train", &[2, 0, 3, 1], 0).unwrap();
    assert_eq!(batch.pairs, [(0, 0), (1, 1), (0, 2), (1, 3)]);
    assert_eq!(batch.examples, [2, 0, 3, 1]);
    let alone = data.train("train", &[0], 0).unwrap();
    let second = batch.images.narrow(0, 1, 1).unwrap();
    assert_eq!(values(&second), values(&alone.images));
    assert_eq!(ids(&batch)[1], ids(&alone)[0]);
    let empty = batch.target.unwrap().get(2).unwrap();
    assert!(values(&empty).iter().all(|&v| v == 0.0));
}

#[test]
fn a_visit_shows_one_sentence_or_all() {
    let folder = folder();
    let random = open(folder.path(), Sentences::Random);
    let drawn = |seed| ids(&random.train("train", &[0], seed).unwrap());
    assert_eq!(drawn(5), drawn(5));
    let mut seen: Vec<_> = (0..40).flat_map(drawn).collect();
    assert_eq!(seen.len(), 40);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3);

    let all = open(folder.path(), Sentences::All);
    let batch = all.train("train", &[0, 1], 5).unwrap();
    assert_eq!(batch.examples, [0, 0, 0, 1]);
    assert_eq!(batch.images.dim(0).unwrap(), 1);
    let target = batch.target.unwrap();
    assert_eq!(target.dims(), [4, 1, SIDE, SIDE]);
    let of = |index| values(&target.get(index).unwrap());
    assert_eq!(of(0), of(2));
    assert_ne!(of(2), of(3));
}

#[test]
fn a_long_sentence_is_cut_and_said_so() {
    let folder = folder();
    let data = open(folder.path(), Sentences::Random);
    let batch = data.evaluate("val", &[1]).unwrap();
    let ids = &ids(&batch)[0];
    assert_eq!(ids.len(), 17);
    assert_eq!((ids[0], ids[16]), (START, END));
    assert!(ids[1..16].iter().all(|&id| id == 4));
    let warnings = data.warnings();
    assert_eq!(warnings.len(), 1);
    let said = warnings[0].replace(&folder.path().display().to_string(), "");
    assert_eq!(
        said,
        format!(
            "/data.jsonl: 1 of 6 sentences do not fit task.words = 17 and are cut, the first being `{}…`",
            "very ".repeat(12)
        )
    );
}

#[test]
fn what_is_not_there_is_said_by_name() {
    let folder = folder();
    std::fs::remove_file(folder.path().join("right.png")).unwrap();
    let task = ReferringSegmentation::default();
    let error = task
        .open(&folder.path().join("data.jsonl").into(), kit())
        .err()
        .unwrap();
    assert!(error.to_string().contains("right.png (line 2)"), "{error}");

    let folder = self::folder();
    let data = open(folder.path(), Sentences::Random);
    let error = data.len("test").unwrap_err();
    assert!(error.is_wrong_use());
    assert!(
        error
            .to_string()
            .contains("`train` (2 objects), `val` (2 objects)"),
        "{error}"
    );
    assert!(data.scores("test").is_err());
    let error = data.train("val", &[2], 0).unwrap_err().to_string();
    assert_eq!(error, "example 2 of split `val` was asked for; it has 2");

    std::fs::write(folder.path().join("tall.png"), [1, 2, 3]).unwrap();
    let error = data.evaluate("val", &[0]).unwrap_err().to_string();
    assert!(error.contains("tall.png: is not a picture"), "{error}");
}

/// Logits of the input's size that say what the masks of a split say.
fn right_answers(folder: &Path, batch: &Batch, side: usize) -> Tensor {
    let grey = |name: &str| image::open(folder.join(name)).unwrap().into_luma8();
    let letterbox = Letterbox::new(SIDE, 40, 20).unwrap();
    let mut logits = Vec::new();
    for example in &batch.examples {
        let mask = grey(["left.png", "right.png"][*example]);
        let mask = letterbox.mask(mask.as_raw()).unwrap();
        let step = SIDE / side;
        for y in 0..side {
            let row = mask[y * step * SIDE..(y * step + 1) * SIDE].iter();
            logits.extend(row.step_by(step).map(|&v| (f32::from(v) - 128.0) / 8.0));
        }
    }
    let pairs = batch.examples.len();
    Tensor::from_vec(logits, (pairs, 1, side, side), &Device::Cpu).unwrap()
}

#[test]
fn right_answers_score_high_and_wrong_ones_do_not() {
    let folder = folder();
    let data = open(folder.path(), Sentences::Random);
    let batch = data.evaluate("train", &[0, 1]).unwrap();
    let logits = right_answers(folder.path(), &batch, SIDE);
    let report = |logits: &Tensor| {
        let mut scores = data.scores("train").unwrap();
        assert!(scores.report().is_err());
        scores.add(&batch, &[], logits).unwrap();
        scores.report().unwrap()
    };
    let right = report(&logits);
    assert_eq!(right.count, 4);
    let names: Vec<&str> = right.scores.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, twinspan_tasks::metrics::NAMES);
    assert!(
        right.scores.iter().all(|(_, value)| *value > 90.0),
        "{right:?}"
    );
    let wrong = report(&logits.neg().unwrap());
    assert!(
        wrong.scores.iter().all(|(_, value)| *value < 5.0),
        "{wrong:?}"
    );
    let coarse = report(&right_answers(folder.path(), &batch, SIDE / 4));
    assert!(coarse.scores[0].1 > 40.0, "{coarse:?}");

    // Batch by batch, and from a data file whose pictures were not opened yet.
    let fresh = open(folder.path(), Sentences::Random);
    let mut scores = fresh.scores("train").unwrap();
    for example in [0, 1] {
        let batch = data.evaluate("train", &[example]).unwrap();
        scores
            .add(&batch, &[], &right_answers(folder.path(), &batch, SIDE))
            .unwrap();
    }
    assert_eq!(scores.report().unwrap(), right);
    assert!(
        scores
            .add(&batch, &[], &logits.narrow(0, 0, 3).unwrap())
            .is_err()
    );
}

#[test]
fn sentences_of_a_kind_are_scored_together_too() {
    let folder = folder();
    let path = folder.path().join("data.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap();
    let position = |text: &str| format!(r#"{{"text": "{text}", "kind": "position"}}"#);
    let lines = lines
        .replace(r#""the left one""#, &position("the left one"))
        .replace(r#""the right one""#, &position("the right one"))
        .replace(r#""a","#, r#"{"text": "a", "kind": "attribute"},"#);
    std::fs::write(&path, lines).unwrap();
    let data = open(folder.path(), Sentences::Random);
    let batch = data.evaluate("train", &[1, 0]).unwrap();
    // The right answers, but for the one attribute.
    let right = right_answers(folder.path(), &batch, SIDE);
    let wrong = right.neg().unwrap();
    let logits = [0, 1, 2, 3].map(|i| match i {
        1 => wrong.narrow(0, i, 1).unwrap(),
        _ => right.narrow(0, i, 1).unwrap(),
    });
    let logits = Tensor::cat(&logits, 0).unwrap();
    let mut scores = data.scores("train").unwrap();
    scores.add(&batch, &[], &logits).unwrap();
    let report = scores.report().unwrap();
    assert_eq!(report.count, 4);
    let groups: Vec<_> = report
        .groups
        .iter()
        .map(|group| (group.name.as_str(), group.count, group.scores[0].1 > 90.0))
        .collect();
    assert_eq!(groups, [("attribute", 1, false), ("position", 2, true)]);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["groups"][1]["name"], "position");

    let plain = self::folder();
    let data = open(plain.path(), Sentences::Random);
    let batch = data.evaluate("train", &[0, 1]).unwrap();
    let mut scores = data.scores("train").unwrap();
    scores
        .add(&batch, &[], &right_answers(plain.path(), &batch, SIDE))
        .unwrap();
    let report = scores.report().unwrap();
    assert!(report.groups.is_empty());
    assert!(
        serde_json::to_value(&report)
            .unwrap()
            .get("groups")
            .is_none()
    );
}
