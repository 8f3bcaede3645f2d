//! Where a model's files are: how the text is read, and what is found in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use twinspan_sdk::hub::{Hub, HubOptions};
use twinspan_sdk::source::{Description, Files, Source, SourceError};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// A hub that answers nothing: these sources are on the disk.
fn nowhere() -> Hub {
    Hub::new(HubOptions {
        cache: PathBuf::from("no cache"),
        endpoint: "http://127.0.0.1:1".into(),
        token: None,
        offline: true,
    })
}

fn parse(text: &str, folder: &Path) -> Source {
    Source::parse(text, folder).unwrap()
}

fn files(text: &str, folder: &Path) -> Result<Files, SourceError> {
    Source::parse(text, folder)?.files(&nowhere(), &())
}

/// The error's text with the test's folder called `HERE`.
fn refusal(text: &str, folder: &Path) -> String {
    let error = files(text, folder).unwrap_err().to_string();
    error.replace(folder.to_str().unwrap(), "HERE")
}

fn found(folder: &TempDir) -> String {
    let weights = files("", folder.path())
        .or_else(|_| files(".", folder.path()))
        .unwrap()
        .weights;
    weights.file_name().unwrap().to_str().unwrap().to_string()
}

#[test]
fn a_text_is_a_path_or_a_hub_id() {
    let here = folder(&[("models/there/config.json", "{}"), ("w@1.pth", "")]);
    let here = here.path();
    for id in [
        "org/name",
        "org/name@v1.0",
        "org/name@refs/pr/1",
        "openai/clip-vit-base-patch16@57c216476eefef5ab752ec549e440a49ae4ae5f3",
    ] {
        let Source::Hub(read) = parse(id, here) else {
            panic!("{id} is a path");
        };
        assert_eq!(read.to_string(), id);
        assert_eq!(parse(&format!("hf-hub:{id}"), here), Source::Hub(read));
    }
    // There, or nothing that an id could be.
    for path in [
        "models/there",
        "w@1.pth",
        "./org/name",
        "../name",
        "a/b/c",
        "org/name.safetensors",
        "org/name.pt",
        "/org",
    ] {
        let absolute = std::path::absolute(here.join(path)).unwrap();
        assert_eq!(parse(path, here), Source::Path(absolute), "{path}");
    }
    let home = std::env::home_dir().unwrap();
    assert_eq!(parse("~/clip", here), Source::Path(home.join("clip")));
    // Whatever lies on the disk.
    let marked = parse("hf-hub:models/there", here);
    assert!(matches!(&marked, Source::Hub(id) if id.model() == "models/there"));
    assert_eq!(marked.marked(), "hf-hub:models/there");
}

#[test]
fn a_text_that_is_neither_says_why() {
    let here = folder(&[]);
    let here = here.path();
    insta::assert_snapshot!(refusal("clip", here), @"`clip` is neither a file or folder that is there (HERE/clip) nor a model of the hub: it has no slash; write a path, or org/name or org/name@revision");
    insta::assert_snapshot!(refusal("", here), @"`` is neither a file or folder that is there (HERE/) nor a model of the hub: it has no slash; write a path, or org/name or org/name@revision");
    insta::assert_snapshot!(refusal("org/na me", here), @"`org/na me` is neither a file or folder that is there (HERE/org/na me) nor a model of the hub: org and name are of letters, digits, `-`, `_` and `.`, with a letter, digit or `_` at both ends; write a path, or org/name or org/name@revision");
    insta::assert_snapshot!(refusal("org/name@", here), @"`org/name@` is neither a file or folder that is there (HERE/org/name@) nor a model of the hub: what follows `@` is no branch, tag or commit; write a path, or org/name or org/name@revision");
    insta::assert_snapshot!(refusal("hf-hub:name", here), @"`hf-hub:name` names no model of the hub: it has no slash; write hf-hub:org/name or hf-hub:org/name@revision");
    insta::assert_snapshot!(refusal("weights.pt", here), @"there is no file or folder HERE/weights.pt");
    for text in [
        "org/..",
        "org/name@../x",
        "org/name@/x",
        "org/name@a b",
        "-org/name",
        "org--x/name",
        "o\0rg/name",
    ] {
        assert!(refusal(text, here).contains("neither"), "{text}");
    }
}

#[test]
fn weights_are_found_by_their_usual_names_in_order() {
    let index =
        r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}"#;
    let here = folder(&[
        ("open_clip_pytorch_model.bin", ""),
        ("pytorch_model.bin.index.json", index),
        ("pytorch_model.bin", ""),
        ("open_clip_model.safetensors", ""),
        ("model.safetensors.index.json", index),
        ("model.safetensors", ""),
        ("1.safetensors", ""),
        ("2.safetensors", ""),
        ("readme.md", ""),
    ]);
    for name in [
        "open_clip_model.safetensors",
        "model.safetensors",
        "model.safetensors.index.json",
        "open_clip_pytorch_model.bin",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ] {
        assert_eq!(found(&here), name);
        fs::remove_file(here.path().join(name)).unwrap();
    }
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE has no weights under a usual name, nor one weight file alone: looked for open_clip_model.safetensors, model.safetensors, model.safetensors.index.json, open_clip_pytorch_model.bin, pytorch_model.bin, pytorch_model.bin.index.json, or a single *.safetensors, *.pt or *.pth; it holds 1.safetensors, 2.safetensors, readme.md");
    fs::remove_file(here.path().join("1.safetensors")).unwrap();
    assert_eq!(found(&here), "2.safetensors");
    fs::remove_file(here.path().join("2.safetensors")).unwrap();
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE has no weights under a usual name, nor one weight file alone: looked for open_clip_model.safetensors, model.safetensors, model.safetensors.index.json, open_clip_pytorch_model.bin, pytorch_model.bin, pytorch_model.bin.index.json, or a single *.safetensors, *.pt or *.pth; it holds readme.md");
    fs::write(here.path().join("ViT-B-16.pt"), "").unwrap();
    assert_eq!(found(&here), "ViT-B-16.pt");
}

#[test]
fn shards_are_all_there_and_beside_their_index() {
    let index = r#"{"metadata": {}, "weight_map": {"a": "1.bin", "b": "2.bin", "c": "3.bin"}}"#;
    let name = "pytorch_model.bin.index.json";
    let here = folder(&[(name, index), ("2.bin", "")]);
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE/pytorch_model.bin.index.json names files that are not beside it: 1.bin, 3.bin");
    insta::assert_snapshot!(refusal(name, here.path()), @"HERE/pytorch_model.bin.index.json names files that are not beside it: 1.bin, 3.bin");
    let path = here.path().join(name);
    for elsewhere in ["../1.bin", "/1.bin", "a/1.bin", ".1", "", "..\\\\1.bin"] {
        fs::write(&path, index.replace("1.bin", elsewhere)).unwrap();
        let text = refusal(".", here.path());
        assert!(text.contains("is no name of a shard beside it"), "{text}");
    }
    fs::write(&path, r#"{"weight_map": {}}"#).unwrap();
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE/pytorch_model.bin.index.json: it names no shard");
    fs::write(&path, r#"{"weight_map": 1}"#).unwrap();
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE/pytorch_model.bin.index.json: it is not the JSON it should be: invalid type: integer `1`, expected a map at line 1 column 16");
}

#[test]
fn the_files_beside_the_weights_describe_them() {
    let here = folder(&[
        ("model.safetensors", ""),
        ("config.json", r#"{"model_type": "clip"}"#),
        ("preprocessor_config.json", r#"{"size": 224}"#),
        ("other.json", "no JSON"),
    ]);
    for text in [".", "model.safetensors"] {
        let description = files(text, here.path()).unwrap().description;
        assert_eq!(description.config().unwrap()["model_type"], "clip");
        assert_eq!(description.preprocessor().unwrap()["size"], 224);
        assert_eq!(description.open_clip(), None);
        assert_eq!(description.tokenizer(), None);
        let names: Vec<_> = description.files().map(|(name, _)| name).collect();
        assert_eq!(names, ["config.json", "preprocessor_config.json"]);
        let again = description.files().map(|(n, v)| (n.to_string(), v.clone()));
        assert_eq!(Description::of(again), description);
    }
    fs::write(here.path().join("config.json"), "{").unwrap();
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE/config.json: it is not the JSON it should be: EOF while parsing an object at line 1 column 1");
    fs::write(here.path().join("config.json"), " ".repeat((4 << 20) + 1)).unwrap();
    insta::assert_snapshot!(refusal(".", here.path()), @"HERE/config.json: it is longer than 4194304 bytes: no such file is");
}

#[test]
fn a_file_of_another_name_stands_alone() {
    let here = folder(&[
        ("ViT-B-16.pt", ""),
        ("config.json", "{"),
        ("tokenizer.json", "{}"),
    ]);
    let found = files("ViT-B-16.pt", here.path()).unwrap();
    assert_eq!(found.weights, here.path().join("ViT-B-16.pt"));
    assert!(found.description.is_empty());
    assert_eq!(found.tokenizer, None);
}

#[test]
fn a_description_needs_no_weights() {
    let here = folder(&[("open_clip_config.json", "{}")]);
    let source = parse(".", here.path());
    let description = source.description(&nowhere(), &()).unwrap();
    assert!(description.open_clip().is_some());
    assert!(source.files(&nowhere(), &()).is_err());
}

#[test]
fn a_vocabulary_is_found_when_it_is_whole() {
    let here = folder(&[("model.safetensors", ""), ("vocab.json", "{}")]);
    let tokenizer = || files(".", here.path()).unwrap().tokenizer;
    let add = |name: &str| {
        fs::write(here.path().join(name), "").unwrap();
        Some(here.path().join(name))
    };
    assert_eq!(tokenizer(), None);
    let scripts = add("bpe_simple_vocab_16e6.txt.gz");
    assert_eq!(tokenizer(), scripts);
    add("merges.txt");
    assert_eq!(tokenizer(), Some(here.path().join("vocab.json")));
    let whole = add("tokenizer.json");
    assert_eq!(tokenizer(), whole);
    let alone = parse(".", here.path()).tokenizer(&nowhere(), &()).unwrap();
    assert_eq!(alone, whole);
}

#[test]
fn the_environment_says_where_the_hub_and_its_cache_are() {
    let home = std::env::home_dir().unwrap();
    let of = |set: &[(&str, &str)]| {
        HubOptions::from_variables(|name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        })
    };
    let token_of = |options: HubOptions| options.token;
    let none = of(&[("HF_HOME", "")]);
    assert_eq!(none.cache, home.join(".cache/huggingface/hub"));
    assert_eq!(none.endpoint, "https://huggingface.co");
    assert!(!none.offline);
    assert_eq!(of(&[("HF_HOME", "/h")]).cache, Path::new("/h/hub"));
    let both = of(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]);
    assert_eq!(both.cache, Path::new("/c"));
    let xdg = of(&[("XDG_CACHE_HOME", "/x")]);
    assert_eq!(xdg.cache, Path::new("/x/huggingface/hub"));
    assert_eq!(of(&[("HF_ENDPOINT", "http://m/")]).endpoint, "http://m");
    for (value, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false)] {
        assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    let stored = folder(&[("token", "hf_stored\n"), ("other", "hf_other")]);
    let at = |name: &str| stored.path().join(name).display().to_string();
    let token = |set: &[(&str, &str)]| format!("{:?}", token_of(of(set)));
    // A token is compared by value and never shown.
    assert_eq!(token(&[("HF_TOKEN", "hf_secret")]), "Some(Token(…))");
    let held = |text: &str| twinspan_sdk::hub::Token::new(text);
    assert_eq!(token_of(of(&[("HF_TOKEN", " a ")])), held("a"));
    let folder = at("");
    assert_eq!(token_of(of(&[("HF_HOME", &folder)])), held("hf_stored"));
    let file = at("other");
    let named = of(&[("HF_HOME", &folder), ("HF_TOKEN_PATH", &file)]);
    assert_eq!(token_of(named), held("hf_other"));
    assert_eq!(token_of(of(&[("HF_TOKEN_PATH", &at("absent"))])), None);
}
