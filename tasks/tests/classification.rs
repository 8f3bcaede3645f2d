//! Classification, from folders on disk to scores, on the toy backbone.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use tempfile::TempDir;
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::evaluate::evaluate;
use twinspan_sdk::parameter::{Overlay, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::preparation::{Fit, Preparation};
use twinspan_sdk::recipe::{Recipe, TrainOptions, WeightsChoice};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, DataSource, Dataset, Kit, Task};
use twinspan_sdk::testkit::{self, Toy, Words};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::train::Trainer;
use twinspan_sdk::tuned::{Inputs, Tuned};
use twinspan_tasks::classification::{Classification, HeadChoice, predict};

const COLOURS: [(&str, [u8; 3]); 3] = [
    ("deep_red", [220, 30, 20]),
    ("green", [20, 200, 40]),
    ("blue", [30, 40, 210]),
];

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

/// A picture of about one colour.
fn picture(colour: [u8; 3], number: u32) -> RgbImage {
    RgbImage::from_fn(9, 7, |x, y| {
        let noise = (x * 31 + y * 17 + number * 57) % 23;
        Rgb(colour.map(|c| c.saturating_add(noise as u8)))
    })
}

/// `count` pictures of each colour in `folder/COLOUR`.
fn fill(folder: &Path, count: u32) {
    for (name, colour) in COLOURS {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..count {
            let path = folder.join(format!("{number:02}.png"));
            picture(colour, number).save(path).unwrap();
        }
    }
}

fn whole(count: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), count);
    folder
}

fn open(task: &Classification, path: &Path) -> Arc<dyn Dataset> {
    task.open(&DataSource::from(path), kit()).unwrap()
}

/// What opening says, with the folder's own name left out.
fn refusal(task: &Classification, path: &Path) -> String {
    let error = match task.open(&DataSource::from(path), kit()) {
        Ok(_) => return "not refused".into(),
        Err(error) => error.to_string(),
    };
    error.replace(&path.display().to_string(), "DIR")
}

fn topology() -> Topology {
    Toy::default().topology().unwrap()
}

fn model(task: &Classification, train: TrainOptions) -> (Recipe, Tuned) {
    let recipe = Recipe {
        backbone: Configured::<dyn Backbone>::of(Toy::default()).unwrap(),
        weights: WeightsChoice::default(),
        adapters: Vec::new(),
        task: Configured::<dyn Task>::of(task.clone()).unwrap(),
        train,
    };
    let tuned = testkit::tuned(&recipe).unwrap();
    (recipe, tuned)
}

fn named() -> Classification {
    Classification {
        classes: ["blue", "deep red", "green"].map(String::from).into(),
        ..Default::default()
    }
}

fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    tensor.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
}

fn unit(row: &[f64]) -> Vec<f64> {
    let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    row.iter().map(|x| x / length).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn zero_shot_is_the_similarity_with_each_class_s_prompt() {
    let folder = whole(10);
    let task = named();
    let data = open(&task, folder.path());
    let (_, tuned) = model(&task, TrainOptions::default());
    let batch = data.evaluate("test", &[0, 2]).unwrap();
    assert_eq!(
        batch.pairs,
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    );
    assert_eq!(batch.examples, [0, 0, 0, 2, 2, 2]);
    let target = batch.target.clone().unwrap();
    assert_eq!(target.to_vec1::<u32>().unwrap(), [0, 2]);

    let vectors = |tap: Tap| {
        let inputs = Inputs {
            images: Some(batch.images.clone()),
            tokens: Some(batch.tokens.clone()),
            ..Inputs::default()
        };
        let route = tuned.route(&[tap]).unwrap();
        let mut streams = route.walk(&inputs, &mut Pass::predict()).unwrap();
        rows(&streams.remove(0).data)
    };
    let (pictures, prompts) = (
        vectors(Tap::vision(At::Pooled)),
        vectors(Tap::text(At::Pooled)),
    );
    let (_, logits) = tuned.predict(&batch).unwrap();
    let logits = rows(&logits);
    let scale = logits[0][0] / dot(&unit(&pictures[0]), &unit(&prompts[0]));
    for (row, picture) in logits.iter().zip(&pictures) {
        for (logit, prompt) in row.iter().zip(&prompts) {
            let expected = scale * dot(&unit(picture), &unit(prompt));
            assert!((logit - expected).abs() < 1e-9, "{logit} {expected}");
        }
    }
    assert!(scale > 0.0);
}

/// The features of a head that reads similarities and prompts, from vectors.
fn features(pictures: &[[f64; 3]], prompts: &[[f64; 3]], scale: f64, bias: f64) -> Vec<Stream> {
    let logits = pictures.iter().flat_map(|p| {
        let p = unit(p);
        prompts
            .iter()
            .map(move |t| scale * dot(&p, &unit(t)) + bias)
    });
    let shape = (pictures.len(), prompts.len());
    let logits = Tensor::from_vec(logits.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap();
    let prompts = Tensor::from_vec(prompts.concat(), (prompts.len(), 3), &Device::Cpu).unwrap();
    vec![Stream::pooled(logits), Stream::pooled(prompts)]
}

fn head_gives(task: &Classification, topology: &Topology, features: &[Stream]) -> Vec<Vec<f64>> {
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 0, false, DType::F64, &Device::Cpu);
    let head = task.head(topology, &mut params).unwrap();
    rows(&head.forward(features, &mut Pass::predict()).unwrap())
}

#[test]
fn templates_are_averaged_as_vectors() {
    let task = Classification {
        classes: vec!["a".into(), "b".into()],
        templates: vec!["{}".into(), "a {} {}".into()],
        ..Default::default()
    };
    assert_eq!(task.prompts(), ["a", "a a a", "b", "a b b"]);
    let pictures = [[1.0, 2.0, -1.0], [0.5, -1.0, 3.0]];
    let prompts = [
        [1.0, 0.0, 0.5],
        [0.0, 2.0, 0.1],
        [3.0, -1.0, 0.0],
        [0.2, 0.2, 0.9],
    ];
    let reads = task.reads(&topology()).unwrap();
    assert_eq!(reads, [Tap::vision(At::Logits), Tap::text(At::Pooled)]);
    let found = head_gives(&task, &topology(), &features(&pictures, &prompts, 7.0, 0.0));
    for (row, picture) in found.iter().zip(&pictures) {
        for (logit, of_class) in row.iter().zip(prompts.chunks_exact(2)) {
            let (a, b) = (unit(&of_class[0]), unit(&of_class[1]));
            let mean: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
            let expected = 7.0 * dot(&unit(picture), &unit(&mean));
            assert!((logit - expected).abs() < 1e-12, "{logit} {expected}");
        }
    }

    // Pair by pair, the bias stays what it is: the mean of both logits.
    let sigmoid = topology().sigmoid();
    assert_eq!(task.reads(&sigmoid).unwrap(), [Tap::vision(At::Logits)]);
    let given = features(&pictures, &prompts, 7.0, -3.0);
    let found = head_gives(&task, &sigmoid, &given[..1]);
    for (row, logits) in found.iter().zip(rows(&given[0].data)) {
        assert_eq!(row[0], (logits[0] + logits[1]) / 2.0);
        assert_eq!(row[1], (logits[2] + logits[3]) / 2.0);
    }

    // A batch of another task's sentences.
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 0, false, DType::F64, &Device::Cpu);
    let head = task.head(&topology(), &mut params).unwrap();
    let odd = features(&pictures, &prompts[..3], 7.0, 0.0);
    let error = head.forward(&odd, &mut Pass::predict()).unwrap_err();
    insta::assert_snapshot!(error, @"the prompts of a batch, 2 a class, has shape [2, 3]; expected [2, 2]");
}

#[test]
fn a_linear_probe_learns_what_a_line_tells_apart() {
    let folder = whole(10);
    let task = Classification {
        head: HeadChoice::Linear,
        ..named()
    };
    let options = TrainOptions {
        rate: 0.05,
        weight_decay: 0.0,
        ..TrainOptions::default()
    };
    let (recipe, mut tuned) = model(&task, options);
    assert_eq!(task.reads(&topology()).unwrap(), [Tap::vision(At::Pooled)]);
    let data = open(&task, folder.path());
    let all: Vec<usize> = (0..data.len("train").unwrap()).collect();
    let batch = data.train("train", &all, 0).unwrap();
    let mut trainer = Trainer::new(&mut tuned, &recipe.train, 80).unwrap();
    let first = trainer.step(std::slice::from_ref(&batch)).unwrap().loss;
    // All classes alike at the start.
    assert!((first - 3f64.ln()).abs() < 1e-12, "{first}");
    let mut last = first;
    for _ in 1..80 {
        last = trainer.step(std::slice::from_ref(&batch)).unwrap().loss;
    }
    assert!(last < 0.5 * first, "{first} {last}");
    drop(trainer);
    for split in ["train", "val", "test"] {
        let report = evaluate(&tuned, data.as_ref(), split, 2, &mut |_, _| {}).unwrap();
        assert_eq!(report.scores[0], ("top-1".into(), 100.0), "{split}");
    }
}

#[test]
fn pictures_in_another_order_give_results_in_that_order() {
    let folder = whole(10);
    for head in [HeadChoice::Similarity, HeadChoice::Linear] {
        let task = Classification { head, ..named() };
        let data = open(&task, folder.path());
        let (_, tuned) = model(&task, TrainOptions::default());
        for trained in tuned.overlay.trained.values() {
            let shape = trained.var.dims();
            let values = (0..trained.var.elem_count()).map(|i| (i as f64).sin());
            let value = Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap();
            trained.var.set(&value).unwrap();
        }
        let logits = |indices: &[usize]| {
            let batch: Batch = data.evaluate("train", indices).unwrap();
            rows(&tuned.predict(&batch).unwrap().1)
        };
        let (here, there) = (logits(&[0, 9, 20]), logits(&[20, 0, 9]));
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            let off = here[a].iter().zip(&there[b]).map(|(x, y)| (x - y).abs());
            assert!(off.fold(0.0, f64::max) < 1e-12);
        }
        assert_ne!(here[0], here[1]);
    }
}

/// How many examples each split has.
fn counts(data: &dyn Dataset) -> Vec<(String, usize)> {
    data.splits().into_iter().collect()
}

#[test]
fn data_without_splits_is_divided_by_the_seed() {
    let folder = whole(10);
    let open = |shots, seed| {
        let task = Classification {
            shots,
            seed,
            ..Default::default()
        };
        open(&task, folder.path())
    };
    let split = |name: &str, count| (name.to_string(), count);
    let all = open(0, 0);
    assert_eq!(
        counts(all.as_ref()),
        [split("test", 3), split("train", 24), split("val", 3)]
    );
    let few = open(2, 0);
    assert_eq!(
        counts(few.as_ref()),
        [split("test", 18), split("train", 6), split("val", 6)]
    );
    let five = open(5, 0);
    assert_eq!(
        counts(five.as_ref()),
        [split("test", 3), split("train", 15), split("val", 12)]
    );

    // Every picture is in one split, and the same seed draws the same.
    let pictures = |data: &dyn Dataset| -> Vec<Vec<f64>> {
        let of = |split: &str| {
            let all: Vec<usize> = (0..data.len(split).unwrap()).collect();
            let images = data.evaluate(split, &all).unwrap().images;
            rows(&images.flatten_from(1).unwrap())
        };
        ["train", "val", "test"].map(of).concat()
    };
    let (one, same, other) = (
        pictures(few.as_ref()),
        pictures(open(2, 0).as_ref()),
        pictures(open(2, 1).as_ref()),
    );
    assert_eq!(one, same);
    assert_ne!(one, other);
    let sorted = |mut rows: Vec<Vec<f64>>| {
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        rows
    };
    assert_eq!(sorted(one), sorted(other));

    // A class less changes no draw of the others; nor does a hidden file.
    let before = few.evaluate("train", &[0, 1]).unwrap().images;
    std::fs::write(folder.path().join("blue/.DS_Store"), "").unwrap();
    std::fs::remove_dir_all(folder.path().join("green")).unwrap();
    let fewer = open(2, 0);
    assert_eq!(counts(fewer.as_ref())[1], split("train", 4));
    let after = fewer.evaluate("train", &[0, 1]).unwrap().images;
    assert_eq!(
        rows(&before.flatten_from(1).unwrap()),
        rows(&after.flatten_from(1).unwrap())
    );
}

#[test]
fn splits_that_are_there_stay_and_shots_are_drawn_of_what_trains() {
    let folder = tempfile::tempdir().unwrap();
    for (split, count) in [("train", 5), ("test", 4)] {
        fill(&folder.path().join(split), count);
    }
    let task = Classification {
        shots: 3,
        ..Default::default()
    };
    let data = open(&task, folder.path());
    let expected = [("test".to_string(), 12), ("train".to_string(), 9)];
    assert_eq!(counts(data.as_ref()), expected);

    // The same as lines.
    let mut lines = String::new();
    for split in ["train", "test"] {
        for (name, _) in COLOURS {
            for number in 0..if split == "train" { 5 } else { 4 } {
                lines += &format!(
                    "{{\"image\": \"{split}/{name}/{number:02}.png\", \"label\": \"{}\", \"split\": \"{split}\"}}\n",
                    name.replace('_', " ")
                );
            }
        }
    }
    let file = folder.path().join("data.jsonl");
    std::fs::write(&file, lines).unwrap();
    let of_lines = open(&task, &file);
    assert_eq!(counts(of_lines.as_ref()), expected);
    let images = |data: &dyn Dataset| {
        let batch = data.train("train", &[0, 4, 8], 0).unwrap();
        rows(&batch.images.flatten_from(1).unwrap())
    };
    assert_eq!(images(data.as_ref()), images(of_lines.as_ref()));
}

#[test]
fn the_recipe_learns_the_classes_from_the_data() {
    let folder = whole(1);
    let source = DataSource::from(folder.path());
    let task = Classification {
        head: HeadChoice::Linear,
        ..Default::default()
    };
    let fitted = task.fitted(&source).unwrap().unwrap();
    let fitted: Classification = fitted.try_into().unwrap();
    let expected = Classification {
        head: HeadChoice::Linear,
        ..named()
    };
    assert_eq!(fitted, expected);
    // What the options say stays, and no data is looked at.
    let nowhere = DataSource::from(Path::new("nowhere"));
    assert_eq!(fitted.fitted(&nowhere).unwrap(), None);
}

#[test]
fn folders_that_are_no_classes_are_refused() {
    let task = Classification::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    insta::assert_snapshot!(refusal(&task, path), @"DIR: has no folder in it; the pictures of each class lie in a folder of their own, as in DIR/cat/1.jpg or DIR/train/cat/1.jpg");
    std::fs::create_dir(path.join("cat")).unwrap();
    std::fs::write(path.join("cat/notes.txt"), "").unwrap();
    insta::assert_snapshot!(refusal(&task, path), @"DIR/cat: has no picture; the names of pictures end in png, jpg, jpeg, bmp, gif, webp");
    picture([9; 3], 0).save(path.join("cat/1.png")).unwrap();
    insta::assert_snapshot!(refusal(&task, path), @"task `classification`: there is one class, `cat`; it takes two to tell apart");
    std::fs::create_dir(path.join("cat/more")).unwrap();
    insta::assert_snapshot!(refusal(&task, path), @"DIR/cat/more: is a folder within a class; the pictures of a class lie in its folder itself");
    std::fs::remove_dir(path.join("cat/more")).unwrap();
    fill(&path.join("test"), 1);
    insta::assert_snapshot!(refusal(&task, path), @"DIR: has splits (test) and beside them cat; put the classes into splits, or have no splits");
    std::fs::remove_dir_all(path.join("cat")).unwrap();
    fill(&path.join("train"), 3);
    std::fs::remove_dir_all(path.join("train/green")).unwrap();
    insta::assert_snapshot!(refusal(&task, path), @"DIR: split `test` has the class `green`, which `train` lacks; name the classes in task.classes if that is meant");
    assert_eq!(refusal(&named(), path), "not refused");
    let strange = Classification {
        classes: vec!["blue".into(), "deep-red".into(), "green".into()],
        ..Default::default()
    };
    insta::assert_snapshot!(refusal(&strange, path), @"DIR: split `test` has the class `deep red` (is it `deep-red`?), which is not among the model's: blue, deep-red, green");
    let few = Classification {
        shots: 4,
        ..named()
    };
    insta::assert_snapshot!(refusal(&few, path), @"DIR: class `blue` has 3 pictures; task.shots takes 4 of each, to train on");
    std::fs::create_dir(path.join("val")).unwrap();
    insta::assert_snapshot!(refusal(&task, path), @"DIR/val: has no folder in it; the pictures of each class lie in a folder of their own, as in DIR/val/cat/1.jpg or DIR/val/train/cat/1.jpg");
    insta::assert_snapshot!(refusal(&task, &path.join("nowhere")), @"DIR: cannot be read: No such file or directory (os error 2)");
    let whole = whole(3);
    let two = Classification {
        shots: 2,
        ..Default::default()
    };
    insta::assert_snapshot!(refusal(&two, whole.path()), @"DIR: class `blue` has 3 pictures; task.shots takes 5 of each, to train on, 2 to validate and one to test");
    let source = DataSource {
        dataset: Some("scenes".into()),
        ..DataSource::from(whole.path())
    };
    let said = task.fitted(&source).unwrap_err().to_string();
    insta::assert_snapshot!(said.replace(&whole.path().display().to_string(), "DIR"), @"DIR: is one data set; `dataset` (scenes) is for folders of the RefCOCO family");
}

#[test]
fn what_is_no_picture_is_named_when_it_is_opened() {
    let folder = whole(1);
    let path = folder.path();
    std::fs::write(path.join("blue/00.png"), "these are notes").unwrap();
    std::fs::write(path.join("blue/notes.txt"), "").unwrap();
    let data = open(&Classification::default(), path);
    let error = data.train("train", &[0], 0).unwrap_err().to_string();
    let at = path.display().to_string();
    insta::assert_snapshot!(error.replace(&at, "DIR"), @"DIR/blue/00.png: is not a picture; PNG, JPEG, BMP, GIF and WebP are read, recognised by their content and not by the file's name");
    let notes: Vec<String> = data
        .warnings()
        .iter()
        .map(|n| n.replace(&at, "DIR"))
        .collect();
    insta::assert_snapshot!(notes.join("\n"), @"DIR: 1 file left out, for a picture's name ends in png, jpg, jpeg, bmp, gif, webp; the first is DIR/blue/notes.txt");
    let error = data.evaluate("val", &[0]).unwrap_err().to_string();
    insta::assert_snapshot!(error.replace(&at, "DIR"), @"DIR: has no split `val`; its splits are `train` (3 pictures)");
    let error = data.evaluate("train", &[3]).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"example 3 of split `train` was asked for; it has 3");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let said = |task: Classification| task.reads(&topology()).unwrap_err().to_string();
    let none = Classification {
        templates: Vec::new(),
        ..Default::default()
    };
    insta::assert_snapshot!(said(none), @r#"task `classification`: `templates` is empty; give at least one, as "a photo of a {}.""#);
    let placeless = Classification {
        templates: vec!["a photo".into()],
        ..Default::default()
    };
    insta::assert_snapshot!(said(placeless), @"task `classification`: the template `a photo` lacks {}, the place of the class's name");
    let twice = Classification {
        classes: vec!["a".into(), "b".into(), "a".into()],
        ..Default::default()
    };
    insta::assert_snapshot!(said(twice), @"task `classification`: `classes` has `a` twice");
    let blank = Classification {
        classes: vec!["a".into(), " ".into()],
        ..Default::default()
    };
    insta::assert_snapshot!(said(blank), @"task `classification`: `classes` has a blank name");
    let long = Classification {
        words: 25,
        ..Default::default()
    };
    insta::assert_snapshot!(said(long), @"task `classification`: `words` must be 0 or lie between 3 and 24, the backbone's longest sentence; got 25");
    let open = Classification {
        head: HeadChoice::Linear,
        ..Default::default()
    };
    let mut overlay = Overlay::default();
    let mut params = Params::new(&mut overlay, "head", 0, true, DType::F32, &Device::Cpu);
    let error = open.head(&topology(), &mut params).err().unwrap();
    insta::assert_snapshot!(error, @"task `classification`: a linear head has a row a class: name them in `classes`, or train on data, which tells them");
}

#[test]
fn a_tie_counts_against_and_classes_weigh_alike() {
    let folder = tempfile::tempdir().unwrap();
    for (class, count) in [("a", 3), ("b", 1)] {
        let class = folder.path().join("test").join(class);
        std::fs::create_dir_all(&class).unwrap();
        for number in 0..count {
            let path = class.join(format!("{number}.png"));
            picture([number as u8; 3], 0).save(path).unwrap();
        }
    }
    let data = open(&Classification::default(), folder.path());
    let batch = data.evaluate("test", &[0, 1, 2, 3]).unwrap();
    let mut scores = data.scores("test").unwrap();
    assert!(scores.report().is_err());
    // Right, a tie, not a number; and the one of the other class right.
    let logits = [[2f32, 1.0], [1.0, 1.0], [f32::NAN, 0.0], [-1.0, 0.0]];
    let logits = Tensor::new(&logits, &Device::Cpu).unwrap();
    scores.add(&batch, &[], &logits).unwrap();
    let report = scores.report().unwrap();
    assert_eq!(
        (report.count, report.unit, report.part),
        (4, "pictures", "class")
    );
    let named = |name: &str, value: f64| (name.to_string(), value);
    assert_eq!(report.scores[0], named("top-1", 50.0));
    assert!((report.scores[1].1 - (100.0 / 3.0 + 100.0) / 2.0).abs() < 1e-9);
    assert_eq!(report.scores[1].0, "per-class");
    assert_eq!(
        (report.groups[0].name.as_str(), report.groups[0].count),
        ("a", 3)
    );
    assert_eq!(report.groups[1].scores, [named("top-1", 100.0)]);
    let short = logits.narrow(0, 0, 3).unwrap();
    assert!(scores.add(&batch, &[], &short).is_err());
}

#[test]
fn pictures_at_hand_get_the_probabilities_of_the_data() {
    let folder = whole(4);
    let task = named();
    let data = open(&task, folder.path());
    let (_, tuned) = model(&task, TrainOptions::default());
    let pictures: Vec<RgbImage> = (0..4).map(|n| picture(COLOURS[2].1, n)).collect();
    let found = predict::classify(&tuned, &task, &kit(), &pictures).unwrap();
    assert_eq!((found.len(), found[0].len()), (4, 3));
    for row in &found {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
    // The first four of `train` are blue; which of the files is the draw's.
    let batch = data.evaluate("train", &[0]).unwrap();
    let (_, logits) = tuned.predict(&batch).unwrap();
    let row = rows(&predict::probabilities(&logits, tuned.topology.contrast).unwrap()).remove(0);
    let near = |of: &Vec<f32>| {
        of.iter()
            .zip(&row)
            .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6)
    };
    assert!(found.iter().any(near));
    let error = predict::classify(&tuned, &Classification::default(), &kit(), &pictures);
    insta::assert_snapshot!(error.unwrap_err(), @"there are no classes to tell apart: name them in task.classes");
}
