//! The commands that need no data: what is there, what a recipe would make, and what the program
//! says to wrong use.

mod scene;
mod terminal;

use std::fs;
use std::path::{Path, PathBuf};

use scene::{RECIPE, write};
use serde_json::Value;
use terminal::has;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/recipes")
}

fn plan(name: &str) -> Value {
    twinspan!("plan", &recipes().join(name), "--json").json()
}

/// Parameters of each adapter by label, and of the head.
fn counts(plan: &Value) -> (Vec<(String, u64)>, u64) {
    let adapters = plan["adapters"].as_array().unwrap().iter().map(|a| {
        let label = a["label"].as_str().unwrap().to_string();
        (label, a["parameters"].as_u64().unwrap())
    });
    (
        adapters.collect(),
        plan["head_parameters"].as_u64().unwrap(),
    )
}

#[test]
fn list_names_every_plugin_and_describe_tells_of_each() {
    let rows = twinspan!("list", "--json").json();
    let names: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    for name in [
        "clip",
        "bridger",
        "cocoop",
        "coop",
        "lora",
        "lst",
        "maple",
        "prefix",
        "unfreeze",
        "vpt",
        "referring-segmentation",
        "classification",
        "retrieval",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let text = twinspan!("list").results();
    for name in names {
        has(&text, &[name]);
        let described = twinspan!("describe", name).results();
        has(&described, &[name, "options"]);
        let json = twinspan!("describe", name, "--json").json();
        for option in json["options"].as_array().unwrap() {
            has(&described, &[option["name"].as_str().unwrap()]);
        }
    }
    let only = twinspan!("list", "tasks").results();
    has(
        &only,
        &["classification", "referring-segmentation", "retrieval"],
    );
    assert!(!only.contains("bridger"));
    let message = twinspan!("describe", "brigder").error(2);
    has(&message, &["`brigder`", "did you mean `bridger`", "clip"]);
}

#[test]
fn plans_have_the_paper_s_numbers_and_read_no_weights() {
    const VIT: u64 = 22_671_361;
    const RN50: u64 = 26_735_105;
    const RN101: u64 = 24_244_225;
    for (name, bridger, head, positions) in [
        ("etris_vit_b16.toml", 598_592, VIT, 559_360),
        ("etris_vit_b16_d128.toml", 1_387_648, VIT, 559_360),
        ("etris_rn50.toml", 1_942_080, RN50, 141_824),
        ("etris_rn50_d56.toml", 1_678_104, RN50, 141_824),
        ("etris_rn101.toml", 1_942_080, RN101, 141_824),
    ] {
        for absent in [
            "ViT-B-16.safetensors",
            "RN50.safetensors",
            "RN101.safetensors",
        ] {
            assert!(!recipes().join(absent).exists());
        }
        let expected = vec![
            ("bridger".to_string(), bridger),
            ("unfreeze".to_string(), positions),
        ];
        assert_eq!(counts(&plan(name)), (expected, head), "{name}");
    }
}

#[test]
fn every_shipped_recipe_has_the_numbers_its_own_comment_says() {
    let mut told = 0;
    for entry in fs::read_dir(recipes()).unwrap() {
        let path = entry.unwrap().path();
        let text = twinspan!("plan", &path).results();
        has(&text, &["backbone ", "order of the towers", "trained: "]);
        let recipe = fs::read_to_string(&path).unwrap();
        let Some((_, line)) = recipe.split_once("# twinspan plan: ") else {
            continue;
        };
        let numbers = line.lines().next().unwrap().trim_end_matches('.');
        for part in numbers.split("; ") {
            let (what, count) = part.split_once(' ').unwrap();
            let said = match what {
                "head" => format!("head of {count} parameters"),
                label => format!("adapter {label}: {count} parameters"),
            };
            has(&text, &[&said]);
            told += 1;
        }
    }
    assert!(told >= 10, "{told} numbers compared");
}

#[test]
fn settings_change_a_plan() {
    let path = recipes().join("small.toml");
    let wide = twinspan!("plan", &path, "--json", "--set", "adapter.0.dim=64").json();
    assert!(counts(&wide).0[0].1 > counts(&plan("small.toml")).0[0].1);
}

#[test]
fn every_command_explains_itself() {
    for command in [
        &[][..],
        &["list"],
        &["describe"],
        &["plan"],
        &["train"],
        &["eval"],
        &["segment"],
        &["convert"],
        &["import"],
        &["import", "etris"],
        &["bench"],
        &["bench", "ops"],
    ] {
        let mut arguments: Vec<_> = command.iter().map(|&a| a.into()).collect();
        arguments.push("--help".into());
        let text = terminal::run(arguments).results();
        has(&text, &["Usage: twinspan"]);
        // Every option and argument has a line of its own that says what it is.
        for line in text.lines().filter(|line| line.starts_with("      --")) {
            let told = line.trim().split("  ").nth(1).is_some();
            let below = text.split(line).nth(1).unwrap_or_default();
            let next = below.trim_start_matches('\n').lines().next();
            assert!(
                told || next.is_some_and(|n| n.starts_with("          ")),
                "{line}"
            );
        }
    }
    has(&twinspan!("--version").results(), &["twinspan 0."]);
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_possible() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write(folder.path(), "recipe.toml", RECIPE);
    let data = scene::data(folder.path());
    let out = folder.path().join("model");

    for arguments in [&["frobnicate"][..], &[], &["plan"], &["plan", "a", "--jsn"]] {
        let said = terminal::run(arguments.iter().map(|&a| a.into()).collect());
        assert_eq!(said.code, Some(2), "{said:?}");
        assert_eq!(said.stdout, "", "{said:?}");
        has(&said.stderr, &["Usage: twinspan"]);
    }
    let train = |device: &str| {
        let said = twinspan!(
            "train", &recipe, "--data", &data, "--out", &out, "--device", device
        );
        said.error(2)
    };
    has(&train("gpu"), &["`gpu`", "auto, cpu, cuda:0"]);
    has(&train("cuda:x"), &["`cuda:x`", "auto, cpu, cuda:0"]);
    let message = twinspan!("plan", folder.path().join("absent.toml")).error(2);
    has(&message, &["absent.toml", "cannot be read"]);
    let broken = write(folder.path(), "broken.toml", "[backbone\nuse = 1");
    has(
        &twinspan!("plan", &broken).error(2),
        &["broken.toml", "not TOML"],
    );
    for section in ["backbone", "task"] {
        let without = RECIPE.replace(&format!("[{section}]"), "[train.groups.head]");
        let path = write(folder.path(), "without.toml", without);
        has(&twinspan!("plan", &path).error(2), &["without.toml"]);
    }
    let one = write(
        folder.path(),
        "one.toml",
        RECIPE
            .replace("[[adapter]]\nuse = \"lora\"\nrank = 2\n", "")
            .replace("[[adapter]]", "[adapter]"),
    );
    has(
        &twinspan!("plan", &one).error(2),
        &["[[adapter]]", "two brackets"],
    );

    for command in ["eval", "segment"] {
        let mut arguments: Vec<std::ffi::OsString> =
            vec![command.into(), "--model".into(), folder.path().into()];
        match command {
            "eval" => arguments.extend([
                "--data".into(),
                data.clone().into(),
                "--split".into(),
                "val".into(),
            ]),
            _ => arguments.extend([
                "--image".into(),
                folder.path().join("0.png").into(),
                "--text".into(),
                "it".into(),
                "--out".into(),
                out.clone().into(),
            ]),
        }
        let message = terminal::run(arguments.clone()).error(2);
        has(
            &message,
            &["is not a model folder", "recipe.toml", "tuned.safetensors"],
        );
        arguments.extend(["--device".into(), "tpu".into()]);
        has(&terminal::run(arguments).error(2), &["`tpu`", "cpu"]);
    }
    assert!(!out.exists());
    has(
        &twinspan!("bench", "ops", "no such operation").error(2),
        &["no such operation"],
    );
}

#[test]
fn sizes_that_are_a_slip_of_the_pen_are_refused_before_memory_is_asked_for() {
    for setting in [
        "task.width=1000000000000",
        "task.ffn=10000000000",
        "task.layers=100000000",
        "adapter.0.dim=1000000000000",
        "backbone.model.vision.width=1000000000000",
        "backbone.model.vision.image_size=100000000",
    ] {
        let path = recipes().join("small.toml");
        let message = twinspan!("plan", &path, "--set", setting).error(2);
        assert!(
            ["may hold", "give 1 to", "between 1 and"]
                .iter()
                .any(|s| message.contains(s)),
            "{message}"
        );
    }
}

#[test]
fn adapters_in_one_line_replace_the_recipe_s() {
    let recipe = recipes().join("small.toml");
    let expression = "lora[rank=2]@text.query + unfreeze[roles=[\"norm\"]]";
    let plan = twinspan!("plan", &recipe, "--adapters", expression, "--json").json();
    let (counts, _) = counts(&plan);
    let labels: Vec<_> = counts.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(labels, ["lora", "unfreeze"]);
    let sites = plan["adapters"][0]["sites"].as_array().unwrap();
    let site = sites[0].as_str().unwrap();
    assert!(
        site.starts_with("text.") && site.ends_with("query"),
        "{site}"
    );
    // Settings come on top.
    let more = twinspan!(
        "plan",
        &recipe,
        "--adapters",
        expression,
        "--set",
        "adapter.0.rank=4",
        "--json"
    );
    assert_eq!(self::counts(&more.json()).0[0].1, 2 * counts[0].1);
    let message = twinspan!("plan", &recipe, "--adapters", "lora + brigder").error(2);
    has(
        &message,
        &["column 8", "did you mean `bridger`?", "unfreeze"],
    );
}
