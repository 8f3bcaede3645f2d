//! Folders of the RefCOCO family: every form of pickle and mask, what is
//! chosen, what is missing, and the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{GrayImage, Luma, RgbImage};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use twinspan_sdk::task::DataSource;
use twinspan_tasks::jsonl;
use twinspan_tasks::record::{Record, Records, Region, Sentence};
use twinspan_tasks::refcoco::{self, RefcocoError};
use twinspan_tasks::run_length::RunLengths;

const PICKLES: [&str; 4] = ["protocol0.p", "python2.p", "protocol2.p", "protocol4.p"];

fn pickle(name: &str) -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/refcoco");
    fs::read(data.join(name)).unwrap()
}

/// Picture 7 is 6 x 4, picture 8 is 5 x 3.
fn instances() -> Value {
    json!({
        "info": {}, "licenses": [],
        "images": [
            {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 6, "height": 4, "license": 1},
            {"id": 8, "file_name": "COCO_train2014_000000000008.jpg", "width": 5, "height": 3},
            {"id": 9, "file_name": "of no reference.jpg", "width": 5, "height": 3},
        ],
        "annotations": [
            {"id": 11, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 8.0, "bbox": [0, 0, 2, 4],
             "segmentation": {"size": [4, 6], "counts": "08`0"}},
            {"id": 12, "image_id": 7, "category_id": 1, "iscrowd": 1, "area": 5.0, "bbox": [2, 0, 2, 4],
             "segmentation": {"size": [4, 6], "counts": [9, 3, 1, 2, 9]}},
            {"id": 13, "image_id": 8, "category_id": 1, "iscrowd": 0, "area": 4.0, "bbox": [0, 0, 5, 3],
             "segmentation": [[0, 0, 2, 0, 2, 1, 0, 1], [3, 2, 5, 2, 5, 3, 3, 3]]},
            {"id": 14, "image_id": 9, "segmentation": {"size": [1, 1], "counts": [-1]}},
        ],
        "categories": [{"id": 1, "name": "thing"}],
    })
}

/// A folder with the data set `refcoco+` by `unc` and two pictures.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(folder.path("images/train2014")).unwrap();
        for (number, (width, height)) in [(7, (6, 4)), (8, (5, 3))] {
            let name = format!("images/train2014/COCO_train2014_{number:012}.jpg");
            RgbImage::new(width, height)
                .save(folder.path(&name))
                .unwrap();
        }
        folder.with("refcoco+", "unc", &pickle("protocol2.p"), &instances());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(&self, dataset: &str, split_by: &str, references: &[u8], instances: &Value) {
        let folder = self.path(dataset);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("refs({split_by}).p")), references).unwrap();
        fs::write(folder.join("instances.json"), instances.to_string()).unwrap();
    }

    fn source(&self, dataset: Option<&str>, split_by: Option<&str>) -> DataSource {
        DataSource {
            path: self.0.path().into(),
            dataset: dataset.map(String::from),
            split_by: split_by.map(String::from),
        }
    }

    fn open(&self) -> Result<Records, RefcocoError> {
        refcoco::open(&self.source(None, None))
    }

    /// A message with the folder's own name left out.
    fn said(&self, error: RefcocoError) -> String {
        let said = error.to_string();
        assert!(!said.contains('\n'), "{said}");
        said.replace(&format!("{}/", self.0.path().display()), "")
            .replace(&self.0.path().display().to_string(), "ROOT")
    }

    /// What is said of other annotations.
    fn refusal(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut instances = instances();
        change(&mut instances);
        self.with("refcoco+", "unc", &pickle("protocol2.p"), &instances);
        self.said(self.open().unwrap_err())
    }
}

fn inside(record: &Record) -> Vec<bool> {
    let size = record.open_picture().unwrap().dimensions();
    record.open_mask(size).unwrap().inside()
}

/// Rows of `#` and `.` as truths.
fn drawn(rows: &[&str]) -> Vec<bool> {
    rows.concat().bytes().map(|byte| byte == b'#').collect()
}

#[test]
fn every_protocol_gives_the_same_records() {
    let folder = Folder::new();
    let expected = folder.open().unwrap();
    for name in PICKLES {
        folder.with("refcoco+", "unc", &pickle(name), &instances());
        assert_eq!(folder.open().unwrap(), expected, "{name}");
    }
    assert_eq!(expected.file, folder.path("refcoco+/refs(unc).p"));
    assert!(expected.notes.is_empty());
    let [first, crowd, parts, again] = &expected.records[..] else {
        panic!("{expected:?}")
    };
    assert_eq!(
        first.image,
        folder.path("images/train2014/COCO_train2014_000000000007.jpg")
    );
    assert_eq!(
        first.sentences,
        ["the left thing".into(), Sentence::from("it's café 形")]
    );
    let splits: Vec<&str> = expected.records.iter().map(|r| r.split.as_str()).collect();
    assert_eq!(splits, ["train", "train", "testA", "val"]);
    assert_eq!(
        inside(first),
        drawn(&["##....", "##....", "##....", "##...."])
    );
    assert_eq!(
        inside(crowd),
        drawn(&["......", "..##..", "..##..", "..#..."])
    );
    assert_eq!(inside(parts), drawn(&["##...", ".....", "...##"]));
    assert_eq!(
        again.region, first.region,
        "two references share annotation 11"
    );
    assert_eq!(again.sentences, ["that one".into()]);
}

#[test]
fn pictures_are_found_where_they_usually_lie() {
    for place in [
        "images/mscoco/images/train2014",
        "train2014",
        "images",
        "refcoco+/images",
        "images/refcoco+",
        "refcoco+",
        ".",
    ] {
        let folder = Folder::new();
        let to = folder.path(place);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(folder.path("images/train2014")).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), to.join(entry.file_name())).unwrap();
        }
        fs::remove_dir(folder.path("images/train2014")).unwrap();
        let image = &folder.open().unwrap().records[0].image;
        assert!(image.is_file(), "{place}");
    }
}

#[test]
fn the_folder_may_be_the_data_set_itself() {
    let folder = Folder::new();
    let expected = folder.open().unwrap();
    let mut source: DataSource = folder.path("refcoco+").into();
    assert_eq!(refcoco::open(&source).unwrap(), expected);
    source.dataset = Some("refcoco+".into());
    assert_eq!(refcoco::open(&source).unwrap(), expected);
    source.dataset = Some("refcoco".into());
    assert_eq!(
        folder.said(refcoco::open(&source).unwrap_err()),
        "refcoco+: has no data set `refcoco` (did you mean `refcoco+`?); there are: refcoco+"
    );
}

#[test]
fn what_is_not_chosen_is_asked_for_with_the_choices() {
    let folder = Folder::new();
    let references = pickle("protocol0.p");
    folder.with("refcocog", "umd", &references, &instances());
    folder.with("refcocog", "google", &references, &instances());
    let said = |dataset, split_by| {
        let error = refcoco::open(&folder.source(dataset, split_by)).unwrap_err();
        assert!(error.is_wrong_use());
        folder.said(error)
    };
    assert_eq!(
        said(None, None),
        "ROOT: has several data sets: refcoco+, refcocog; say which with --dataset"
    );
    assert_eq!(
        said(Some("refcocos"), None),
        "ROOT: has no data set `refcocos` (did you mean `refcocog`?); there are: refcoco+, refcocog"
    );
    assert_eq!(
        said(Some("refcocog"), None),
        "refcocog: has several divisions into splits: google, umd; say which with --split-by"
    );
    assert_eq!(
        said(Some("refcocog"), Some("umt")),
        "refcocog: has no division into splits `umt` (did you mean `umd`?); there are: google, umd"
    );
    refcoco::open(&folder.source(Some("refcocog"), Some("umd"))).unwrap();
    refcoco::open(&folder.source(Some("refcoco+"), None)).unwrap();

    let empty = Folder(tempfile::tempdir().unwrap());
    fs::create_dir(empty.path("images")).unwrap();
    let error = empty.open().unwrap_err();
    assert!(!error.is_wrong_use());
    assert_eq!(
        empty.said(error),
        "ROOT: is a folder without a data set of the RefCOCO family, which is a folder in it, such as refcoco+, with instances.json and refs(unc).p"
    );
}

#[test]
fn all_missing_pictures_are_named_with_where_they_were_looked_for() {
    let folder = Folder::new();
    fs::remove_dir_all(folder.path("images")).unwrap();
    let error = folder.open().unwrap_err();
    assert!(!error.is_wrong_use());
    let said = folder.said(error);
    assert!(
        said.starts_with("refcoco+/refs(unc).p: names 2 pictures that are in none of images, images/train2014, images/mscoco/images/train2014, train2014, "),
        "{said}"
    );
    assert!(
        said.ends_with(
            ": COCO_train2014_000000000007.jpg (image 7), COCO_train2014_000000000008.jpg (image 8)"
        ),
        "{said}"
    );
}

#[test]
fn every_missing_picture_of_many_has_a_line() {
    let folder = Folder::new();
    let count = 300;
    let records: Vec<Record> = (0..count)
        .map(|number| {
            let image = folder.path(&format!("images/{number}.png"));
            RgbImage::new(3, 2).save(&image).unwrap();
            Record {
                image,
                region: Region::Polygons(Vec::new()),
                sentences: vec!["a".into()],
                split: "train".into(),
            }
        })
        .collect();
    refcoco::write(folder.0.path(), "mine", "me", &records, &mut |_, _| {}).unwrap();
    for number in 0..count {
        fs::remove_file(folder.path(&format!("images/{number}.png"))).unwrap();
    }
    let error = refcoco::open(&folder.source(Some("mine"), None)).unwrap_err();
    let said = error.to_string();
    for number in 0..count {
        let line = format!("\n  {number}.png (image {})", number + 1);
        assert!(said.contains(&line), "{line}");
    }
    assert_eq!(said.lines().count(), count + 1);
}

#[test]
fn what_is_wrong_with_annotations_is_told_by_number() {
    let folder = Folder::new();
    assert_eq!(
        folder.refusal(|i| i["annotations"][0]["segmentation"]["counts"] = json!("08")),
        "refcoco+/instances.json: the segmentation of annotation 11 has counts of 8 pixels in all, and 4 x 6 are 24"
    );
    assert_eq!(
        folder.refusal(|i| i["annotations"][1]["segmentation"]["size"] = json!([6, 4])),
        "refcoco+/instances.json: the segmentation of annotation 12 is of 4 x 6 pixels, its image of 6 x 4"
    );
    assert_eq!(
        folder.refusal(|i| i["annotations"][2]["segmentation"][1] = json!([1, 2, 3, 4])),
        "refcoco+/instances.json: the segmentation of annotation 13 cannot be drawn: polygon 2 has 2 points; it takes three or more"
    );
    assert_eq!(
        folder.refusal(|i| i["annotations"][2]["id"] = json!(99)),
        "refcoco+/refs(unc).p: reference 3 (ref_id 3) names annotation 13, which instances.json does not have"
    );
    assert_eq!(
        folder.refusal(|i| i["images"][1]["id"] = json!(99)),
        "refcoco+/refs(unc).p: reference 3 (ref_id 3) names image 8, which instances.json does not have"
    );
    assert_eq!(
        folder.refusal(|i| i["annotations"][2]["image_id"] = json!(7)),
        "refcoco+/refs(unc).p: reference 3 (ref_id 3) is on image 8, but its annotation 13 is on image 7"
    );
    let said = folder.refusal(|i| i["annotations"][0]["segmentation"] = json!("drawn"));
    assert!(
        said.starts_with("refcoco+/instances.json: is not as COCO's instances are: invalid type: string \"drawn\", expected a list of polygons or run lengths"),
        "{said}"
    );
    fs::remove_file(folder.path("refcoco+/instances.json")).unwrap();
    let said = folder.said(folder.open().unwrap_err());
    assert!(
        said.starts_with("refcoco+/instances.json: cannot be read: "),
        "{said}"
    );
}

/// A few bytes that refer to one large value over and over do not make it many.
#[test]
fn values_that_are_shared_without_end_are_refused() {
    let folder = Folder::new();
    let references = |sentence: &str, times: usize| {
        let mut pickle = b"](}q\0(".to_vec();
        pickle.extend(
            b"U\x05splitU\x03valU\x06ann_idK\x0dU\x08image_idK\x08U\x09sentences](}U\x04sentT",
        );
        pickle.extend((sentence.len() as u32).to_le_bytes());
        pickle.extend(sentence.bytes());
        pickle.extend(b"seu");
        pickle.extend(b"h\0".repeat(times));
        pickle.extend(b"e.");
        pickle
    };
    let said = |pickle: &[u8], instances: &Value| {
        folder.with("refcoco+", "unc", pickle, instances);
        folder.open().map_err(|error| folder.said(error))
    };
    let records = said(&references("a cat", 3), &instances()).unwrap();
    assert_eq!(records.records.len(), 4);
    let told = said(&references(&"cat ".repeat(1000), 100), &instances()).unwrap_err();
    assert_eq!(
        told,
        "refcoco+/refs(unc).p: reference 6 has a sentence 1: shares so much with others that it would be more than 4 times its file"
    );
    let mut large = instances();
    large["annotations"][2]["segmentation"] = json!([vec![1; 4000]]);
    let own = references("a cat", 0);
    let many = [b"](", &own[2..own.len() - 2].repeat(100)[..], b"e."].concat();
    let told = said(&many, &large).unwrap_err();
    assert_eq!(
        told,
        "refcoco+/instances.json: the segmentation of annotation 13 is referred to so often that the masks would take more than 64 times the file"
    );
}

#[test]
fn what_is_wrong_with_references_is_told_by_place() {
    let folder = Folder::new();
    let told = |bytes: &[u8]| {
        fs::write(folder.path("refcoco+/refs(unc).p"), bytes).unwrap();
        folder.said(folder.open().unwrap_err())
    };
    let start = "refcoco+/refs(unc).p: ";
    for (bytes, said) in [
        (
            &b""[..],
            "its pickle cannot be read: it ends early (before byte 0)",
        ),
        (b"I7\n.", "is a pickle, but not of a list of references"),
        (b"(l.", "is a list without a reference"),
        (b"(lI7\na.", "reference 1 is no dict"),
        (b"(l(da.", "reference 1 has no `sentences`"),
        (
            b"(l(dS'ref_id'\nI5\nsS'sentences'\n(lsa.",
            "reference 1 (ref_id 5) has no `split`",
        ),
        (
            b"(l(dS'sentences'\n(l(dS'sent'\nI7\nsasa.",
            "reference 1 has a sentence 1: has a `sent` that is no text",
        ),
        (
            b"(l(dS'sentences'\n(lsS'split'\nS'train'\nsS'ann_id'\n(lsa.",
            "reference 1 has a `ann_id` that is no whole number",
        ),
        (
            b"cos\nsystem\n(S'true'\ntR.",
            "is a pickle, but not of a list of references",
        ),
    ] {
        assert_eq!(told(bytes), format!("{start}{said}"));
    }
    let whole = pickle("protocol2.p");
    for end in [1, 20, whole.len() / 2, whole.len() - 1] {
        assert!(told(&whole[..end]).starts_with(&format!("{start}its pickle cannot be read: ")));
    }
    let deep = [&b"N"[..], &[0x85; 200_000], b"."].concat();
    assert_eq!(told(&deep), format!("{start}reference 1 is no dict"));
}

#[test]
fn blank_sentences_are_left_out_and_said_so() {
    let folder = Folder::new();
    let reference = |sent: &str, raw: &str| {
        format!(
            "(dS'sentences'\n(l(dS'sent'\nS'{sent}'\nsS'raw'\nS'{raw}'\nsasS'split'\nS'val'\nsS'ann_id'\nI11\nsS'image_id'\nI7\nsa"
        )
    };
    let list = [
        reference("a", "b"),
        reference(" ", "Raw"),
        reference("", ""),
    ];
    let bytes = format!("(l{}.", list.concat());
    folder.with("refcoco+", "unc", bytes.as_bytes(), &instances());
    let records = folder.open().unwrap();
    let sentences: Vec<_> = records.records.iter().flat_map(|r| &r.sentences).collect();
    assert_eq!(sentences, [&Sentence::from("a"), &Sentence::from("Raw")]);
    let note = records.notes[0].replace(&format!("{}/", folder.0.path().display()), "");
    assert_eq!(
        note,
        "refcoco+/refs(unc).p: 1 blank sentences are left out, the first of reference 3"
    );
}

/// Every kind of region and sentence, on pictures inside and outside `images`.
fn records(folder: &Folder) -> Vec<Record> {
    fs::create_dir_all(folder.path("images")).unwrap();
    for name in ["images/1.png", "else where.png"] {
        RgbImage::new(6, 4).save(folder.path(name)).unwrap();
    }
    let mask = GrayImage::from_fn(6, 4, |x, y| Luma([255 * u8::from(x == y)]));
    mask.save(folder.path("mask.png")).unwrap();
    let record = |image: &str, region, sentences, split: &str| Record {
        image: folder.path(image),
        region,
        sentences,
        split: split.into(),
    };
    let kind = |text: &str, kind: &str| Sentence {
        text: text.into(),
        kind: Some(kind.into()),
    };
    vec![
        record(
            "images/1.png",
            Region::Mask(folder.path("mask.png")),
            vec!["the diagonal, it's 形".into(), kind("left one", "position")],
            "train",
        ),
        record(
            "else where.png",
            Region::Polygons(vec![
                vec![0.0, 0.0, 2.0, 0.0, 2.0, 1.5, 0.0, 1.5],
                vec![3.0, 2.0, 5.25, 2.0, 5.25, 4.0],
            ]),
            vec![kind("red", "attribute")],
            "val",
        ),
        record(
            "images/1.png",
            Region::RunLengths(RunLengths::new(4, 6, &[9, 3, 1, 2, 9]).unwrap()),
            vec!["runs".into()],
            "train",
        ),
        record(
            "images/1.png",
            Region::Polygons(Vec::new()),
            vec!["none".into()],
            "train",
        ),
    ]
}

#[test]
fn what_is_written_has_the_same_masks_and_sentences() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let written = records(&folder);
    let mut told = Vec::new();
    let write = |told: &mut Vec<(usize, usize)>| {
        refcoco::write(
            folder.0.path(),
            "mine",
            "me",
            &written,
            &mut |done, steps| {
                told.push((done, steps));
            },
        )
        .unwrap();
    };
    write(&mut told);
    assert_eq!(told.last(), Some(&(5, 5)));
    // Once more: the data set is replaced whole.
    write(&mut told);
    let read = folder.open().unwrap();
    assert_eq!(read.records.len(), written.len());
    for (read, written) in read.records.iter().zip(&written) {
        assert_eq!(read.sentences, written.sentences);
        assert_eq!(read.split, written.split);
        assert_eq!(inside(read), inside(written));
    }
    assert_eq!(read.records[0].image, folder.path("images/1.png"));
    assert_eq!(
        read.records[1].image,
        folder.path("images/mine/000000000002.png")
    );

    let instances = fs::read(folder.path("mine/instances.json")).unwrap();
    let instances: Value = serde_json::from_slice(&instances).unwrap();
    let crowd = &instances["annotations"][2];
    assert_eq!(crowd["area"], 5.0);
    assert_eq!(crowd["bbox"], json!([2.0, 1.0, 2.0, 3.0]));
    assert_eq!(instances["images"][1]["file_name"], "mine/000000000002.png");
    assert_eq!(instances["images"].as_array().unwrap().len(), 2);
    assert!(instances["annotations"][1]["segmentation"].is_array());

    // JSONL, and from there once more: the same.
    let file = folder.path("data.jsonl");
    jsonl::write(&file, &read.records).unwrap();
    let lines = Records::open(&file).unwrap();
    let root = folder.path("again");
    refcoco::write(&root, "other", "me", &lines.records, &mut |_, _| {}).unwrap();
    let again = refcoco::open(&root.into()).unwrap();
    for (again, written) in again.records.iter().zip(&written) {
        assert_eq!(again.sentences, written.sentences);
        assert_eq!(again.split, written.split);
        assert_eq!(inside(again), inside(written));
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let good = records(&folder);
    let write = |dataset: &str, split_by: &str, records: &[Record]| {
        let error = refcoco::write(folder.0.path(), dataset, split_by, records, &mut |_, _| {});
        let said = folder.said(error.unwrap_err());
        assert!(!folder.path("mine").join("instances.json").exists());
        said
    };
    for name in ["", "a/b", "..", "images"] {
        let said = write(name, "me", &good);
        assert!(
            said.starts_with(&format!("`{name}` is no name for a data set")),
            "{said}"
        );
    }
    assert!(write("mine", "m(e", &good).contains("no name for a division into splits"));
    let mut blank = good.clone();
    blank[1].sentences = vec![" ".into()];
    assert_eq!(
        write("mine", "me", &blank),
        "record 2 has a blank sentence 1"
    );
    assert!(write("mine", "me", &[]).starts_with("record 1 is not there"));
    let mut gone = good.clone();
    gone[3].image = folder.path("gone.png");
    assert!(write("mine", "me", &gone).starts_with("gone.png: cannot be read"));
    let mut small = good.clone();
    GrayImage::new(5, 4).save(folder.path("small.png")).unwrap();
    small[0].region = Region::Mask(folder.path("small.png"));
    assert!(write("mine", "me", &small).starts_with("small.png: the mask has 5 x 4 pixels"));
    assert!(!folder.path("images/mine").exists());

    fs::create_dir(folder.path("mine")).unwrap();
    fs::write(folder.path("mine/refs(you).p"), "somebody's").unwrap();
    assert_eq!(
        write("mine", "me", &good),
        "mine: holds refs(you).p, which would be lost; choose another name for the data set, or remove the folder"
    );
}

#[test]
fn python_reads_what_is_written() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let records = records(&folder);
    refcoco::write(folder.0.path(), "mine", "me", &records, &mut |_, _| {}).unwrap();
    let program =
        "import json, pickle, sys; print(json.dumps(pickle.load(open(sys.argv[1], 'rb'))))";
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(folder.path("mine/refs(me).p"))
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no python3");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let references: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(references.as_array().unwrap().len(), 4);
    assert_eq!(
        references[0],
        json!({
            "ref_id": 1, "ann_id": 1, "category_id": 1, "image_id": 1,
            "file_name": "1_1.png", "split": "train", "sent_ids": [1, 2],
            "sentences": [
                {"sent_id": 1, "sent": "the diagonal, it's 形", "raw": "the diagonal, it's 形",
                 "tokens": ["the", "diagonal", "it's", "形"]},
                {"sent_id": 2, "sent": "left one", "raw": "left one", "tokens": ["left", "one"],
                 "kind": "position"},
            ],
        })
    );
    let bytes = fs::read(folder.path("mine/refs(me).p")).unwrap();
    assert_eq!(bytes[..2], [0x80, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_change_to_a_file_brings_it_down(
        name in 0..PICKLES.len(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        in_pickle in any::<bool>(),
    ) {
        let folder = Folder::new();
        let mut pickle = pickle(PICKLES[name]);
        let mut json = instances().to_string().into_bytes();
        let bytes = if in_pickle { &mut pickle } else { &mut json };
        let at = place.index(bytes.len());
        bytes[at] = byte;
        fs::write(folder.path("refcoco+/refs(unc).p"), pickle).unwrap();
        fs::write(folder.path("refcoco+/instances.json"), json).unwrap();
        match folder.open() {
            Ok(records) => prop_assert!(records.records.len() <= 4),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
