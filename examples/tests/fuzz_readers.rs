//! A few thousand changed files for each reader: what `examples/fuzz_readers` does a million times.

#[path = "../examples/fuzz_readers/allocations.rs"]
mod allocations;
#[path = "../examples/fuzz_readers/archives.rs"]
mod archives;
#[path = "../examples/fuzz_readers/draws.rs"]
mod draws;
#[path = "../examples/fuzz_readers/mutate.rs"]
mod mutate;
#[path = "../examples/fuzz_readers/pickles.rs"]
mod pickles;
#[path = "../examples/fuzz_readers/readers.rs"]
mod readers;
#[path = "../examples/fuzz_readers/run.rs"]
mod run;

use readers::{READERS, Valid};

#[global_allocator]
static ALLOCATOR: allocations::Counted = allocations::Counted;

const INPUTS: u64 = 3000;

/// What takes the most memory for its length, in this many bytes.
const LARGE: usize = 1 << 20;

/// A reader, its file, how the file begins, what it repeats, and how it ends.
type Bomb = (
    &'static str,
    &'static str,
    &'static [u8],
    &'static [u8],
    &'static [u8],
);

const BOMBS: &[Bomb] = &[
    ("pickle", "pickle", b"", b"N", b"."),
    ("pickle", "pickle", b"", b"]", b"."),
    ("pickle", "pickle", b"", b"(", b"."),
    ("pickle", "pickle", b"", b"]\x94", b"."),
    ("pickle", "pickle", b"N", b"2", b"."),
    ("pickle", "pickle", b"N", b"\x85", b"."),
    ("pickle", "pickle", b"N", b"2\x85", b"."),
    ("pickle", "pickle", b"N", b"\x94", b"."),
    ("pickle", "pickle", b"]", b"Na", b"."),
    ("pickle", "pickle", b"}", b"NNs", b"."),
    ("pickle", "pickle", b"", b"c\n\n", b"."),
    ("pickle", "pickle", b"", b"(t", b"."),
    ("pickle", "pickle", b"T\0\0\x10\0", b"\xff", b"\n."),
    ("pickle", "pickle", b"V", b"\xff", b"\n."),
    ("references", "references/set/refs(unc).p", b"](", b"}", b"e."),
    ("instances", "instances/set/instances.json", b"{\"images\":[],\"annotations\":[{\"id\":0,\"image_id\":0,\"segmentation\":[", b"[],", b"[]]}]}"),
    ("instances", "instances/set/instances.json", b"{\"images\":[],\"annotations\":[{\"id\":0,\"image_id\":0,\"segmentation\":{\"size\":[1,1],\"counts\":[", b"0,", b"0]}}]}"),
    ("jsonl", "jsonl/data.jsonl", b"{\"image\":\"1.jpg\",\"polygons\":[", b"[],", b"[]],\"sentences\":[\"a\"]}"),
    ("jsonl", "jsonl/data.jsonl", b"{\"image\":\"1.jpg\",\"mask\":\"1.png\",\"sentences\":[", b"\"a\",", b"\"a\"]}"),
    ("jsonl", "jsonl/data.jsonl", b"{\"image\":\"1.jpg\",\"sentences\":[\"a\"],\"rle\":{\"size\":[1,1],\"counts\":[", b"0,", b"0]}}"),
    ("run-lengths", "run_lengths.json", b"{\"size\":[1,1],\"counts\":[", b"0,", b"1]}"),
    ("run-lengths", "run_lengths.json", b"{\"size\":[1,1],\"counts\":\"", b"0", b"1\"}"),
    ("vocabulary", "vocabulary/tokenizer.json", b"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[", b"[\"\",\"\"],", b"\"\"]}}"),
    ("vocabulary", "vocabulary/tokenizer.json", b"{\"model\":[", b"[],", b"0]}"),
    ("vocabulary", "ids/vocab.json", b"{\"a\":[", b"0,", b"0]}"),
    ("vocabulary", "merges/merges.txt", b"", b"a b\n", b""),
    ("shards", "shards/index.json", b"{\"weight_map\":{\"a\":\"1\"},\"b\":[", b"0,", b"0]}"),
];

fn bombs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut bombs: Vec<_> = BOMBS
        .iter()
        .map(|(reader, file, start, part, end)| {
            let times = LARGE / part.len();
            (
                *reader,
                *file,
                [start, &part.repeat(times)[..], end].concat(),
            )
        })
        .collect();
    let many = |line: &dyn Fn(usize) -> String| {
        let lines: Vec<String> = (0..LARGE / line(99_999).len()).map(line).collect();
        lines.join(",")
    };
    let headed =
        |header: String| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let tensors = many(&|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    bombs.push(("safetensors", "weights", headed(format!("{{{tensors}}}"))));
    let sizes = "1,".repeat(LARGE / 2);
    let tensor = format!(r#"{{"a":{{"dtype":"U8","shape":[{sizes}1],"data_offsets":[0,1]}}}}"#);
    bombs.push(("safetensors", "weights", headed(tensor)));
    let shards = many(&|i| format!(r#""{i}":"1""#));
    bombs.push((
        "shards",
        "shards/index.json",
        format!(r#"{{"weight_map":{{{shards}}}}}"#).into(),
    ));
    let ids = many(&|i| format!(r#""{i}":{i}"#));
    bombs.push(("vocabulary", "ids/vocab.json", format!("{{{ids}}}").into()));
    let merges: Vec<String> = (0..LARGE / 5)
        .map(|i| ["! !", "! \"", "\" !", "# !"][i % 4].to_string())
        .collect();
    bombs.push(("vocabulary", "merges/merges.txt", merges.join("\n").into()));
    // Tensors as short as they get, each with a name of its own.
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v2\nq\0((X\x07\0\0\0storagectorch\nHalfStorage\nU\x010U\x03cpuK\x10tQK\0(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01tq\x01h\x01tq\x02}(".to_vec();
    for i in 0..LARGE / 11 {
        pickle.extend(b"U\x04");
        pickle.extend([i, i >> 6, i >> 12, i >> 18].map(|n| b'0' + n as u8 % 64));
        pickle.extend(b"h\0h\x02R");
    }
    pickle.extend(b"u.");
    bombs.push((
        "state-dict",
        "weights",
        archives::zip(&[("m/data.pkl", &pickle), ("m/data/0", &[0; 32])]),
    ));
    let names: Vec<String> = (0..LARGE / 60).map(|i| i.to_string()).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    bombs.push(("zip", "weights", archives::zip(&entries)));
    bombs
}

/// One test, as memory is counted for the whole process.
#[test]
fn no_reader_panics_or_holds_more_than_a_small_multiple_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let valid = Valid::new(folder.path());
    let kept = std::env::temp_dir().join("fuzz-findings");
    for reader in &READERS {
        let report = run::run(reader, &valid, folder.path(), 7, 0..INPUTS, &kept);
        assert_eq!(report.findings, [], "{}", reader.name);
        // Some get through: what is refused at once tests nothing.
        assert!(
            report.read * 50 > INPUTS,
            "{}: {} read",
            reader.name,
            report.read
        );
        assert!(report.read < INPUTS, "{}: nothing was damaged", reader.name);
    }
    for (name, file, bytes) in bombs() {
        let reader = READERS.iter().find(|reader| reader.name == name).unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, &bytes).unwrap();
        let (outcome, held) = allocations::peak(|| reader.read(&path, &bytes));
        let times = held.saturating_sub(reader.allowance) as f64 / bytes.len() as f64;
        let end = bytes.len().min(60);
        let start = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let said: String = format!("{outcome:?}").chars().take(150).collect();
        assert!(
            times <= run::TIMES as f64,
            "{name} {start:?}: {times:.1} times its file; {said}"
        );
    }
}
