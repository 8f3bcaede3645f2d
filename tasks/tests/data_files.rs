//! Data files as users write them: what is read, and what each mistake is
//! told.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use twinspan_tasks::jsonl::{self, Record, Records, Region, Sentence};
use twinspan_tasks::letterbox::{Letterbox, Normalisation};
use twinspan_tasks::metrics::{Scores, above, overlap};
use twinspan_tasks::run_length::RunLengths;

/// A folder with two pictures' worth of files and a data file.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        for name in ["images/1.jpg", "images/2.jpg", "mask.png"] {
            fs::write(folder.path().join(name), "only looked for, not opened").unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, text: impl AsRef<[u8]>) -> Result<Records, String> {
        let path = self.path("data.jsonl");
        fs::write(&path, text).unwrap();
        Records::open(path).map_err(|error| self.said(&error))
    }

    /// A message with the folder's own name left out.
    fn said(&self, error: &dyn std::error::Error) -> String {
        let said = error.to_string();
        assert!(!said.contains('\n'), "{said}");
        said.replace(&format!("{}/", self.0.path().display()), "")
    }

    fn refusal(&self, text: impl AsRef<[u8]>) -> String {
        self.open(text).unwrap_err()
    }
}

const GOOD: &str = r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": ["a cat"]}"#;
const DRAWN: &str = r#"{"image": "images/2.jpg", "polygons": [[1, 2, 3.5, 4, 5, 6]], "sentences": ["a dog", "it"], "split": "val"}"#;

#[test]
fn masks_and_polygons_are_read() {
    let folder = Folder::new();
    let records = folder.open(format!("{GOOD}\n{DRAWN}\n")).unwrap();
    assert_eq!(
        records.records,
        [
            Record {
                image: folder.path("images/1.jpg"),
                region: Region::Mask(folder.path("mask.png")),
                sentences: vec!["a cat".into()],
                split: "train".into(),
            },
            Record {
                image: folder.path("images/2.jpg"),
                region: Region::Polygons(vec![vec![1.0, 2.0, 3.5, 4.0, 5.0, 6.0]]),
                sentences: vec!["a dog".into(), "it".into()],
                split: "val".into(),
            },
        ]
    );
    assert_eq!(records.split("val").unwrap(), [&records.records[1]]);
}

#[test]
fn windows_files_are_read() {
    let folder = Folder::new();
    let plain = folder.open(format!("{GOOD}\n{DRAWN}\n")).unwrap();
    let windows = folder.open(format!("\u{feff}{GOOD}\r\n\r\n{DRAWN}\r\n  \r\n"));
    assert_eq!(windows.unwrap(), plain);
    let utf16: Vec<u8> = std::iter::once(0xFEFF)
        .chain(GOOD.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(
        folder.refusal(utf16),
        "data.jsonl:1: the file is in UTF-16; save it as UTF-8"
    );
}

#[test]
fn each_mistake_is_told_with_its_line() {
    let folder = Folder::new();
    let example =
        r#"{"image": "images/1.jpg", "mask": "masks/1.png", "sentences": ["the left cat"]}"#;
    let told = |line: &str| folder.refusal(format!("{GOOD}\n\n{line}\n{GOOD}\n"));
    let cases = [
        (
            r#"{"imgae": "images/1.jpg"}"#,
            "unknown field `imgae`, expected one of `image`, `mask`, `polygons`, `rle`, `sentences`, `split` (column 8)".into(),
        ),
        (
            r#"{"mask": "mask.png", "sentences": ["a"]}"#,
            "missing field `image` (column 40)".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png"}"#,
            "missing field `sentences` (column 45)".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "sentences": ["a"]}"#,
            "has none of `mask`, `polygons` and `rle`; give one of them".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "polygons": [], "sentences": ["a"]}"#,
            "has `mask` and `polygons`; give one of them".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": []}"#,
            "`sentences` is empty; give at least one".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": ["a", " "]}"#,
            "sentence 2 is blank".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": "a"}"#,
            r#"invalid type: string "a", expected a sequence (column 62)"#.into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": [{"txt": "a"}]}"#,
            "unknown field `txt`, expected `text` or `kind` (column 66)".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": [7]}"#,
            r#"invalid type: integer `7`, expected a text or {"text": …, "kind": …} (column 61)"#.into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": [{"text": "a", "kind": " "}]}"#,
            "sentence 1 has a blank `kind`; leave it out".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "rle": {"size": [2, 3], "counts": [1, 3]}, "sentences": ["a"]}"#,
            "has counts of 4 pixels in all, and 2 x 3 are 6 (column 67)".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "polygons": [[1, 2, 3, 4, 5, 6], [1, 2, 3]], "sentences": ["a"]}"#,
            "polygon 2 has 3 values, an odd number; give x and y of each point in turn".into(),
        ),
        (
            r#"{"image": "images/1.jpg", "mask": "mask.png", "sentences": ["a"], "split": ""}"#,
            "`split` is empty; leave it out for `train`".into(),
        ),
        (
            r#"{"image": "", "mask": "mask.png", "sentences": ["a"]}"#,
            "`image` is empty".into(),
        ),
        (
            r#"{"image": "images/1.jpg","#,
            format!("the line ends before its object does; each line is one whole object such as {example}"),
        ),
        (
            r#"["images/1.jpg", "mask.png", null, ["a"]]"#,
            format!("each line is one JSON object such as {example}"),
        ),
        (
            "images/1.jpg, mask.png, a cat",
            format!("each line is one JSON object such as {example}"),
        ),
        (
            &[GOOD, GOOD].concat(),
            "trailing characters (column 70)".into(),
        ),
    ];
    for (line, said) in cases {
        assert_eq!(told(line), format!("data.jsonl:3: {said}"), "{line}");
    }
    let latin = [GOOD.as_bytes(), b"\n\xE9t\xE9\n"].concat();
    assert_eq!(
        folder.refusal(latin),
        "data.jsonl:2: is not UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        folder.refusal("\n \n"),
        format!("data.jsonl: has no lines; each is one JSON object such as {example}")
    );
    let none = Records::open(folder.path("none.jsonl")).unwrap_err();
    assert!(
        folder
            .said(&none)
            .starts_with("none.jsonl: cannot be read: ")
    );
}

#[test]
fn an_unknown_split_is_told_the_known_ones() {
    let folder = Folder::new();
    let records = folder.open(format!("{GOOD}\n{GOOD}\n{DRAWN}\n")).unwrap();
    assert_eq!(
        folder.said(&records.split("test").unwrap_err()),
        "data.jsonl: has no split `test`; its splits are `train` (2 objects), `val` (1 object)"
    );
}

#[test]
fn missing_files_are_all_named_at_once() {
    let folder = Folder::new();
    let line = |image: &str, mask: &str| {
        format!(r#"{{"image": "{image}", "mask": "{mask}", "sentences": ["a"]}}"#)
    };
    let text = [
        line("images/1.jpg", "mask.png"),
        line("images/9.jpg", "mask.png"),
        line("images/9.jpg", "no.png"),
        line("images", "mask.png"),
    ]
    .join("\n");
    assert_eq!(
        folder.refusal(text),
        "data.jsonl: names 3 files that do not exist: images/9.jpg (line 2), no.png (line 3), images (line 4)"
    );
    let many: Vec<_> = (0..25)
        .map(|i| line(&format!("{i}.jpg"), "mask.png"))
        .collect();
    fs::write(folder.path("data.jsonl"), many.join("\n")).unwrap();
    let error = Records::open(folder.path("data.jsonl")).unwrap_err();
    let said = error.to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with("data.jsonl: names 25 files that do not exist: "));
    assert_eq!(lines.len(), 26, "every one on a line of its own");
    assert!(lines[25].ends_with("24.jpg (line 25)") && lines[25].starts_with("  "));
}

#[test]
fn a_file_is_found_from_anywhere() {
    let folder = Folder::new();
    let absolute = folder.path("images/1.jpg");
    let line = GOOD.replace("images/1.jpg", absolute.to_str().unwrap());
    assert_eq!(folder.open(line).unwrap().records[0].image, absolute);
}

/// A record whose paths are relative to a [`Folder`].
fn record() -> impl Strategy<Value = Record> {
    // Hundredths, as COCO has them: of 17 digits the last may be read otherwise.
    let hundredths = (-900..9900i32).prop_map(|value| f64::from(value) / 100.0);
    let polygon = prop::collection::vec(prop::array::uniform2(hundredths), 3..6)
        .prop_map(|points| points.into_flattened());
    let region = prop_oneof![
        Just(Region::Mask("mask.png".into())),
        prop::collection::vec(polygon, 0..3).prop_map(Region::Polygons),
        (0..=6i64).prop_map(|inside| {
            Region::RunLengths(RunLengths::new(2, 3, &[6 - inside, inside]).unwrap())
        }),
    ];
    let image = prop_oneof![Just("images/1.jpg"), Just("images/2.jpg")];
    let sentence = ("\\PC*[a-z]\\PC*", prop::option::of("[a-z]{1,9}"))
        .prop_map(|(text, kind)| Sentence { text, kind });
    let sentences = prop::collection::vec(sentence, 1..4);
    (image, region, sentences, "[a-zA-Z]{1,6}").prop_map(|(image, region, sentences, split)| {
        Record {
            image: image.into(),
            region,
            sentences,
            split,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_written_is_read(mut records in prop::collection::vec(record(), 1..5)) {
        let folder = Folder::new();
        let root = folder.0.path().canonicalize().unwrap();
        for record in &mut records {
            record.image = root.join(&record.image);
            if let Region::Mask(path) = &mut record.region {
                *path = root.join(&path);
            }
        }
        let file = root.join("written.jsonl");
        jsonl::write(&file, &records).unwrap();
        prop_assert_eq!(Records::open(&file).unwrap().records, records);
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = Folder::new();
        prop_assert!(folder.open(bytes).is_err());
    }
}

#[test]
fn paths_are_written_relative_to_the_file() {
    let folder = Folder::new();
    fs::create_dir(folder.path("lists")).unwrap();
    let records = folder.open(GOOD).unwrap();
    let file = folder.path("lists/all.jsonl");
    jsonl::write(&file, &records.records).unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "{\"image\":\"../images/1.jpg\",\"mask\":\"../mask.png\",\"sentences\":[\"a cat\"],\"split\":\"train\"}\n"
    );
    assert!(Records::open(&file).is_ok());
    let gone = Record {
        image: folder.path("gone.jpg"),
        ..records.records[0].clone()
    };
    let said = folder.said(&jsonl::write(&file, &[gone]).unwrap_err());
    assert!(
        said.starts_with("lists/all.jsonl: cannot be written: gone.jpg: "),
        "{said}"
    );
    let blank = Record {
        sentences: vec!["".into()],
        ..records.records[0].clone()
    };
    assert_eq!(
        folder.said(&jsonl::write(&file, &[blank]).unwrap_err()),
        "lists/all.jsonl:1: sentence 1 is blank"
    );
    assert!(Records::open(&file).is_ok(), "the old file is still there");
}

/// Real pictures, all the way: converted, opened, letterboxed and back.
#[test]
fn refcoco_s_pictures_go_all_the_way() {
    let shared = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/ris/refcoco_testA_mini"
    ));
    let Ok(text) = fs::read_to_string(shared.join("refs.json")) else {
        println!("skipped: there is no {}", shared.display());
        return;
    };
    let references: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let records: Vec<Record> = references
        .iter()
        .map(|reference| Record {
            image: shared.join(reference["file_name"].as_str().unwrap()),
            region: Region::Mask(shared.join(reference["mask"].as_str().unwrap())),
            sentences: vec!["it".into()],
            split: "testA".into(),
        })
        .collect();
    let folder = Folder::new();
    let file = folder.path("mini.jsonl");
    jsonl::write(&file, &records).unwrap();
    let records = Records::open(&file).unwrap();
    let mut scores = Scores::default();
    for (record, reference) in records.records.iter().zip(&references) {
        let picture = record.open_picture().unwrap();
        let (width, height) = picture.dimensions();
        assert_eq!(reference["width"], width);
        assert_eq!(reference["height"], height);
        let mask = record.open_mask((width, height)).unwrap();
        assert_eq!(reference["area"], mask.area());

        let letterbox = Letterbox::new(416, width as usize, height as usize).unwrap();
        letterbox.picture(&picture, &Normalisation::CLIP).unwrap();
        let small = letterbox.mask(&mask.values).unwrap();
        let answer: Vec<f32> = small.iter().map(|&v| f32::from(v) / 255.0).collect();
        let back = above(&letterbox.back(&answer).unwrap(), 0.5);
        let (intersection, union) = overlap(&back, &mask.inside()).unwrap();
        scores.add(intersection, union);
    }
    let (name, mean) = scores.finish().unwrap()[0];
    println!("{name} of the masks themselves, there and back: {mean}");
    assert!(mean > 97.0, "{mean}");
}
