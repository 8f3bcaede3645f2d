//! SigLIP's ids: those published, and the two kinds of pieces.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use twinspan_backbones::siglip::Siglip;
use twinspan_sdk::Result;
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::tokenizer::Tokenizer;

/// A path in the folder of shared data, or `None` with a message.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(path);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn ids(tokenizer: &dyn Tokenizer, sentence: &str) -> Vec<u32> {
    let encoded = tokenizer.encode(sentence, 64);
    assert!(!encoded.cut);
    let end = encoded.end as usize;
    assert!(
        encoded.ids[end + 1..]
            .iter()
            .all(|id| *id == tokenizer.padding())
    );
    encoded.ids[..=end].to_vec()
}

#[test]
fn ids_are_those_of_the_released_tokenizer() {
    let (Some(folder), Some(golden), Some(samples)) = (
        shared("tokenizers/siglip-base-patch16-224"),
        shared("golden/clip_golden.json"),
        shared("golden/tokenizer_refcoco_samples.json"),
    ) else {
        return;
    };
    let tokenizer = Siglip::default().tokenizer(Some(&folder)).unwrap();
    let read = |path: &Path| -> Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let (golden, samples) = (read(&golden), read(&samples));
    let mut seen = 0;
    for (list, field) in [
        (&golden["siglip_tokenizer"]["samples"], "ids"),
        (&samples["samples"], "siglip_ids"),
    ] {
        for sample in list.as_array().unwrap() {
            let text = sample["text"].as_str().unwrap();
            let wanted: Vec<u32> = serde_json::from_value(sample[field].clone()).unwrap();
            assert_eq!(ids(tokenizer.as_ref(), text), wanted, "{text}");
            seen += 1;
        }
    }
    assert_eq!(seen, 319 + 6);
}

/// A small model whose table has `vocabulary` rows and which pads with `padding`.
fn small(vocabulary: usize, padding: u32) -> Siglip {
    let text = format!(
        "[model]\nvision = {{ layers = 1, width = 8, heads = 1, patch = 4, image_size = 8 }}\n\
         text = {{ layers = 1, width = 8, heads = 1, context = 8, vocabulary = {vocabulary}, padding = {padding} }}"
    );
    toml::from_str(&text).unwrap()
}

fn open(siglip: &Siglip, file: &Value) -> Result<Arc<dyn Tokenizer>> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    siglip.tokenizer(Some(folder.path()))
}

/// Pieces of SentencePiece's kind, as SigLIP's are.
fn unigram() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "post_processor": null,
        "decoder": null,
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" },
        "model": { "type": "Unigram", "unk_id": 2, "byte_fallback": false, "vocab": [
            ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0], ["▁a", -2.0],
            ["▁cat", -2.5], ["c", -5.0], ["a", -5.0], ["t", -5.0], ["s", -4.0]] },
    })
}

/// Byte pairs, as Gemma's are, with an end that the file would put behind by itself.
fn byte_pairs() -> Value {
    json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 6 }, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>" },
        "added_tokens": [
            { "id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true },
            { "id": 1, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "pre_tokenizer": null, "decoder": null,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "<eos>", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { "<eos>": { "id": "<eos>", "ids": [1], "tokens": ["<eos>"] } } },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "vocab": { "<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "c": 4, "t": 5, "▁": 6, ",": 7, "ca": 8, "cat": 9 },
            "merges": [["c", "a"], ["ca", "t"]] },
    })
}

#[test]
fn both_kinds_of_pieces_are_cleaned_ended_and_padded() {
    let first = open(&small(10, 1), &unigram()).unwrap();
    assert_eq!(first.encode("A  cat's!", 6).ids, [4, 5, 9, 1, 1, 1]);
    assert_eq!(ids(first.as_ref(), " "), [1]);
    let second = open(&small(10, 0), &byte_pairs()).unwrap();
    let encoded = second.encode("A cat, a cat", 8);
    assert_eq!(encoded.ids, [3, 6, 9, 7, 6, 3, 6, 1]);
    assert!(encoded.cut);
    assert_eq!(
        (encoded.end, second.padding(), second.vocabulary()),
        (7, 0, 10)
    );
    assert_eq!(second.encode("cat", 4).ids, [9, 1, 0, 0]);
    assert_eq!(second.encode("cat", 1).ids, [1]);
}

#[test]
fn without_a_file_bytes_are_ids() {
    let bytes = small(259, 1).tokenizer(None).unwrap();
    assert_eq!(bytes.encode("A!", 3).ids, [3 + u32::from(b'a'), 1, 1]);
    assert_eq!(bytes.vocabulary(), 259);
}

#[test]
fn what_is_no_tokenizer_of_the_model_is_refused() {
    let message = |result: Result<Arc<dyn Tokenizer>>| match result {
        Ok(_) => panic!("it was taken"),
        Err(error) => {
            assert!(error.is_wrong_use());
            let text = error.to_string();
            match text.rfind("tokenizer.json: ") {
                Some(at) if !text.starts_with("no vocabulary") => text[at..].to_string(),
                _ => text,
            }
        }
    };
    let mut other = unigram();
    other["model"]["vocab"][1][0] = json!("▁the");
    let mut deaf = unigram();
    deaf["model"]["unk_id"] = json!(null);
    let messages = [
        message(open(&small(10, 1), &deaf)),
        message(small(258, 1).tokenizer(None)),
        message(small(10, 1).tokenizer(Some(Path::new("nowhere/tokenizer.json")))),
        message(open(&small(10, 1), &json!({ "version": "1.0" }))),
        message(open(&small(10, 1), &other)),
    ];
    insta::assert_snapshot!(messages.join("\n"), @"
    tokenizer.json: cuts not every sentence: Encountered an unknown token but `unk_id` is missing
    no vocabulary is named, and the backbone's 258 words are fewer than the 259 of bytes alone: name a tokenizer.json or a folder with one
    tokenizer.json: cannot be read: No such file or directory (os error 2); name a tokenizer.json or a folder with one
    tokenizer.json: Model missing. at line 1 column 17
    tokenizer.json: id 1, with which the backbone ends sentences, is `▁the`: it is another model's vocabulary
    ");
    let short = message(open(&small(9, 1), &unigram()));
    assert!(
        short.contains("has 10 tokens, the backbone's table of words 9 rows"),
        "{short}"
    );
}
