//! The readers of foreign files, and how an input for each is drawn.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use twinspan::backbones::tokenizer::ClipTokenizer;
use twinspan::sdk::checkpoint::{Checkpoint, CheckpointError};
use twinspan::sdk::pickle::Pickle;
use twinspan::sdk::task::DataSource;
use twinspan::tasks::record::Records;
use twinspan::tasks::refcoco;
use twinspan::tasks::run_length::RunLengths;

use crate::draws::Draws;
use crate::{archives, mutate, pickles};

/// A reader under test.
pub struct Reader {
    pub name: &'static str,
    /// Bytes that it may hold whatever the file's size.
    pub allowance: usize,
    draw: fn(&Valid, &mut Draws) -> Input,
    read: fn(&Path, &[u8]) -> Result<(), String>,
}

/// A changed file.
pub struct Input {
    /// Where it lies in the reader's folder.
    pub file: &'static str,
    pub bytes: Vec<u8>,
}

/// What an empty reader holds: small tables, the text of an error.
const SMALL: usize = 64 << 10;

/// Compiling the pattern that splits sentences, once a vocabulary is whole.
const PATTERN: usize = 4 << 20;

pub const READERS: [Reader; 12] = [
    Reader {
        name: "safetensors",
        allowance: SMALL,
        draw: safetensors,
        read: checkpoint,
    },
    Reader {
        name: "zip",
        allowance: SMALL,
        draw: zip,
        read: checkpoint,
    },
    Reader {
        name: "state-dict",
        allowance: SMALL,
        draw: state_dict,
        read: checkpoint,
    },
    Reader {
        name: "torchscript",
        allowance: SMALL,
        draw: torchscript,
        read: checkpoint,
    },
    Reader {
        name: "legacy",
        allowance: SMALL,
        draw: legacy,
        read: checkpoint,
    },
    Reader {
        name: "shards",
        allowance: SMALL,
        draw: |valid, draws| text("shards/index.json", &valid.indices, draws),
        read: checkpoint,
    },
    Reader {
        name: "pickle",
        allowance: SMALL,
        draw: |valid, draws| Input {
            file: "pickle",
            bytes: pickle(&valid.pickles, draws),
        },
        read: |_, bytes| Pickle::read(bytes).map(drop).map_err(|e| e.to_string()),
    },
    Reader {
        name: "vocabulary",
        allowance: PATTERN,
        draw: vocabulary,
        // Nothing is encoded: the BPE library keeps a table for each vocabulary that was.
        read: |path, _| {
            ClipTokenizer::open(path)
                .map(drop)
                .map_err(|e| e.to_string())
        },
    },
    Reader {
        name: "references",
        allowance: SMALL,
        draw: |valid, draws| Input {
            file: "references/set/refs(unc).p",
            bytes: match draws.once_in(8) {
                true => pickles::references(draws),
                false => pickle(&valid.references, draws),
            },
        },
        read: data_set,
    },
    Reader {
        name: "instances",
        allowance: SMALL,
        draw: |valid, draws| text("instances/set/instances.json", &valid.instances, draws),
        read: data_set,
    },
    Reader {
        name: "run-lengths",
        allowance: SMALL,
        draw: |valid, draws| text("run_lengths.json", &valid.run_lengths, draws),
        read: run_lengths,
    },
    Reader {
        name: "jsonl",
        allowance: SMALL,
        draw: |valid, draws| text("jsonl/data.jsonl", &valid.lines, draws),
        read: |path, _| Records::open(path).map(drop).map_err(|e| e.to_string()),
    },
];

impl Reader {
    pub fn draw(&self, valid: &Valid, draws: &mut Draws) -> Input {
        (self.draw)(valid, draws)
    }

    /// Reads the file at `path`, of these bytes; the error is the reader's refusal.
    pub fn read(&self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        (self.read)(path, bytes)
    }
}

/// Files that are read.
pub struct Valid {
    safetensors: Vec<Vec<u8>>,
    zips: Vec<Vec<u8>>,
    legacy: Vec<Vec<u8>>,
    /// Of state dicts, and of TorchScript modules.
    state_dicts: Vec<Vec<u8>>,
    modules: Vec<Vec<u8>>,
    pickles: Vec<Vec<u8>>,
    indices: Vec<Vec<u8>>,
    ids: Vec<Vec<u8>>,
    merges: Vec<Vec<u8>>,
    tokenizers: Vec<Vec<u8>>,
    references: Vec<Vec<u8>>,
    instances: Vec<Vec<u8>>,
    run_lengths: Vec<Vec<u8>>,
    lines: Vec<Vec<u8>>,
}

/// A file of the crates' own tests.
fn test_data(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Valid {
    /// The valid files, and in `folder` those that a reader wants beside its input.
    pub fn new(folder: &Path) -> Self {
        let torch = |name: &str| test_data(&format!("sdk/tests/files_data/{name}"));
        let zips = [
            "state_dict.pth",
            "state_dict_p4.pth",
            "training.pth",
            "script.pt",
        ]
        .map(torch);
        let scripts = ["script.pt", "traced.pt", "scripted_f16.pt"].map(torch);
        let content = |zip: &Vec<u8>| archives::entry(zip, "data.pkl").unwrap_or_default();
        let state_dicts: Vec<_> = zips[..3].iter().map(content).collect();
        let modules: Vec<_> = scripts.iter().map(content).collect();
        let references = ["protocol0.p", "protocol2.p", "protocol4.p"]
            .map(|name| test_data(&format!("tasks/tests/data/refcoco/{name}")));
        let ids = test_data("backbones/tests/tokenizer_data/vocab.json");
        let merges = test_data("backbones/tests/tokenizer_data/merges.txt");
        let valid = Self {
            safetensors: vec![tensors()],
            pickles: [&state_dicts[..], &modules, &references].concat(),
            zips: zips.into(),
            legacy: ["legacy.pth", "parallel.pth"].map(torch).into(),
            state_dicts,
            modules,
            indices: [
                json!({"metadata": {"total_size": 9}, "weight_map": {"a": "1", "b.c": "1", "lin.bias": "2", "lin.weight": "2"}}),
                json!({"weight_map": {"lin.bias": "2"}}),
            ]
            .iter()
            .map(written)
            .collect(),
            tokenizers: vec![tokenizer(&ids, &merges)],
            ids: vec![ids],
            merges: vec![merges],
            references: references.into(),
            instances: vec![written(&instances())],
            run_lengths: [
                json!({"size": [4, 6], "counts": "08`0"}),
                json!({"size": [4, 6], "counts": [9, 3, 1, 2, 9]}),
                json!({"size": [30, 40], "counts": "hb0hb0"}),
            ]
            .iter()
            .map(written)
            .collect(),
            lines: vec![lines()],
        };
        valid.lay_out(folder);
        valid
    }

    fn lay_out(&self, folder: &Path) {
        let write = |path: &str, bytes: &[u8]| {
            let path = folder.join(path);
            let laid = path.parent().map_or(Ok(()), fs::create_dir_all);
            laid.and_then(|()| fs::write(&path, bytes))
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        write("shards/1", &self.safetensors[0]);
        write("shards/2", &self.zips[0]);
        write("ids/merges.txt", &self.merges[0]);
        write("merges/vocab.json", &self.ids[0]);
        write("vocabulary/none", b"");
        write("references/set/instances.json", &self.instances[0]);
        write("instances/set/refs(unc).p", &self.references[0]);
        for set in ["references", "instances"] {
            for number in [7, 8] {
                let name = format!("{set}/images/train2014/COCO_train2014_{number:012}.jpg");
                write(&name, b"");
            }
        }
        for file in ["jsonl/1.jpg", "jsonl/1.png"] {
            write(file, b"");
        }
    }
}

fn written(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A safetensors file of a few tensors.
fn tensors() -> Vec<u8> {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).ok();
    let tensors = [
        ("a", zeros(&[2, 3], DType::F32)),
        ("b.c", zeros(&[2], DType::F16)),
        ("b.d", zeros(&[], DType::BF16)),
        ("module.ids", zeros(&[2, 1], DType::I64)),
        ("none", zeros(&[0, 4], DType::F64)),
    ];
    let tensors = tensors
        .into_iter()
        .filter_map(|(name, tensor)| Some((name, tensor?)));
    let metadata = [("format".to_string(), "pt".to_string())];
    safetensors::serialize(tensors, Some(metadata.into())).unwrap_or_default()
}

fn tokenizer(ids: &[u8], merges: &[u8]) -> Vec<u8> {
    let ids: Value = serde_json::from_slice(ids).unwrap_or_default();
    let merges = String::from_utf8_lossy(merges).into_owned();
    let merges: Vec<&str> = merges.lines().filter(|l| !l.contains('#')).collect();
    written(&json!({
        "version": "1.0",
        "added_tokens": [{"id": ids["<|endoftext|>"], "content": "<|endoftext|>"}],
        "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": ids, "merges": merges},
    }))
}

fn instances() -> Value {
    json!({
        "images": [
            {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 6, "height": 4},
            {"id": 8, "file_name": "COCO_train2014_000000000008.jpg", "width": 5, "height": 3},
        ],
        "annotations": [
            {"id": 11, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 8.0,
             "bbox": [0, 0, 2, 4], "segmentation": {"size": [4, 6], "counts": "08`0"}},
            {"id": 12, "image_id": 7, "segmentation": {"size": [4, 6], "counts": [9, 3, 1, 2, 9]}},
            {"id": 13, "image_id": 8, "segmentation": [[0, 0, 2, 0, 2, 1, 0, 1]]},
        ],
    })
}

fn lines() -> Vec<u8> {
    let lines = [
        json!({"image": "1.jpg", "mask": "1.png", "sentences": ["a", {"text": "b", "kind": "c"}]}),
        json!({"image": "1.jpg", "polygons": [[0, 0, 2, 0, 2, 1.5]], "sentences": ["a"], "split": "val"}),
        json!({"image": "1.jpg", "rle": {"size": [4, 6], "counts": "08`0"}, "sentences": ["a"]}),
    ];
    lines.map(|line| format!("{line}\n")).concat().into_bytes()
}

fn text(file: &'static str, valid: &[Vec<u8>], draws: &mut Draws) -> Input {
    let mut bytes = draws.of(valid).clone();
    mutate::text(draws, &mut bytes, valid);
    Input { file, bytes }
}

/// A pickle of our own, or a valid one that was changed.
fn pickle(valid: &[Vec<u8>], draws: &mut Draws) -> Vec<u8> {
    if draws.once_in(3) {
        return pickles::draw(draws);
    }
    let mut bytes = draws.of(valid).clone();
    mutate::bytes(draws, &mut bytes, valid);
    bytes
}

/// The header changed and its length set right, or anything changed.
fn safetensors(valid: &Valid, draws: &mut Draws) -> Input {
    let mut bytes = draws.of(&valid.safetensors).clone();
    if draws.once_in(3) {
        mutate::bytes(draws, &mut bytes, &valid.safetensors);
    } else {
        let length = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n)) as usize;
        let data = bytes.split_off(8 + length);
        let mut header = bytes.split_off(8);
        mutate::text(draws, &mut header, &valid.safetensors);
        bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    }
    Input {
        file: "weights",
        bytes,
    }
}

fn zip(valid: &Valid, draws: &mut Draws) -> Input {
    let mut bytes = draws.of(&valid.zips).clone();
    mutate::bytes(draws, &mut bytes, &valid.zips);
    Input {
        file: "weights",
        bytes,
    }
}

/// A whole archive around a pickle that is not.
fn state_dict(valid: &Valid, draws: &mut Draws) -> Input {
    let pickle = pickle(&valid.state_dicts, draws);
    archive(&pickle, &[], draws)
}

fn torchscript(valid: &Valid, draws: &mut Draws) -> Input {
    let pickle = pickle(&valid.modules, draws);
    archive(
        &pickle,
        &[("m/code/__torch__.py", b""), ("m/constants/0", &[0; 64])],
        draws,
    )
}

fn archive(pickle: &[u8], more: &[(&str, &[u8])], draws: &mut Draws) -> Input {
    let storage = vec![0x3c; draws.size(9)];
    let mut entries = vec![
        ("m/data.pkl", pickle),
        ("m/data/0", &storage),
        ("m/data/1", &storage),
        ("m/byteorder", b"little"),
    ];
    entries.extend(more);
    let mut bytes = archives::zip(&entries);
    if draws.once_in(16) {
        let whole = [bytes.clone()];
        mutate::bytes(draws, &mut bytes, &whole);
    }
    Input {
        file: "weights",
        bytes,
    }
}

/// Pickles one behind the other, of which the fourth or fifth is changed, or anything is.
fn legacy(valid: &Valid, draws: &mut Draws) -> Input {
    let mut bytes = draws.of(&valid.legacy).clone();
    if draws.once_in(2) {
        mutate::bytes(draws, &mut bytes, &valid.legacy);
    } else {
        let mut ends = vec![0];
        for _ in 0..5 {
            let from = ends[ends.len() - 1];
            let length = Pickle::read(&bytes[from..]).map_or(0, |pickle| pickle.length());
            ends.push(from + length);
        }
        let part = ends[3]..ends[4 + draws.below(2)];
        let mut changed = bytes[part.clone()].to_vec();
        match draws.once_in(4) {
            true => changed = pickles::draw(draws),
            false => mutate::bytes(draws, &mut changed, &valid.state_dicts),
        }
        bytes.splice(part, changed);
    }
    Input {
        file: "weights",
        bytes,
    }
}

fn vocabulary(valid: &Valid, draws: &mut Draws) -> Input {
    match draws.below(4) {
        0 => text("ids/vocab.json", &valid.ids, draws),
        1 => text("merges/merges.txt", &valid.merges, draws),
        2 => text("vocabulary/tokenizer.json", &valid.tokenizers, draws),
        _ => {
            let mut merges = text("", &valid.merges, draws).bytes;
            if draws.once_in(8) {
                merges = merges.repeat(draws.size(10));
            }
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            let packing = packed.write_all(&merges).and_then(|()| packed.finish());
            let mut bytes = packing.unwrap_or_default();
            if draws.once_in(2) {
                let whole = [bytes.clone()];
                mutate::bytes(draws, &mut bytes, &whole);
            }
            Input {
                file: "vocabulary/merges.gz",
                bytes,
            }
        }
    }
}

/// Opens a weight file and looks at its tensors.
fn checkpoint(path: &Path, _: &[u8]) -> Result<(), String> {
    let read = Checkpoint::open(path).map_err(|error: CheckpointError| {
        let text = error.to_string();
        assert!(text.len() < 4000 && !text.contains('\n'), "{text}");
        text
    })?;
    for name in read.names().take(64) {
        let Some(tensor) = read.get(name) else {
            panic!("`{name}` is listed and not there");
        };
        let bytes = tensor.shape().elem_count() * tensor.dtype().size_in_bytes();
        if let Some(held) = tensor.bytes() {
            assert_eq!(held.len(), bytes, "{name}");
            // The mapping is really there.
            std::hint::black_box(held.iter().step_by(512).fold(0, |sum, b| sum ^ b));
        }
    }
    Ok(())
}

/// Opens a data set two folders above the file that was changed.
fn data_set(path: &Path, _: &[u8]) -> Result<(), String> {
    let set = path
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new(""));
    let source = DataSource::from(PathBuf::from(set));
    refcoco::open(&source).map(drop).map_err(|e| e.to_string())
}

/// Run lengths as JSON, and the text as packed ones.
fn run_lengths(_: &Path, bytes: &[u8]) -> Result<(), String> {
    let _ = RunLengths::unpack(4, 6, &String::from_utf8_lossy(bytes));
    let runs: RunLengths = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let (height, width) = (runs.height(), runs.width());
    let again = RunLengths::unpack(height, width, &runs.packed());
    assert_eq!(again.as_ref(), Ok(&runs));
    let [left, top, across, down] = runs.bounds();
    assert!(left + across <= width && top + down <= height);
    if u64::from(height) * u64::from(width) <= 4096 {
        assert_eq!(runs.mask().area() as u64, runs.area());
    }
    Ok(())
}
