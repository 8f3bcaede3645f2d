//! Retrieval, from lines on disk to scores, on the toy backbone.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use proptest::prelude::*;
use tempfile::TempDir;
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::evaluate::evaluate;
use twinspan_sdk::parameter::{Overlay, Params};
use twinspan_sdk::preparation::{Fit, Preparation};
use twinspan_sdk::recipe::{Recipe, TrainOptions, WeightsChoice};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, DataSource, Dataset, Head, Kit, Task};
use twinspan_sdk::testkit::{self, Toy, Words};
use twinspan_sdk::topology::Topology;
use twinspan_tasks::captions::Captions;
use twinspan_tasks::ranking::{Places, Vectors, before, places, recall};
use twinspan_tasks::retrieval::Retrieval;

fn kit() -> Kit {
    Kit {
        preparation: Preparation {
            size: Toy::SIDE,
            fit: Fit::Squash,
            ..Preparation::default()
        },
        tokenizer: Arc::new(Words),
        context: Toy::CONTEXT,
        dtype: DType::F64,
        device: Device::Cpu,
    }
}

/// Six pictures; the first in two lines, one of which is of a mask.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for number in 0..6u8 {
        let picture = RgbImage::from_fn(9, 7, |x, y| {
            Rgb([40 * number, (20 * x) as u8, (30 * y) as u8])
        });
        picture
            .save(folder.path().join(format!("{number}.png")))
            .unwrap();
        lines += &format!(
            "{{\"image\": \"{number}.png\", \"sentences\": [\"picture of {number}\", \"the {number}\"], \"split\": \"test\"}}\n"
        );
    }
    lines += r#"{"image": "0.png", "polygons": [[1,1, 2,2, 1,2]], "sentences": [{"text": "a thing", "kind": "name"}], "split": "test"}"#;
    lines += "\n{\"image\": \"0.png\", \"sentences\": [\"alone\"]}\n";
    std::fs::write(folder.path().join("data.jsonl"), lines).unwrap();
    folder
}

fn open(folder: &Path) -> Arc<dyn Dataset> {
    let source = DataSource::from(folder.join("data.jsonl"));
    Retrieval::default().open(&source, kit()).unwrap()
}

#[test]
fn lines_of_one_picture_are_one_example() {
    let folder = folder();
    let captions = Captions::open(folder.path().join("data.jsonl")).unwrap();
    let test = &captions.splits["test"];
    assert_eq!(test.len(), 6);
    assert_eq!(test[0].sentences, ["picture of 0", "the 0", "a thing"]);
    assert_eq!(captions.splits["train"][0].sentences, ["alone"]);

    let data = open(folder.path());
    let batch = data.evaluate("test", &[1, 0]).unwrap();
    let owners = batch.target.unwrap().to_vec1::<u32>().unwrap();
    assert_eq!(owners, [0, 0, 1, 1, 1]);
    assert_eq!(batch.tokens.dims(), [5, Toy::CONTEXT]);
    assert_eq!(batch.pairs.len(), 10);
    assert_eq!(batch.examples, [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_visit_in_training_shows_one_sentence_of_each_picture() {
    let folder = folder();
    let data = open(folder.path());
    let all = data.evaluate("test", &[0]).unwrap().tokens;
    let all: Vec<Vec<u32>> = all.to_vec2().unwrap();
    let mut seen = [0; 3];
    for seed in 0..60 {
        let batch = data.train("test", &[3, 0], seed).unwrap();
        assert_eq!(batch.pairs, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        let shown: Vec<Vec<u32>> = batch.tokens.to_vec2().unwrap();
        let which = all.iter().position(|ids| *ids == shown[1]).unwrap();
        seen[which] += 1;
    }
    // Each of three is expected 20 times of 60; ten are 2.7 deviations away.
    assert!(seen.iter().all(|times| *times > 9), "{seen:?}");
}

#[test]
fn lines_that_are_no_captions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.jsonl");
    let said = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let error = Captions::of(&DataSource::from(file.as_path())).unwrap_err();
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    };
    insta::assert_snapshot!(said("\n"), @r#"data.jsonl: has no lines; each is one JSON object such as {"image": "images/1.jpg", "sentences": ["a cat on a mat"]}"#);
    insta::assert_snapshot!(said(r#"{"image": "1.png", "sentences": []}"#), @"data.jsonl:1: `sentences` is empty; give at least one");
    insta::assert_snapshot!(said(r#"{"image": "", "sentences": ["a"]}"#), @"data.jsonl:1: `image` is empty");
    insta::assert_snapshot!(said(r#"{"image": "1.png", "captions": ["a"]}"#), @"data.jsonl:1: unknown field `captions`, expected one of `image`, `mask`, `polygons`, `rle`, `sentences`, `split` (column 29)");
    insta::assert_snapshot!(said(r#"{"image": "1.png", "sentences": ["a"]}"#), @"data.jsonl: names 1 file that do not exist: 1.png (line 1)");
}

fn vectors(rows: &[[f32; 2]]) -> Vectors {
    let mut vectors = Vectors::default();
    vectors
        .push(&Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap())
        .unwrap();
    vectors
}

#[test]
fn places_by_hand() {
    assert_eq!(before([0.1, 0.5, 0.9], 0.5), 2);
    assert_eq!(before([0.1, f32::NAN], 0.5), 1);
    assert_eq!(before([0.1, 0.2], f32::NAN), 2);
    assert_eq!(before([], 0.0), 0);
    assert_eq!(recall(&[0, 0, 3, 5], 1), 50.0);
    assert_eq!(recall(&[0, 0, 3, 5], 5), 75.0);
    assert_eq!(recall(&[], 1), 0.0);

    // Two pictures along the axes; of the sentences the first is nearest its own picture, the
    // second lies between both, the third is of the first picture and looks like the second.
    let pictures = vectors(&[[2.0, 0.0], [0.0, 3.0]]);
    let sentences = vectors(&[[5.0, 1.0], [1.0, 1.0], [0.0, 1.0]]);
    let found = places(&pictures, &sentences, &[0, 1, 0]).unwrap();
    let expected = Places {
        sentences: vec![0, 1],
        pictures: vec![0, 1, 1],
    };
    assert_eq!(found, expected);

    // All alike: nobody is first.
    let alike = vectors(&[[1.0, 2.0]; 3]);
    let found = places(&alike, &alike, &[0, 1, 2]).unwrap();
    assert_eq!((found.sentences, found.pictures), (vec![2; 3], vec![2; 3]));

    assert!(places(&pictures, &sentences, &[0, 1]).is_err());
    assert!(places(&pictures, &sentences, &[0, 1, 2]).is_err());
    let mut wide = vectors(&[[1.0, 0.0]]);
    let three = Tensor::new(&[[1f32, 0.0, 0.0]], &Device::Cpu).unwrap();
    assert!(wide.push(&three).is_err());
}

#[test]
fn the_nearest_come_first() {
    let rows = vectors(&[[0.0, 1.0], [1.0, 0.1], [0.0, 0.0], [3.0, 0.3], [1.0, 0.0]]);
    let query = vectors(&[[2.0, 0.0]]);
    let found: Vec<usize> = rows
        .nearest(&query, 0, 4)
        .into_iter()
        .map(|(i, _)| i)
        .collect();
    assert_eq!(found[0], 4);
    assert_eq!(found[3], 0);
    assert_eq!(rows.nearest(&query, 0, 1)[0].1, 1.0);
    assert_eq!(rows.nearest(&query, 0, 10).len(), 4);
}

proptest! {
    /// The places are those that plain sorting gives, whatever the order of pictures.
    #[test]
    fn places_are_counted_right(
        values in prop::collection::vec(prop::array::uniform2(-3i8..=3), 3..140),
        turn in 0usize..7,
    ) {
        let float = |rows: &[[i8; 2]]| -> Vec<[f32; 2]> {
            rows.iter().map(|row| row.map(|x| f32::from(x) + 0.5)).collect()
        };
        let third = values.len() / 3;
        let (pictures, sentences) = values.split_at(third);
        let (pictures, sentences) = (float(pictures), float(sentences));
        let owners: Vec<usize> = (0..sentences.len()).map(|s| (s + turn) % third).collect();
        // Only pictures with a sentence have a place worth the name.
        let found = places(&vectors(&pictures), &vectors(&sentences), &owners).unwrap();
        prop_assert_eq!(found.sentences.len(), third);
        for (s, place) in found.pictures.iter().enumerate() {
            let one = vectors(&sentences[s..=s]);
            let near = vectors(&pictures).nearest(&one, 0, third);
            let own = near.iter().find(|(p, _)| *p == owners[s]).unwrap().1;
            let ahead = near.iter().filter(|(p, c)| *p != owners[s] && *c >= own).count();
            prop_assert_eq!(*place, ahead);
        }
    }
}

fn head(topology: &Topology) -> Box<dyn Head> {
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 0, false, DType::F64, &Device::Cpu);
    Retrieval::default().head(topology, &mut params).unwrap()
}

fn batch(owners: &[u32]) -> Batch {
    let nothing = Tensor::zeros((1, 1), DType::U32, &Device::Cpu).unwrap();
    Batch {
        images: nothing.clone(),
        tokens: nothing,
        pairs: Vec::new(),
        target: Some(Tensor::new(owners, &Device::Cpu).unwrap()),
        examples: Vec::new(),
    }
}

#[test]
fn the_loss_is_the_backbone_s_contrast() {
    let topology = Toy::default().topology().unwrap();
    let logits = [[2.0, 0.5], [-1.0, 1.0f64]];
    let tensor = Tensor::new(&logits, &Device::Cpu).unwrap();
    let loss = |topology: &Topology| {
        let loss = head(topology).loss(&tensor, &batch(&[0, 1])).unwrap();
        loss.to_scalar::<f64>().unwrap()
    };
    let share = |own: f64, other: f64| (own.exp() / (own.exp() + other.exp())).ln();
    let by_picture = share(2.0, 0.5) + share(1.0, -1.0);
    let by_sentence = share(2.0, -1.0) + share(1.0, 0.5);
    let expected = -(by_picture + by_sentence) / 4.0;
    assert!((loss(&topology) - expected).abs() < 1e-12);

    let log_sigmoid = |x: f64| (1.0 / (1.0 + (-x).exp())).ln();
    let pairs = [(2.0, 1.0), (0.5, -1.0), (-1.0, -1.0), (1.0, 1.0)];
    let sum: f64 = pairs.map(|(x, z)| log_sigmoid(x * z)).iter().sum();
    assert!((loss(&topology.clone().sigmoid()) + sum / 2.0).abs() < 1e-12);

    let error = head(&topology).loss(&tensor, &batch(&[1, 0])).unwrap_err();
    insta::assert_snapshot!(error, @"2 sentences for 2 pictures: a batch to learn from has one of each, in their order");
}

#[test]
fn a_split_is_ranked_whole_however_it_is_cut() {
    let folder = folder();
    let data = open(folder.path());
    let recipe = Recipe {
        backbone: Configured::<dyn Backbone>::of(Toy::default()).unwrap(),
        weights: WeightsChoice::default(),
        adapters: Vec::new(),
        task: Configured::<dyn Task>::of(Retrieval::default()).unwrap(),
        train: TrainOptions::default(),
    };
    let tuned = testkit::tuned(&recipe).unwrap();
    let report = |batch| evaluate(&tuned, data.as_ref(), "test", batch, &mut |_, _| {}).unwrap();
    let whole = report(6);
    assert_eq!((whole.count, whole.unit), (6, "pictures"));
    let names: Vec<&str> = whole.scores.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "T2I R@1", "T2I R@5", "T2I R@10", "I2T R@1", "I2T R@5", "I2T R@10"
        ]
    );
    // Six pictures are all among the first ten.
    assert_eq!(whole.scores[2].1, 100.0);
    assert!(whole.scores[0].1 < 100.0);
    for batch in [1, 4] {
        assert_eq!(report(batch), whole);
    }
    assert!(data.scores("test").unwrap().report().is_err());
    assert!(data.scores("val").is_err());
    let (features, logits) = tuned
        .predict(&data.evaluate("test", &[0, 1]).unwrap())
        .unwrap();
    assert_eq!(logits.dims(), [2, 5]);
    let mut scores = data.scores("test").unwrap();
    assert!(scores.add(&batch(&[0]), &[] as &[Stream], &logits).is_err());
    assert!(
        scores
            .add(&batch(&[0, 0, 0, 1, 1]), &features, &logits)
            .is_ok()
    );
}
