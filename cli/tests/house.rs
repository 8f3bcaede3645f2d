//! The rules of the house, looked up in the source itself: who may name whom, which of candle's
//! operations are called where, what modules are called, and what plugins say of their options.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;
use twinspan::sdk::Error;
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, Kind, TaskEntry};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a folder of the workspace.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "rs") => files.push(path),
                false => {}
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no sources");
    files.sort();
    files
}

/// The lines of a file without comments, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate();
    let code = lines.map(|(i, line)| {
        // A comment starts a line or follows code; `://` is an address.
        let end = match line.trim_start().starts_with("//") {
            true => 0,
            false => line.find(" // ").unwrap_or(line.len()),
        };
        (i + 1, line[..end].to_string())
    });
    code.collect()
}

/// The words of a line in lower case: `LoraScale`, `lora_scale` and `lora-scale` are two each.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in line.chars() {
        if !letter.is_ascii_alphanumeric() || letter.is_uppercase() && before.is_lowercase() {
            words.push(String::new());
        }
        if let (true, Some(word)) = (letter.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Where the code of `folders` names one of `names`, which may be of several words.
fn naming(folders: &[&str], names: &[&'static str]) -> Vec<String> {
    let names: Vec<Vec<String>> = names.iter().map(|name| words(name)).collect();
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| sources(folder)) {
        for (number, line) in code(&path) {
            let line_words = words(&line);
            let named =
                |name: &&Vec<String>| line_words.windows(name.len()).any(|w| w == &name[..]);
            if let Some(name) = names.iter().find(named) {
                let name = name.join("-");
                found.push(format!("{}:{number} names {name}: {line}", path.display()));
            }
        }
    }
    found
}

#[test]
fn words_are_found_in_every_spelling() {
    assert_eq!(
        words("let x = LoraScale::lora_scale(\"lo-ra\");").join(" "),
        "let x lora scale lora scale lo ra"
    );
    assert_eq!(
        words("a Bridge of bridgers"),
        ["a", "bridge", "of", "bridgers"]
    );
}

#[test]
fn no_sdk_backbone_or_task_code_names_an_adapter() {
    let mut adapters = registry::names::<AdapterEntry>().unwrap();
    assert!(adapters.contains(&"bridger"));
    // One bears the name of its kind, which everyone may say, and names of files have prefixes.
    adapters.retain(|name| ![AdapterEntry::KIND, "prefix"].contains(name));
    let found = naming(&["sdk/src", "backbones/src", "tasks/src"], &adapters);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_adapter_names_a_backbone_or_a_task() {
    let mut names = registry::names::<BackboneEntry>().unwrap();
    names.extend(registry::names::<TaskEntry>().unwrap());
    // CLIP-Adapter is the name of a method, which works on any backbone.
    let mut found = naming(&["adapters/src"], &names);
    let spelt = ["clipadapter", "clip-adapter", "clip_adapter"];
    found.retain(|line| !spelt.iter().any(|name| line.to_lowercase().contains(name)));
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The search does find what is there.
    assert!(!naming(&["backbones/src"], &["clip"]).is_empty());
}

#[test]
fn candle_s_faulty_operations_are_called_in_ops_alone() {
    // Wrong or cut gradients, sums in half precision, a generator without a seed, or slow.
    const FAULTY: [&str; 17] = [
        "candle_nn",
        ".max_pool2d(",
        ".avg_pool2d(",
        ".upsample_",
        ".interpolate",
        ".unfold(",
        ".softmax(",
        ".layer_norm(",
        ".rms_norm(",
        ".conv1d(",
        ".conv2d(",
        ".conv_transpose1d(",
        ".conv_transpose2d(",
        ".gelu",
        ".silu(",
        "Tensor::rand",
        "binary_cross_entropy",
    ];
    let folders = [
        "sdk/src",
        "backbones/src",
        "adapters/src",
        "tasks/src",
        "cli/src",
        "examples",
    ];
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| sources(folder)) {
        if path.starts_with(root().join("sdk/src/ops")) {
            continue;
        }
        for (number, line) in code(&path) {
            if FAULTY.iter().any(|call| line.contains(call)) {
                found.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn modules_are_named_after_what_they_own() {
    const NAMELESS: [&str; 9] = [
        "utils", "util", "common", "helper", "helpers", "manager", "misc", "shared", "stuff",
    ];
    for folder in ["sdk", "backbones", "adapters", "tasks", "cli", "examples"] {
        for path in sources(folder) {
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let parent = path
                .parent()
                .and_then(Path::file_name)
                .unwrap()
                .to_string_lossy();
            for name in [stem.as_str(), &parent] {
                assert!(!NAMELESS.contains(&name), "{}", path.display());
            }
            let text = fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("//!"),
                "{} does not say what it is",
                path.display()
            );
            for name in NAMELESS {
                assert!(
                    !text.contains(&format!("mod {name} {{")),
                    "{}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn plugin_crates_depend_on_the_sdk_and_not_on_each_other() {
    let crates = ["backbones", "adapters", "tasks"];
    for name in crates {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest: Table = text.parse().unwrap();
        let ours: Vec<_> = manifest["dependencies"]
            .as_table()
            .unwrap()
            .keys()
            .filter(|k| k.starts_with("twinspan"))
            .collect();
        assert_eq!(ours, ["twinspan-sdk"], "{name}");
    }
    let text = fs::read_to_string(root().join("sdk/Cargo.toml")).unwrap();
    let manifest: Table = text.parse().unwrap();
    for section in ["dependencies", "dev-dependencies"] {
        let names: Vec<_> = manifest[section].as_table().unwrap().keys().collect();
        assert!(
            !names.iter().any(|k| k.starts_with("twinspan")),
            "sdk: {names:?}"
        );
    }
}

/// The fields that serde knows, read off its message about one that it does not.
fn fields<K: Kind>(name: &str) -> Vec<String> {
    let strange: Table = [("no such field".to_string(), 1.into())]
        .into_iter()
        .collect();
    let Err(Error::Options { message, .. }) = registry::configured::<K>(name, strange) else {
        panic!("`{name}` takes any field")
    };
    if message.contains("there are no fields") {
        return Vec::new();
    }
    let (_, expected) = message
        .split_once("expected")
        .unwrap_or_else(|| panic!("{name}: {message}"));
    let mut fields: Vec<String> = expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(String::from)
        .collect();
    fields.sort();
    fields
}

fn plugins_describe_themselves<K: Kind>() {
    for entry in registry::entries::<K>().unwrap() {
        let mut described: Vec<_> = entry.options.iter().map(|o| o.name.to_string()).collect();
        described.sort();
        assert_eq!(
            described,
            fields::<K>(entry.name),
            "{} `{}`",
            K::KIND,
            entry.name
        );
        for option in entry.options {
            assert!(
                !option.kind.is_empty() && !option.about.is_empty(),
                "{}",
                entry.name
            );
        }

        let defaults = registry::configured::<K>(entry.name, Table::new())
            .unwrap()
            .options;
        let text = toml::to_string(&defaults).unwrap();
        let read: Table = text.parse().unwrap();
        let again = registry::configured::<K>(entry.name, read).unwrap().options;
        assert_eq!(again, defaults, "{} `{}`", K::KIND, entry.name);
    }
}

#[test]
fn every_plugin_describes_its_fields_and_its_defaults_round_trip() {
    plugins_describe_themselves::<BackboneEntry>();
    plugins_describe_themselves::<AdapterEntry>();
    plugins_describe_themselves::<TaskEntry>();
}

/// The tables that the program prints of the linked plugins.
fn tables(kind: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_twinspan");
    let args = ["list", "--markdown"].iter().chain(kind);
    let output = std::process::Command::new(program).args(args).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn tables_show_what_plugins_declare() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for table in tables(&[]).trim().split("\n\n") {
        assert!(
            readme.contains(table),
            "README.md: put in what `twinspan list --markdown` prints:\n{table}"
        );
    }
    let docs = fs::read_to_string(root().join("adapters/src/lib.rs")).unwrap();
    let linked = tables(&["adapters"])
        .lines()
        .map(in_docs)
        .collect::<String>();
    assert!(
        docs.contains(&linked),
        "adapters/src/lib.rs: its documentation should hold\n{linked}"
    );
}

/// A row of the adapters' table as documentation, its name a link to the module.
fn in_docs(row: &str) -> String {
    match row
        .strip_prefix("| `")
        .and_then(|rest| rest.split_once('`'))
    {
        Some((name, rest)) => {
            // A link needs its target only where the name is no path.
            let target = match name.contains('-') {
                true => format!("({})", name.replace('-', "_")),
                false => String::new(),
            };
            let rest = rest.trim_start_matches(" |");
            format!("//! | [`{name}`]{target} |{rest}\n")
        }
        None => format!("//! {row}\n"),
    }
}

#[test]
fn a_method_is_a_file_of_160_lines_at_most() {
    for path in sources("adapters/src") {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        let long = text.contains("register!(adapter:") && lines > 160;
        assert!(!long, "{}: {lines} lines", path.display());
    }
}

#[test]
fn files_that_the_readme_links_to_are_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut found = 0;
    for link in readme.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        if !target.starts_with("http") && !target.starts_with('#') {
            assert!(root().join(target).exists(), "README.md links to {target}");
            found += 1;
        }
    }
    assert!(found > 5);
}
