//! The program on folders of the RefCOCO family: converted, trained on, scored by kind, and what
//! it says where something is missing.

mod scene;
mod terminal;

use std::fs;
use std::path::PathBuf;

use scene::{RECIPE, names, write};
use serde_json::Value;
use tempfile::TempDir;
use terminal::{Said, has};

/// A data file whose sentences have kinds, and a recipe.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = scene::data(folder.path());
        let lines = fs::read_to_string(&file).unwrap();
        let kinds = [("the thing", "name"), ("a coloured shape", "attribute")];
        let lines = kinds.iter().fold(lines, |lines, (text, kind)| {
            let both = format!(r#"{{"text":"{text}","kind":"{kind}"}}"#);
            lines.replace(&format!("\"{text}\""), &both)
        });
        fs::write(file, lines).unwrap();
        write(folder.path(), "recipe.toml", RECIPE);
        Self(folder)
    }

    /// With the data as a folder, too.
    fn converted() -> Self {
        let bench = Self::new();
        let said = bench.convert(
            "data.jsonl",
            "coco",
            &["--dataset", "refcoco+", "--split-by", "unc"],
        );
        assert!(said.stderr.contains("convert 8/8"), "{said:?}");
        has(
            &said.results(),
            &[
                "4 objects, 10 sentences",
                "train: 2 objects",
                "val: 2 objects",
            ],
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn convert(&self, data: &str, out: &str, more: &[&str]) -> Said {
        let mut arguments = vec!["convert".into()];
        for (flag, name) in [("--data", data), ("--out", out)] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        arguments.extend(more.iter().map(|&a| a.into()));
        terminal::run(arguments)
    }

    fn train(&self, data: &str, out: &str, more: &[&str]) -> Said {
        let mut arguments = vec!["train".into(), self.path("recipe.toml").into()];
        for (flag, name) in [("--data", data), ("--out", out)] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        arguments.extend(more.iter().map(|&a| a.into()));
        terminal::run(arguments)
    }

    fn eval(&self, data: &str, more: &[&str]) -> Said {
        let mut arguments = vec!["eval".into(), "--split".into(), "val".into()];
        for (flag, name) in [("--data", data), ("--model", "model")] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        arguments.extend(more.iter().map(|&a| a.into()));
        terminal::run(arguments)
    }

    /// A message with the folder's own name left out.
    fn message(&self, said: Said, code: i32) -> String {
        let whole = format!("{}/", self.0.path().display());
        said.error(code).replace(&whole, "")
    }
}

const NAMED: [&str; 4] = ["--dataset", "refcoco+", "--split-by", "unc"];

#[test]
fn a_folder_trains_and_scores_as_its_data_file_does() {
    let bench = Bench::converted();
    bench.train("coco", "model", &NAMED).results();
    bench.train("data.jsonl", "plain", &[]).results();
    let [folder, file] = ["model", "plain"]
        .map(|model| fs::read(bench.path(model).join("last/tuned.safetensors")).unwrap());
    assert!(folder == file, "the same pictures, masks and sentences");

    let scores = bench
        .eval("coco", &[&NAMED[..], &["--json"]].concat())
        .json();
    assert_eq!(bench.eval("data.jsonl", &["--json"]).json(), scores);
    assert_eq!(scores["count"], 5);
    let kinds: Vec<(&str, u64)> = scores["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| {
            (
                kind["kind"].as_str().unwrap(),
                kind["count"].as_u64().unwrap(),
            )
        })
        .collect();
    // One sentence has no kind.
    assert_eq!(kinds, [("attribute", 2), ("name", 2)]);
    assert!(scores["kinds"][0]["scores"]["oIoU"].is_f64());
    // What is the only one need not be named, and the folder may be the data set itself.
    let text = bench.eval("coco", &[]).results();
    assert_eq!(bench.eval("coco/refcoco+", &[]).results(), text);
    let table: Vec<&str> = text.lines().skip_while(|line| !line.is_empty()).collect();
    assert_eq!(table[1], "kind       sentences     mIoU     oIoU   Pr@0.5");
    assert!(table[2].starts_with("attribute          2  "), "{text}");
    assert!(table[3].starts_with("name               2  "), "{text}");
    assert_eq!(table.len(), 4);
}

#[test]
fn both_ways_give_the_same_lines() {
    let bench = Bench::converted();
    bench.convert("coco", "back.jsonl", &NAMED).results();
    let lines = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(bench.path(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let (before, back) = (lines("data.jsonl"), lines("back.jsonl"));
    assert_eq!(before.len(), back.len());
    for (number, (before, back)) in before.iter().zip(&back).enumerate() {
        assert_eq!(before["sentences"], back["sentences"]);
        assert_eq!(before["split"], back["split"]);
        let image = format!("coco/images/refcoco+/{:012}.png", number + 1);
        assert_eq!(back["image"], image);
        assert_eq!(
            fs::read(bench.path(&image)).unwrap(),
            fs::read(bench.path(before["image"].as_str().unwrap())).unwrap()
        );
        match number {
            2 => assert_eq!(
                back["polygons"],
                serde_json::json!([[19.0, 21.0, 38.0, 21.0, 38.0, 40.0, 19.0, 40.0]])
            ),
            _ => assert!(back["rle"]["counts"].is_string(), "{back}"),
        }
    }
    // From there to a folder again: the files are the same to the byte.
    bench.convert("back.jsonl", "coco2", &NAMED).results();
    for name in ["instances.json", "refs(unc).p"] {
        let [once, twice] =
            ["coco", "coco2"].map(|root| bench.path(root).join("refcoco+").join(name));
        assert_eq!(fs::read(once).unwrap(), fs::read(twice).unwrap(), "{name}");
    }
}

#[test]
fn missing_pictures_are_all_named_before_training() {
    let bench = Bench::converted();
    for number in [2, 4] {
        let name = format!("coco/images/refcoco+/{number:012}.png");
        fs::remove_file(bench.path(&name)).unwrap();
    }
    let before = names(bench.0.path());
    let said = bench.train("coco", "model", &NAMED);
    assert!(!said.stderr.contains("training"), "{said:?}");
    insta::assert_snapshot!(bench.message(said, 1), @"coco/refcoco+/refs(unc).p: names 2 pictures that are in none of coco/images, coco/images/train2014, coco/images/mscoco/images/train2014, coco/train2014, coco/coco/train2014, coco, coco/images/refcoco+, coco/refcoco+/images, coco/refcoco+: refcoco+/000000000002.png (image 2), refcoco+/000000000004.png (image 4)");
    assert_eq!(names(bench.0.path()), before);
}

#[test]
fn wrong_use_is_told_with_the_choices() {
    let bench = Bench::converted();
    fs::create_dir(bench.path("coco/refcocog")).unwrap();
    for split_by in ["umd", "google"] {
        let to = format!("coco/refcocog/refs({split_by}).p");
        fs::copy(bench.path("coco/refcoco+/refs(unc).p"), bench.path(&to)).unwrap();
    }
    let refusal = |more: &[&str]| bench.message(bench.train("coco", "model", more), 2);
    insta::assert_snapshot!(refusal(&[]), @"coco: has several data sets: refcoco+, refcocog; say which with --dataset");
    insta::assert_snapshot!(refusal(&["--dataset", "refcoc+"]), @"coco: has no data set `refcoc+` (did you mean `refcoco+`?); there are: refcoco+, refcocog");
    insta::assert_snapshot!(refusal(&["--dataset", "refcocog"]), @"coco/refcocog: has several divisions into splits: google, umd; say which with --split-by");
    insta::assert_snapshot!(refusal(&["--dataset", "refcocog", "--split-by", "unc"]), @"coco/refcocog: has no division into splits `unc`; there are: google, umd");
    let said = bench.train("data.jsonl", "model", &["--dataset", "refcoco+"]);
    insta::assert_snapshot!(bench.message(said, 2), @"data.jsonl: is a file, which holds one data set; `dataset` (refcoco+) is for folders of the RefCOCO family");
    let said = bench.train("data.jsonl", "model", &["--split-by", "unc"]);
    has(&bench.message(said, 2), &["data.jsonl", "`split-by` (unc)"]);
    let message = bench.message(bench.train("absent", "model", &NAMED), 1);
    has(&message, &["absent: cannot be read"]);
    assert!(!bench.path("model").exists());
}

#[test]
fn a_conversion_that_cannot_be_is_told_and_leaves_nothing() {
    let bench = Bench::converted();
    let refusal = |data: &str, out: &str, more: &[&str]| {
        let before = names(bench.0.path());
        let message = bench.message(bench.convert(data, out, more), 2);
        assert_eq!(names(bench.0.path()), before);
        message
    };
    insta::assert_snapshot!(refusal("data.jsonl", "other", &[]), @"a JSONL file is converted to a folder of the RefCOCO family: name the data set with --dataset and the division with --split-by");
    insta::assert_snapshot!(refusal("data.jsonl", "recipe.toml", &NAMED), @"--out recipe.toml is a file; a JSONL file is converted to a folder");
    insta::assert_snapshot!(refusal("coco", "coco", &NAMED), @"--out coco is a folder; a folder of the RefCOCO family is converted to a JSONL file: give it a name");
    insta::assert_snapshot!(refusal("data.jsonl", "other", &["--dataset", "a/b", "--split-by", "unc"]), @"`a/b` is no name for a data set: take letters, digits, `+`, `-`, `_` and `.`, the last not in front");
    write(&bench.path("coco/refcoco+"), "notes.txt", "mine");
    insta::assert_snapshot!(refusal("data.jsonl", "coco", &NAMED), @"coco/refcoco+: holds notes.txt, which would be lost; choose another name for the data set, or remove the folder");
    let message = bench.message(bench.convert("absent.jsonl", "other", &[]), 1);
    has(&message, &["absent.jsonl: cannot be read"]);
}
