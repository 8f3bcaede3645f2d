//! `synth` and `demo`, small: the same seed gives the same files and scores, and what they say is
//! written is there.

mod terminal;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
    }
    found
}

fn synth(out: &Path, seed: &str) {
    let said = twinspan!(
        "synth", "--out", out, "--images", "20", "--seed", seed, "--size", "64"
    );
    let said = said.results();
    assert!(said.contains("20 scenes"), "{said}");
    assert!(said.contains("--dataset scenes --split-by synth"), "{said}");
}

#[test]
fn the_same_seed_draws_the_same_files() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
    synth(&a, "4");
    synth(&b, "4");
    synth(&c, "5");
    let first = files(&a);
    assert_eq!(first, files(&b));
    assert_ne!(first, files(&c));
    let pictures = first.keys().filter(|name| name.ends_with(".jpg")).count();
    assert_eq!(pictures, 20);
    assert!(first.contains_key("scenes/instances.json"));
    assert!(first.contains_key("scenes/refs(synth).p"));
    let described = String::from_utf8_lossy(&first["descriptions.jsonl"])
        .lines()
        .count();
    assert_eq!(described, 20);
}

#[test]
fn scenes_never_replace_what_is_not_theirs() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("mine.txt"), "mine").unwrap();
    let out = folder.path();
    let said = twinspan!("synth", "--out", out, "--images", "10").error(1);
    assert!(said.contains("will not replace"), "{said}");
    assert_eq!(fs::read_to_string(out.join("mine.txt")).unwrap(), "mine");
    // Scenes may be drawn anew.
    let own = folder.path().join("own");
    synth(&own, "4");
    synth(&own, "5");
}

/// The lines of results that do not say how long something took or where it lies.
fn scores(said: &str) -> Vec<String> {
    let lines = said.lines().filter(|line| line.starts_with("  "));
    lines.map(String::from).collect()
}

#[test]
fn two_demonstrations_of_one_seed_give_the_same_scores() {
    let folder = TempDir::new().unwrap();
    let demo = |name: &str| {
        let out = folder.path().join(name);
        let said = twinspan!("demo", "--out", &out, "--scenes", "20", "--steps", "3").results();
        (said, out)
    };
    let (first, out) = demo("a");
    let (second, other) = demo("b");
    let shown = scores(&first);
    assert_eq!(shown, scores(&second));
    for word in [
        "all sentences",
        "relation",
        "trained",
        "shuffled",
        "never changes",
    ] {
        assert!(
            shown.iter().any(|line| line.contains(word)),
            "{word}: {first}"
        );
    }
    for file in [
        "sheet.png",
        "index.html",
        "demo.json",
        "bridger/tuned.safetensors",
        "head-alone/tuned.safetensors",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let same =
        |file: &str| fs::read(out.join(file)).unwrap() == fs::read(other.join(file)).unwrap();
    assert!(same("bridger/tuned.safetensors") && same("head-alone/tuned.safetensors"));
    assert!(same("sheet.png"));
    // Every picture that the page shows is there.
    let page = fs::read_to_string(out.join("index.html")).unwrap();
    let shown = page
        .split("src=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    let shown: Vec<&str> = shown.collect();
    assert_eq!(
        shown.len(),
        2 * 4,
        "a sentence of each of two scenes: {page}"
    );
    assert!(shown.iter().all(|file| out.join(file).is_file()));
    // The models are models: the sentence that is proposed at the end works.
    let masks = folder.path().join("masks");
    let picture = out.join("scenes/images/scenes/000009.jpg");
    let text = "the largest shape";
    twinspan!(
        "segment",
        "--model",
        out.join("bridger"),
        "--image",
        picture,
        "--text",
        text,
        "--out",
        &masks
    )
    .results();
    assert!(masks.join("000009-1.mask.png").is_file());
    // What was written before may be replaced.
    demo("a");
}

#[test]
fn several_seeds_are_kept_side_by_side() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("demo");
    let said = twinspan!(
        "demo", "--out", &out, "--seeds", "2", "--scenes", "20", "--steps", "1"
    )
    .results();
    assert!(said.contains("seed 1") && said.contains("seed 2"), "{said}");
    assert!(said.contains("by seed:"), "{said}");
    let kept = fs::read_to_string(out.join("demo.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["runs"].as_array().map(Vec::len), Some(2));
    assert_eq!(kept["runs"][1]["seed"], 2);
    assert!(
        kept["runs"][0]["bridger"]["parameters"].as_u64()
            > kept["runs"][0]["head_alone"]["parameters"].as_u64()
    );
    assert!(out.join("seed-2/sheet.png").is_file());
}
