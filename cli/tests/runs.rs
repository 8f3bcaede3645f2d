//! Runs on disk, by the program itself: stopped, killed, out of disk and gone on with, they come
//! to what they would have come to anyway.
#![cfg(unix)]

mod scene;
mod terminal;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use scene::{RECIPE, names, write};
use serde_json::Value;
use tempfile::TempDir;
use terminal::{Said, has};
use twinspan::sdk::run::{Run, Start};
use twinspan::sdk::tuned::Compute;
use twinspan::sdk::{artifact, random};

/// Evaluations, averages, accumulation and dropout: all that has a state of its own.
const RUN: [&str; 8] = [
    "train.evaluate_split=val",
    "train.evaluate_every=4",
    "train.save_every=1",
    "train.ema=0.9",
    "train.accumulate=2",
    "train.batch=1",
    "task.dropout=0.1",
    "train.optimizer=adamw",
];

/// A folder with data and a recipe.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        scene::data(folder.path());
        write(folder.path(), "recipe.toml", RECIPE);
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arguments(&self, out: &str, more: &[&str], settings: &[&str]) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["train".into(), self.path("recipe.toml").into()];
        for (flag, name) in [("--data", "data.jsonl"), ("--out", out)] {
            arguments.extend([flag.into(), self.path(name).into()]);
        }
        arguments.extend(more.iter().map(Into::into));
        for setting in settings {
            arguments.extend(["--set".into(), setting.into()]);
        }
        arguments
    }

    fn train(&self, out: &str, more: &[&str], settings: &[&str]) -> Said {
        terminal::run(self.arguments(out, more, settings))
    }

    /// The program, running.
    fn begin(&self, out: &str, more: &[&str], settings: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_twinspan"))
            .args(self.arguments(out, more, settings))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }

    fn events(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("events.jsonl")).unwrap_or_default();
        let lines = text.lines();
        lines.filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// The steps of one kind of event, in the order of the file.
    fn steps(&self, out: &str, kind: &str) -> Vec<u64> {
        let events = self.events(out);
        let of_kind = events.iter().filter(|e| e["event"] == kind);
        of_kind.map(|e| e["step"].as_u64().unwrap()).collect()
    }

    /// Waits until a run has done some steps.
    fn wait_for(&self, out: &str, steps: usize) {
        let started = Instant::now();
        while self.steps(out, "step").len() < steps {
            assert!(started.elapsed() < Duration::from_secs(60), "no steps");
            sleep(Duration::from_millis(5));
        }
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn ended(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Opens the model that a folder stands for.
fn opens(path: &Path) {
    let recipe = artifact::recipe(path, None).unwrap();
    artifact::open(path, &recipe, Compute::default()).unwrap();
}

/// Reads TensorBoard's records with nothing of the writer: framing, checksums, and the step and
/// scalars of each event.
fn tensorboard(bytes: &[u8]) -> Vec<(u64, Vec<(String, f32)>)> {
    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82F6_3B78 * (crc & 1));
            }
        }
        !crc
    }
    fn masked(bytes: &[u8]) -> u32 {
        let crc = crc32c(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    /// Fields as number and content; a varint's content is its eight bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    let value = varint(&mut bytes);
                    fields.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                wire => panic!("wire type {wire}"),
            };
            fields.push((key >> 3, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        fields
    }
    assert_eq!(
        crc32c(b"123456789"),
        0xE306_9283,
        "the check value of CRC-32C"
    );
    let mut rest = bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
        assert_eq!(masked(length).to_le_bytes(), after[..4]);
        let content = &after[4..4 + size];
        assert_eq!(masked(content).to_le_bytes(), after[4 + size..8 + size]);
        rest = &after[8 + size..];
        let (mut step, mut scalars) = (0, Vec::new());
        for (number, value) in fields(content) {
            match number {
                1 => assert!(f64::from_le_bytes(value.try_into().unwrap()) > 1.7e9),
                2 => step = u64::from_le_bytes(value.try_into().unwrap()),
                3 => assert_eq!(value, b"brain.Event:2"),
                5 => scalars.extend(fields(&value).into_iter().map(|(_, value)| {
                    let [(1, tag), (2, scalar)] = &fields(&value)[..] else {
                        panic!("{value:?}")
                    };
                    let scalar = f32::from_le_bytes(scalar[..].try_into().unwrap());
                    (String::from_utf8(tag.clone()).unwrap(), scalar)
                })),
                number => panic!("field {number}"),
            }
        }
        events.push((step, scalars));
    }
    assert!(events.remove(0).1.is_empty(), "the version comes first");
    events
}

#[test]
fn a_run_that_is_killed_at_any_time_comes_to_what_it_would_have_come_to() {
    let bench = Bench::new();
    let endless = [&RUN[..], &["train.steps=1000000"]].concat();
    // How soon a sitting saves depends on the machine and on what else it does.
    let started = Instant::now();
    let mut child = bench.begin("model", &["--resume"], &endless);
    while !bench.path("model/last").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "over by itself");
        assert!(started.elapsed() < Duration::from_secs(120), "never saved");
        sleep(Duration::from_millis(5));
    }
    let soon = started.elapsed().as_secs_f64();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut before = 0;
    for kill in 0..24 {
        let mut child = bench.begin("model", &["--resume"], &endless);
        // From before the first step of a sitting to many steps after it.
        let drawn = random::uniform(random::key(5, "kill"), kill);
        sleep(Duration::from_secs_f64(soon * (0.2 + 1.8 * drawn)));
        assert_eq!(child.try_wait().unwrap(), None, "over by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        if bench.path("model/last").exists() {
            opens(&bench.path("model/last"));
            opens(&bench.path("model"));
            let run = Run::claim(&bench.path("model"), Start::Resume).unwrap();
            let step = run.standing().unwrap().step;
            assert!(step >= before, "{step} after {before}");
            before = step;
        }
    }
    assert!(before > 0, "no kill hit a run that had saved");
    let steps = (before as u64 / 4 + 1) * 4;
    let to_the_end = format!("train.steps={steps}");
    let settings = [&RUN[..], &[&to_the_end]].concat();
    bench.train("model", &["--resume"], &settings).results();
    bench.train("whole", &[], &settings).results();
    for model in ["last", "best"] {
        let [whole, killed] =
            ["whole", "model"].map(|out| bench.bytes(&format!("{out}/{model}/tuned.safetensors")));
        assert!(whole == killed, "{model}");
    }
    assert_eq!(
        names(&bench.path("model")),
        [
            "best",
            "events.jsonl",
            "events.out.tfevents.0.twinspan",
            "last",
            "recipe.toml"
        ]
    );
    assert!(!names(bench.0.path()).iter().any(|n| n.starts_with('.')));
    // Each step once, as if nothing had happened, and the same for TensorBoard.
    assert_eq!(
        bench.steps("model", "step"),
        (1..=steps).collect::<Vec<_>>()
    );
    let evaluated: Vec<_> = (4..=steps).step_by(4).collect();
    assert_eq!(bench.steps("model", "evaluation"), evaluated);
    let [whole, killed] = ["whole", "model"].map(|out| {
        let events = bench.events(out);
        events.iter().map(|e| e["loss"].clone()).collect::<Vec<_>>()
    });
    assert_eq!(whole, killed);
    let shown = tensorboard(&bench.bytes("model/events.out.tfevents.0.twinspan"));
    let events = bench.events("model");
    assert_eq!(shown.len(), events.len());
    for ((step, scalars), event) in shown.iter().zip(&events) {
        assert_eq!(*step, event["step"].as_u64().unwrap());
        let named = |name: &str| scalars.iter().find(|(tag, _)| tag == name).unwrap().1;
        match event["loss"].as_f64() {
            Some(loss) => assert_eq!(named("train/loss"), loss as f32),
            None => {
                let score = event["scores"]["mIoU"].as_f64().unwrap();
                assert_eq!(named("val/mIoU"), score as f32);
            }
        }
    }
}

#[test]
fn a_signal_saves_and_the_run_goes_on_from_there() {
    let bench = Bench::new();
    let endless = [&RUN[2..], &["train.steps=1000000", "train.save_every=0"]].concat();
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let out = &name[1..];
        let child = bench.begin(out, &[], &endless);
        bench.wait_for(out, 3);
        assert!(!bench.path(out).join("last").exists(), "saved too early");
        // A run that is going keeps others out.
        let message = bench.train(out, &["--overwrite"], &[]).error(2);
        has(&message, &[out, "another process"]);
        signal(&child, name);
        let said = ended(child);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert_eq!(said.stdout, "");
        let done = bench.steps(out, "step").len();
        has(
            &said.stderr,
            &[&format!("after step {done} of 1000000"), "--resume"],
        );
        opens(&bench.path(out));

        let steps = format!("train.steps={}", done + 2);
        let fewer = [&RUN[2..], &[&steps]].concat();
        let said = bench.train(out, &["--resume"], &fewer);
        has(&said.stderr, &[&format!("going on after step {done}")]);
        said.results();
        bench.train("whole", &["--overwrite"], &fewer).results();
        let [whole, stopped] =
            ["whole", out].map(|out| bench.bytes(&format!("{out}/last/tuned.safetensors")));
        assert!(whole == stopped);
    }
}

/// Ranks that fall from step to step are as far as they were, and fall on as they would have.
#[test]
fn a_life_of_many_steps_goes_on_where_it_was() {
    let bench = Bench::new();
    let adapters = [
        "--adapters",
        "adalora[warmup=2, cooldown=4] + dora@text.output",
    ];
    let settings = [&RUN[..1], &["train.steps=60", "train.batch=1"]].concat();
    let child = bench.begin("stopped", &adapters, &settings);
    bench.wait_for("stopped", 6);
    signal(&child, "-INT");
    ended(child);
    let done = bench.steps("stopped", "step").len();
    assert!(done < 60, "it was over before it was stopped");
    let resumed = [&adapters[..], &["--resume"]].concat();
    bench.train("stopped", &resumed, &settings).results();
    bench.train("whole", &adapters, &settings).results();
    let [whole, stopped] =
        ["whole", "stopped"].map(|out| bench.bytes(&format!("{out}/last/tuned.safetensors")));
    assert!(whole == stopped);
}

#[test]
fn a_second_signal_exits_at_once() {
    let bench = Bench::new();
    // One step of minutes.
    let slow = ["train.accumulate=4000", "train.steps=1"];
    let mut child = bench.begin("model", &[], &slow);
    sleep(Duration::from_millis(1500));
    signal(&child, "-INT");
    sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None, "the first one asks");
    let started = Instant::now();
    signal(&child, "-INT");
    assert_eq!(ended(child).code, Some(130));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(!bench.path("model").exists());
}

#[test]
fn a_full_disk_leaves_the_last_model_whole() {
    let bench = Bench::new();
    let with = |steps: &str| -> Vec<String> {
        let settings = RUN[2..].iter().map(|s| s.to_string());
        settings.chain([format!("train.steps={steps}")]).collect()
    };
    let train = |out: &str, more: &[&str], steps: &str| {
        let settings = with(steps);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        bench.train(out, more, &settings)
    };
    train("model", &[], "2").results();
    let files = ["tuned.safetensors", "state.safetensors"];
    let before = files.map(|name| bench.bytes(&format!("model/last/{name}")));
    // Room for the overlay and all small files, not for the state; then for neither.
    for room in [before[0].len() + 1024, before[0].len() / 2] {
        assert!(room < before[1].len() && room > 64 << 10);
        let settings = with("4");
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let output = Command::new("bash")
            .arg("-c")
            .arg(format!("ulimit -f {}; exec \"$0\" \"$@\"", room / 1024))
            .arg(env!("CARGO_BIN_EXE_twinspan"))
            .args(bench.arguments("model", &["--resume"], &settings))
            .output()
            .unwrap();
        let said = Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        has(&said.error(1), &["cannot write", "model/last", "too large"]);
        let after = files.map(|name| bench.bytes(&format!("model/last/{name}")));
        assert!(before == after);
        opens(&bench.path("model"));
        let hidden = |folder: &Path| names(folder).iter().any(|n| n.starts_with('.'));
        assert!(!hidden(bench.0.path()) && !hidden(&bench.path("model")));
    }
    train("model", &["--resume"], "4").results();
    train("whole", &[], "4").results();
    let [whole, full] =
        ["whole", "model"].map(|out| bench.bytes(&format!("{out}/last/tuned.safetensors")));
    assert!(whole == full);
    assert_eq!(bench.steps("model", "step"), [1, 2, 3, 4]);
}

#[test]
fn the_best_model_is_kept_and_patience_ends_a_run() {
    let bench = Bench::new();
    let settings = [
        "train.steps=40",
        "train.evaluate_split=val",
        "train.evaluate_every=2",
        "train.metric=oIoU",
        "train.patience=3",
        // Nothing changes, so that no evaluation is better than the first.
        "train.rate=0",
    ];
    let said = bench.train("model", &[], &settings);
    has(&said.stderr, &["after step 2, on val: ", "(best)"]);
    let text = said.results();
    has(&text, &["8 steps", "stopped early: no better in 3"]);
    has(&text, &["best: oIoU ", "on val after step 2"]);
    assert_eq!(bench.steps("model", "evaluation"), [2, 4, 6, 8]);
    let best = bench.json("model/best/metrics.json");
    assert_eq!((&best["step"], &best["steps"]), (&2.into(), &40.into()));
    assert_eq!(bench.json("model/last/metrics.json")["step"], 8);
    // The folder stands for its best model, whose scores are in it.
    let eval = |model: &str| {
        let (model, data) = (bench.path(model), bench.path("data.jsonl"));
        twinspan!(
            "eval", "--model", &model, "--data", &data, "--split", "val", "--json"
        )
        .json()
    };
    let scores = eval("model")["scores"].clone();
    assert_eq!(scores, best["val"]);
    assert_eq!(scores, eval("model/best")["scores"]);
    fs::remove_dir_all(bench.path("model/best")).unwrap();
    assert_eq!(scores, eval("model")["scores"]);

    // What is over is over.
    let said = bench.train("model", &["--resume"], &settings);
    has(&said.results(), &["8 steps were done already"]);
}

#[test]
fn what_cannot_go_on_says_what_differs() {
    let bench = Bench::new();
    let schedule = "train.schedule={ kind = \"cosine\" }";
    let said = bench.train("model", &["--resume"], &[schedule]);
    has(&said.stderr, &["nothing was saved there yet"]);
    said.results();
    let before = bench.bytes("model/last/tuned.safetensors");

    let refused = |more: &[&str], settings: &[&str], parts: &[&str]| {
        has(&bench.train("model", more, settings).error(2), parts);
        assert!(bench.bytes("model/last/tuned.safetensors") == before);
    };
    refused(
        &[],
        &[schedule],
        &["a run of 3 steps", "--resume", "--overwrite"],
    );
    refused(
        &["--resume"],
        &[schedule, "train.rate=0.5"],
        &["train.rate was 0.001 and is 0.5"],
    );
    refused(
        &["--resume"],
        &[schedule, "adapter.1.rank=4"],
        &["adapter.1.", "was 2", "is 4"],
    );
    refused(
        &["--resume"],
        &[schedule, "train.steps=5"],
        &["train.steps was 3 and is 5", "fractions of all steps"],
    );
    refused(
        &["--resume"],
        &[],
        &["train.schedule.kind", "cosine", "constant"],
    );
    let data = fs::read_to_string(bench.path("data.jsonl")).unwrap();
    write(
        bench.0.path(),
        "data.jsonl",
        data.replace("the thing", "that one"),
    );
    refused(&["--resume"], &[schedule], &["examples of split `train`"]);
    let first = data.lines().next().unwrap();
    write(bench.0.path(), "data.jsonl", format!("{first}\n{data}"));
    refused(
        &["--resume"],
        &[schedule],
        &["`train` had 2 examples and has 3"],
    );
    write(bench.0.path(), "data.jsonl", &data);
    // How it is loaded and saved is free.
    let free = [schedule, "train.workers=0", "train.save_every=1"];
    bench.train("model", &["--resume"], &free).results();
    assert!(bench.bytes("model/last/tuned.safetensors") == before);

    // With a constant schedule a run can be shorter than planned, or longer.
    bench.train("constant", &[], &[]).results();
    bench
        .train("constant", &["--resume"], &["train.steps=5"])
        .results();
    bench.train("at-once", &[], &["train.steps=5"]).results();
    assert!(
        bench.bytes("constant/last/tuned.safetensors")
            == bench.bytes("at-once/last/tuned.safetensors")
    );
    let message = bench
        .train("constant", &["--resume"], &["train.steps=4"])
        .error(2);
    has(&message, &["5 steps are done", "take 4"]);

    // A model alone has no state.
    fs::rename(bench.path("model/last"), bench.path("alone")).unwrap();
    for (more, said) in [
        (&[][..], "--overwrite"),
        (&["--resume"], "without the state"),
    ] {
        has(&bench.train("alone", more, &[]).error(2), &["alone", said]);
    }
    bench.train("alone", &["--overwrite"], &[]).results();
    opens(&bench.path("alone"));

    for (setting, said) in [
        ("train.patience=2", "train.evaluate_split"),
        ("train.ema=1.0", "train.ema"),
        ("train.workers=1000", "train.workers"),
        ("train.evaluate_split=tset", "`tset`"),
    ] {
        has(&bench.train("other", &[], &[setting]).error(2), &[said]);
    }
    let metric = ["train.evaluate_split=val", "train.metric=mIuO"];
    has(
        &bench.train("metric", &[], &metric).error(2),
        &["`mIuO`", "mIoU, oIoU"],
    );
}
