//! CLIP's tokenizer: its ids, its files, its errors.
//!
//! `tokenizer_data` holds a made-up vocabulary of eight merges, and sentences with the ids that
//! OpenAI's code (ftfy 6.3.1) gives with CLIP's vocabulary. That file is not in the repository:
//! tests that need it are skipped, with a message, where `../shared` is absent.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use twinspan_backbones::tokenizer::{ClipTokenizer, TokenizerError};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizer_data")
}

/// A path in the folder of shared data, or `None` with a message.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(path);
    if !path.exists() {
        println!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// tokenizer.json as Hugging Face writes it, of the pair in `folder`.
fn tokenizer_json(folder: &Path, one_string: bool) -> Value {
    let merges = fs::read_to_string(folder.join("merges.txt")).unwrap();
    let merges: Vec<Value> = merges
        .lines()
        .filter(|line| !line.starts_with("#version"))
        .map(|line| match line.split_once(' ').unwrap() {
            _ if one_string => json!(line),
            (left, right) => json!([left, right]),
        })
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>",
            "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": false,
            "vocab": read_json(&folder.join("vocab.json")), "merges": merges,
        }
    })
}

fn packed(text: &str) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_small_vocabulary_is_read_from_all_of_its_forms() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let merges = fs::read_to_string(tiny().join("merges.txt")).unwrap();
    let forms = [
        tiny(),
        tiny().join("vocab.json"),
        tiny().join("merges.txt"),
        file("any-name.gz", &packed(&merges)),
        file(
            "one.json",
            tokenizer_json(&tiny(), true).to_string().as_bytes(),
        ),
        file(
            "two.json",
            tokenizer_json(&tiny(), false).to_string().as_bytes(),
        ),
    ];
    for form in forms {
        let tokenizer = ClipTokenizer::open(&form).unwrap();
        assert_eq!(tokenizer.vocab_size(), 522);
        assert_eq!((tokenizer.start(), tokenizer.end()), (520, 521));
        // the=518, l e f=513 inside "leftmost", cat</w>=516, left</w>=514; "!" is byte 0.
        let ids = tokenizer.ids("The LEFT\tcat!");
        assert_eq!(ids, [520, 518, 514, 516, 256, 521], "{}", form.display());
        assert_eq!(tokenizer.ids("lefty"), [520, 513, 83, 256 + 88, 521]);
    }
}

#[test]
fn sentences_are_padded_with_zeros_and_cut_in_front_of_the_end() {
    let tokenizer = ClipTokenizer::open(tiny()).unwrap();
    let encode = |sentence: &str, len| {
        let encoded = tokenizer.encode(sentence, len);
        (encoded.ids, encoded.cut)
    };
    assert_eq!(encode("left", 5), (vec![520, 514, 521, 0, 0], false));
    assert_eq!(encode("left", 3), (vec![520, 514, 521], false));
    assert_eq!(encode("the left cat", 4), (vec![520, 518, 514, 521], true));
    assert_eq!(encode("the left cat", 2), (vec![520, 521], true));
    assert_eq!(encode("left", 1), (vec![521], true));
    assert_eq!(encode("left", 0), (vec![], true));
    for blank in ["", " ", "\t\n \u{3000}"] {
        assert_eq!(encode(blank, 4), (vec![520, 521, 0, 0], false));
    }
    let long = vec!["cat"; 500].join(" ");
    let encoded = tokenizer.encode(&long, 77);
    assert!(encoded.cut);
    assert_eq!(
        (encoded.ids.len(), encoded.ids[76], encoded.ids[75]),
        (77, 521, 516)
    );
    assert_eq!(tokenizer.ids(&long).len(), 502);
}

#[test]
fn bytes_alone_take_every_sentence() {
    let tokenizer = ClipTokenizer::bytes();
    assert_eq!(tokenizer.vocab_size(), 514);
    assert_eq!((tokenizer.start(), tokenizer.end()), (512, 513));
    assert_eq!(tokenizer.ids("Ab"), [512, 64, 256 + 65, 513]);
    assert_eq!(tokenizer.ids("你").len(), 5);
    assert_eq!(tokenizer.ids("😀 a").len(), 7);
}

#[test]
fn what_is_no_vocabulary_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let text = ClipTokenizer::open(&path).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        let behind = text.strip_prefix(&path.display().to_string());
        behind.expect(&text).to_string()
    };
    let choices = "; accepted are bpe_simple_vocab_16e6.txt.gz, vocab.json beside merges.txt, \
                   tokenizer.json, or a folder with one of these";
    let damaged = " is not a vocabulary of CLIP's kind: ";
    assert_eq!(
        refused("a", b"one two three\n"),
        format!(" is no list of merges{choices}")
    );
    assert_eq!(
        refused("b", b"\xff\xfe"),
        format!(" is neither gzip nor text{choices}")
    );
    assert_eq!(
        refused("c", b"{}"),
        format!(" has no merges.txt beside it{choices}")
    );
    assert_eq!(
        refused("d", b"l e\n"),
        format!(" has no vocab.json beside it{choices}")
    );
    assert_eq!(
        refused("e", &packed("a b\nab c d\n")),
        format!("{damaged}`ab c d` is not a merge of two tokens")
    );
    assert_eq!(
        refused("g", &packed(&"a b\n".repeat(1 << 20))),
        format!("{damaged}it unpacks to more than 24 times its size")
    );
    assert_eq!(
        refused("f", &packed("a b\nx yz\n")),
        format!("{damaged}`x` and `yz` are merged, but `yz` is not a token")
    );
    assert!(refused("g", &packed("a b\n")[..12]).contains("does not unpack"));
    let mut json = tokenizer_json(&tiny(), true);
    json["model"]["type"] = "Unigram".into();
    let unigram = json.to_string();
    assert_eq!(
        refused("h", unigram.as_bytes()),
        format!("{damaged}its model is Unigram, not BPE")
    );
    json["model"]["type"] = "BPE".into();
    json["model"]["vocab"]["!"] = 1.into();
    assert_eq!(
        refused("i", json.to_string().as_bytes()),
        format!("{damaged}`!` and `\"` are both number 1")
    );
    json["model"]["vocab"].as_object_mut().unwrap().remove("!");
    assert!(refused("j", json.to_string().as_bytes()).contains("does not have every byte"));
    json["model"]["end_of_word_suffix"] = Value::Null;
    assert!(refused("k", json.to_string().as_bytes()).contains("words do not end with </w>"));

    let empty = tempfile::tempdir().unwrap();
    let text = ClipTokenizer::open(empty.path()).unwrap_err().to_string();
    assert!(text.contains("holds no vocabulary; accepted are"), "{text}");
    let absent = ClipTokenizer::open(empty.path().join("absent")).unwrap_err();
    assert!(matches!(absent, TokenizerError::Io { .. }), "{absent}");
}

#[derive(Deserialize)]
struct Sample {
    text: String,
    #[serde(alias = "clip_ids")]
    ids: Vec<u32>,
    #[serde(default = "yes")]
    matches_openai_simple_tokenizer: bool,
}

fn yes() -> bool {
    true
}

fn samples(json: Value) -> Vec<Sample> {
    let samples: Vec<Sample> = serde_json::from_value(json).unwrap();
    let mut kept = samples;
    kept.retain(|sample| sample.matches_openai_simple_tokenizer);
    kept
}

/// CLIP's vocabulary in its three forms, or nothing where it is absent.
fn clip(folder: &Path) -> Vec<ClipTokenizer> {
    let Some(data) = shared("tokenizers/clip") else {
        return Vec::new();
    };
    let json = folder.join("tokenizer.json");
    fs::write(&json, tokenizer_json(&data, true).to_string()).unwrap();
    [data.join("bpe_simple_vocab_16e6.txt.gz"), data, json]
        .map(|path| ClipTokenizer::open(path).unwrap())
        .into()
}

#[test]
fn clips_vocabulary_gives_openais_ids_from_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = samples(read_json(&tiny().join("odd_sentences.json")));
    if let Some(path) = shared("golden/tokenizer_refcoco_samples.json") {
        all.extend(samples(read_json(&path)["samples"].take()));
    }
    if let Some(path) = shared("golden/clip_golden.json") {
        all.extend(samples(read_json(&path)["clip_tokenizer"].take()));
    }
    for tokenizer in clip(folder.path()) {
        assert_eq!((tokenizer.vocab_size(), tokenizer.end()), (49408, 49407));
        for Sample { text, ids, .. } in &all {
            assert_eq!(tokenizer.ids(text), *ids, "{text:?}");
        }
        println!("{} sentences agree", all.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sentence_has_its_ids(sentence in "\\PC*|(&[#a-z0-9;]{0,6}|\\x1b\\[|.){0,30}", len in 0usize..40) {
        static TOKENIZERS: LazyLock<[ClipTokenizer; 2]> =
            LazyLock::new(|| [ClipTokenizer::bytes(), ClipTokenizer::open(tiny()).unwrap()]);
        for tokenizer in &*TOKENIZERS {
            let ids = tokenizer.ids(&sentence);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            prop_assert_eq!((ids[0], ids[ids.len() - 1]), (tokenizer.start(), tokenizer.end()));
            let encoded = tokenizer.encode(&sentence, len);
            prop_assert_eq!(encoded.ids.len(), len);
            prop_assert_eq!(encoded.cut, ids.len() > len);
            prop_assert!(len == 0 || encoded.ids.contains(&tokenizer.end()));
        }
    }

    #[test]
    fn no_bytes_panic(content in proptest::collection::vec(any::<u8>(), 0..200), form in 0usize..4) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocabulary");
        let text = String::from_utf8_lossy(&content);
        let content = match form {
            0 => content.clone(),
            1 => packed(&text),
            2 => json!({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {text: 0}}})
                .to_string()
                .into_bytes(),
            _ => text.split_whitespace().collect::<Vec<_>>().chunks(2)
                .map(|pair| pair.join(" ")).collect::<Vec<_>>().join("\n").into_bytes(),
        };
        fs::write(&path, content).unwrap();
        let _ = ClipTokenizer::open(&path);
    }
}
