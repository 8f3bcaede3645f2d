//! Weight files: what is read, what is refused and how, and that no bytes cause a panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use proptest::sample::Index;
use twinspan_sdk::checkpoint::{Checkpoint, CheckpointError};

/// Files written by PyTorch 2.15: see `files_data/README.md`.
fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "files_data", name]
        .iter()
        .collect()
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint
        .get(name)
        .expect(name)
        .tensor(DType::F32, &Device::Cpu);
    tensor.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn shape(checkpoint: &Checkpoint, name: &str) -> Vec<usize> {
    checkpoint.get(name).expect(name).shape().dims().to_vec()
}

/// Opens `bytes` as a file.
fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(path)
}

/// The refusal's text behind the file's path.
fn refusal(bytes: &[u8]) -> String {
    after_path(&open(bytes).expect_err("should be refused"))
}

fn after_path(error: &CheckpointError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    let at = text
        .find(" is ")
        .into_iter()
        .chain(text.find(" looks "))
        .chain(text.find(" holds "));
    text[at.min().expect(&text) + 1..].to_string()
}

fn safetensors_file() -> Vec<u8> {
    let cpu = &Device::Cpu;
    let tensors = BTreeMap::from([
        (
            "a",
            Tensor::arange(0f32, 6., cpu)
                .unwrap()
                .reshape((2, 3))
                .unwrap(),
        ),
        (
            "b.half",
            Tensor::new(&[1.5f32, -2.], cpu)
                .unwrap()
                .to_dtype(DType::F16)
                .unwrap(),
        ),
        (
            "b.bf16",
            Tensor::new(&[1.5f32, -2.], cpu)
                .unwrap()
                .to_dtype(DType::BF16)
                .unwrap(),
        ),
        ("c", Tensor::new(0.25f64, cpu).unwrap()),
        ("ids", Tensor::new(&[7i64, -1], cpu).unwrap()),
        ("none", Tensor::zeros((0, 4), DType::F32, cpu).unwrap()),
    ]);
    let metadata = [("shape", "looks like a field"), ("format", "pt")]
        .map(|(k, v)| (k.to_string(), v.to_string()));
    safetensors::serialize(&tensors, Some(metadata.into())).unwrap()
}

/// A safetensors file of this header in front of `data` zero bytes.
fn headed(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn safetensors_keep_names_shapes_types_and_values() {
    let read = open(&safetensors_file()).unwrap();
    assert_eq!(
        read.names().collect::<Vec<_>>(),
        ["a", "b.bf16", "b.half", "c", "ids", "none"]
    );
    assert_eq!(values(&read, "a"), [0., 1., 2., 3., 4., 5.]);
    for half in ["b.half", "b.bf16"] {
        assert_eq!(values(&read, half), [1.5, -2.]);
    }
    assert_eq!(read.get("b.half").unwrap().dtype(), DType::F16);
    assert_eq!(values(&read, "c"), [0.25]);
    assert!(shape(&read, "c").is_empty());
    assert_eq!(values(&read, "ids"), [7., -1.]);
    assert_eq!(shape(&read, "none"), [0, 4]);
    assert!(
        read.names()
            .all(|name| read.get(name).unwrap().bytes().is_some()),
        "copied"
    );
}

#[test]
fn a_cut_safetensors_file_says_how_much_is_missing() {
    let file = safetensors_file();
    for missing in [1, 8, 40] {
        let cut = &file[..file.len() - missing];
        let whole = file.len();
        assert_eq!(
            refusal(cut),
            format!("is cut short: {missing} of its {whole} bytes are missing; fetch it again")
        );
    }
    for length in 9..file.len() {
        assert!(refusal(&file[..length]).contains("missing; fetch it again"));
    }
}

#[test]
fn a_damaged_safetensors_header_names_the_tensor() {
    let tensor = |name: &str, shape: &str, span: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{span}}}"#)
    };
    let file = |tensors: &[String], data| headed(&format!("{{{}}}", tensors.join(",")), data);
    let table = [
        (
            file(
                &[tensor("a", "[2]", "[0,8]"), tensor("b", "[2]", "[4,12]")],
                12,
            ),
            "is damaged: `b` overlaps `a`",
        ),
        (
            file(&[tensor("a", "[2]", "[4,12]")], 12),
            "is damaged: bytes 0 to 4 before `a` belong to no tensor",
        ),
        (
            file(&[tensor("a", "[3]", "[0,8]")], 8),
            "is damaged: `a` has 8 bytes, which is not [3] of F32",
        ),
        (
            file(&[tensor("a", "[2]", "[8,0]")], 8),
            "is damaged: `a` begins at byte 8 and ends at 0",
        ),
        (
            file(&[tensor("a", "[4294967296,4294967296,0]", "[0,0]")], 0),
            "is damaged: `a` has 0 bytes, which is not [4294967296, 4294967296, 0] of F32",
        ),
        (
            file(&[tensor("a", "[1,1,1,1,1,1,1,1,2]", "[0,8]")], 8),
            "is damaged: `a` has 9 dimensions, and 8 are the most that are read",
        ),
        (
            file(&[tensor("a", "[2]", "[0,8]")], 11),
            "is damaged: 3 bytes follow its last tensor",
        ),
    ];
    for (file, expected) in table {
        assert_eq!(refusal(&file), expected);
    }
    assert!(refusal(&headed("{\"a\":3}", 0)).starts_with("is damaged: its header is not"));
}

#[test]
fn types_that_are_never_weights_are_skipped_by_name() {
    let header = r#"{"mask":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#;
    let read = open(&headed(header, 2)).unwrap();
    assert!(read.is_empty());
    assert_eq!(read.skipped().collect::<Vec<_>>(), [("mask", "BOOL")]);
}

#[test]
fn a_state_dict_is_read_where_it_lies() {
    for name in ["state_dict.pth", "state_dict_p4.pth"] {
        let read = Checkpoint::open(data(name)).unwrap();
        assert_eq!(read.len(), 7);
        assert_eq!(shape(&read, "lin.weight"), [2, 3]);
        assert_eq!(values(&read, "lin.weight"), [-1., -0.5, 0., 0.5, 1., 1.5]);
        assert_eq!(values(&read, "bn.running_var"), [-1., -0.5]);
        assert_eq!(
            read.get("bn.num_batches_tracked").unwrap().dtype(),
            DType::I64
        );
        assert!(
            read.names().all(|n| read.get(n).unwrap().bytes().is_some()),
            "copied"
        );
    }
}

#[test]
fn a_training_checkpoint_gives_its_nested_state_dict() {
    let read = Checkpoint::open(data("training.pth")).unwrap();
    assert_eq!(values(&read, "module.lin.bias"), [-1., -0.5]);
    assert_eq!(values(&read, "half"), [1.5, -2.]);
    assert_eq!(values(&read, "bf16"), [1.5, -2.]);
    assert_eq!(values(&read, "f64"), [0.25]);
    assert_eq!(values(&read, "slice"), [5., 6., 7., 8., 9., 10.]);
    assert_eq!(shape(&read, "transposed"), [3, 2]);
    assert_eq!(values(&read, "transposed"), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(values(&read, "every_second"), [6., 8., 10.]);
    assert_eq!(values(&read, "parameter"), [1.; 4]);
    assert_eq!(shape(&read, "empty"), [0, 4]);
    assert_eq!(
        read.skipped().collect::<Vec<_>>(),
        [("mask", "BoolStorage")]
    );
    assert!(
        read.names().all(|name| !name.contains("exp_avg")),
        "the optimiser is no weight"
    );
}

#[test]
fn what_torch_writes_and_is_not_read_says_what_to_do() {
    assert_eq!(
        after_path(&Checkpoint::open(data("whole_module.pt")).unwrap_err()),
        "holds no state dict: it is a whole pickled object (__main__.Net); torch.save its \
         state_dict() instead; accepted are tensors by name, directly or under `state_dict` or \
         `model`"
    );
}

/// The values that `files_data/models.py` gives a tensor.
fn written(name: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    (0..count)
        .map(|i: usize| ((i + name.len()) % 64) as f32 / 4. - 8.)
        .collect()
}

/// The names and shapes of its model, which are OpenAI's.
fn openai() -> Vec<(String, Vec<usize>)> {
    let mut expected: Vec<(String, Vec<usize>)> = [
        ("logit_scale", &[][..]),
        ("positional_embedding", &[6, 8]),
        ("text_projection", &[8, 4]),
        ("token_embedding.weight", &[11, 8]),
        ("visual.class_embedding", &[8]),
        ("visual.conv1.weight", &[8, 3, 2, 2]),
        ("visual.positional_embedding", &[5, 8]),
        ("visual.proj", &[8, 4]),
    ]
    .map(|(name, shape)| (name.into(), shape.into()))
    .into();
    let norm = |name: String| ["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![8]));
    expected.extend(norm("ln_final".into()));
    expected.extend(norm("visual.ln_pre".into()));
    for tower in ["transformer", "visual.transformer"] {
        let block = format!("{tower}.resblocks.0");
        expected.extend(
            ["ln_1", "ln_2"]
                .map(|ln| norm(format!("{block}.{ln}")))
                .concat(),
        );
        let block = [
            ("attn.in_proj_weight", &[24, 8][..]),
            ("attn.in_proj_bias", &[24]),
            ("attn.out_proj.weight", &[8, 8]),
            ("attn.out_proj.bias", &[8]),
            ("mlp.c_fc.weight", &[16, 8]),
            ("mlp.c_fc.bias", &[16]),
            ("mlp.c_proj.weight", &[8, 16]),
            ("mlp.c_proj.bias", &[8]),
        ]
        .map(|(name, shape)| (format!("{block}.{name}"), shape.into()));
        expected.extend(block);
    }
    expected
}

#[test]
fn torchscript_modules_are_read_under_dotted_names() {
    for (file, dtype) in [("traced.pt", DType::F32), ("scripted_f16.pt", DType::F16)] {
        let read = Checkpoint::open(data(file)).unwrap();
        for (name, shape) in openai() {
            let tensor = read.get(&name).expect(&name);
            assert_eq!((tensor.shape().dims(), tensor.dtype()), (&shape[..], dtype));
            assert_eq!(values(&read, &name), written(&name, &shape), "{name}");
            assert!(tensor.bytes().is_some(), "{name} was copied");
        }
        for (name, size) in [
            ("input_resolution", 4.),
            ("context_length", 6.),
            ("vocab_size", 11.),
        ] {
            assert_eq!(values(&read, name), [size], "{name} of {file}");
            assert!(shape(&read, name).is_empty());
        }
        assert_eq!(read.len(), openai().len() + 3, "{file}");
        assert_eq!(read.skipped().count(), 0);
    }
    let read = Checkpoint::open(data("script.pt")).unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), ["w"]);
}

#[test]
fn files_before_torch_1_6_are_read() {
    let read = Checkpoint::open(data("legacy.pth")).unwrap();
    assert_eq!(values(&read, "lin.weight"), [-1., -0.5, 0., 0.5, 1., 1.5]);
    assert_eq!(values(&read, "bn.running_var"), [-1., -0.5]);
    assert_eq!(read.len(), 7);
    let file = fs::read(data("legacy.pth")).unwrap();
    for length in (16..file.len()).step_by(7) {
        let text = refusal(&file[..length]);
        assert!(
            text.contains("early") || text.contains("cut short"),
            "{length}: {text}"
        );
    }
    assert_eq!(
        refusal(&file[..file.len() - 3]),
        "is damaged: it is cut short in its storage `94782983667744`; fetch it again"
    );
}

#[test]
fn a_parallel_models_names_lose_their_prefix() {
    let read = Checkpoint::open(data("parallel.pth")).unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(
        values(&read, "bias"),
        written("visual.ln_pre.bias", &[8])[..]
    );
    let header = |names: [&str; 2]| {
        let [a, b] = names;
        format!(
            r#"{{"{a}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}},"{b}":{{"dtype":"BOOL","shape":[1],"data_offsets":[1,2]}}}}"#
        )
    };
    let all = open(&headed(&header(["module.a", "module.b"]), 2)).unwrap();
    assert_eq!(all.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(all.skipped().collect::<Vec<_>>(), [("b", "BOOL")]);
    let some = open(&headed(&header(["module.a", "b"]), 2)).unwrap();
    assert_eq!(some.names().collect::<Vec<_>>(), ["module.a"]);
}

/// A folder with an index of this `weight_map` beside two shards, of which one is torch's.
fn sharded(weight_map: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("1.safetensors"), safetensors_file()).unwrap();
    fs::copy(data("state_dict.pth"), path("2.bin")).unwrap();
    fs::write(
        path("mask.safetensors"),
        headed(
            r#"{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#,
            1,
        ),
    )
    .unwrap();
    let index = path("index.json");
    fs::write(
        &index,
        format!(r#"{{"metadata": {{}}, "weight_map": {weight_map}}}"#),
    )
    .unwrap();
    (folder, index)
}

#[test]
fn shards_are_one_checkpoint() {
    let (folder, index) = sharded(r#"{"a": "1.safetensors", "lin.bias": "2.bin"}"#);
    let read = Checkpoint::open(&index).unwrap();
    assert_eq!(read.path(), index);
    assert_eq!(values(&read, "a"), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(values(&read, "lin.bias"), [-1., -0.5]);
    assert_eq!(
        read.len(),
        6 + 7,
        "tensors that the index leaves out are read as well"
    );
    drop(folder);
}

#[test]
fn an_index_that_its_shards_do_not_bear_out_is_refused() {
    let refused = |weight_map: &str| {
        let (folder, index) = sharded(weight_map);
        let text = Checkpoint::open(index).unwrap_err().to_string();
        text.replace(&folder.path().display().to_string(), "FOLDER")
    };
    for (weight_map, expected) in [
        (
            r#"{"a": "3.bin", "b": "1.safetensors", "c": "4.bin"}"#,
            "is an index of 3 shards, of which `3.bin`, `4.bin` are not beside it; fetch what is \
             missing",
        ),
        (
            r#"{"a": "3.bin", "b": "1.safetensors"}"#,
            "is an index of 2 shards, of which `3.bin` is not beside it; fetch what is missing",
        ),
        (
            r#"{"q": "1.safetensors"}"#,
            "is damaged: it places `q` in `1.safetensors`, which does not hold it",
        ),
        (
            r#"{"a": "1.safetensors", "b": "mask.safetensors"}"#,
            "is damaged: `a` is in two of its shards, `1.safetensors` and `mask.safetensors`",
        ),
        (
            "[]",
            "is damaged: it is no index of shards: invalid type: sequence, expected a map at line \
             1 column 31",
        ),
    ] {
        assert_eq!(refused(weight_map), format!("FOLDER/index.json {expected}"));
    }
    let nested = refused(r#"{"a": "index.json"}"#);
    assert!(
        nested.starts_with("FOLDER/index.json looks like JSON text; accepted"),
        "{nested}"
    );
    for path in [
        "../1.safetensors",
        "/1.safetensors",
        "x/../../1.safetensors",
        ".",
    ] {
        let text = refused(&format!(r#"{{"a": "{path}"}}"#));
        let said = format!("is damaged: its shard `{path}` is not in its folder");
        assert!(text.ends_with(&said), "{text}");
    }
    assert!(refused(r#"{"a": ""}"#).ends_with("its shard `` is not in its folder"));
    assert!(refusal(b"{\"a\": 1}").starts_with("looks like JSON text without a `weight_map`"));
}

#[test]
fn a_cut_torch_file_says_so() {
    let file = fs::read(data("state_dict.pth")).unwrap();
    for length in (4..file.len()).step_by(7) {
        let text = refusal(&file[..length]);
        assert!(text.contains("cut short"), "{length}: {text}");
    }
}

#[test]
fn other_files_are_named_for_what_they_look_like() {
    let table: [(&[u8], &str); 8] = [
        (b"", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer",
        ),
        (b"<!DOCTYPE html>", "a web page"),
        (b"{\"a\": 1}", "JSON text"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (
            b"\x80\x04\x95",
            "a Python pickle that torch.save did not write",
        ),
        (b"just words\n", "text"),
        (b"\x01\x02\x03", "data of an unknown kind"),
    ];
    for (bytes, name) in table {
        let text = refusal(bytes);
        assert!(text.starts_with(&format!("looks like {name}")), "{text}");
        assert!(text.ends_with(
            "; accepted are a .safetensors file, a state dict or TorchScript module written by \
             torch (.pt, .pth, .bin), and an index of shards (.index.json)"
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(
        Checkpoint::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("like a folder")
    );
    let absent = Checkpoint::open(folder.path().join("absent.pth")).unwrap_err();
    assert!(absent.to_string().contains("absent.pth"), "{absent}");
}

#[test]
fn names_are_mapped_and_may_not_collide() {
    let read = Checkpoint::open(data("training.pth")).unwrap();
    let stripped = read.strip_prefix("module.").unwrap();
    assert_eq!(values(&stripped, "lin.bias"), [-1., -0.5]);
    assert_eq!(stripped.len(), read.len());
    let one = read
        .map_names(|name| (name == "half").then(|| "h".into()))
        .unwrap();
    assert_eq!(one.names().collect::<Vec<_>>(), ["h"]);
    let error = read
        .map_names(|_| Some("same".into()))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("`bf16` and `empty` both become `same`"),
        "{error}"
    );
}

/// Opens and, if that works, reads every value.
fn survive(bytes: &[u8]) {
    match open(bytes) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.len() < 2000, "{text}");
        }
        Ok(read) => {
            let mut held = 0;
            for name in read.names() {
                let tensor = read.get(name).unwrap();
                if tensor.bytes().is_none() {
                    held += tensor.shape().elem_count() * tensor.dtype().size_in_bytes();
                }
                let _ = tensor.tensor(DType::F32, &Device::Cpu);
            }
            assert!(held <= bytes.len(), "{held} bytes from {}", bytes.len());
        }
    }
}

/// Some bytes replaced, and the end perhaps cut.
fn mutated(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let cut = prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (changes, cut).prop_map(move |(changes, cut)| {
        let mut file = file.clone();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(at) = cut {
            file.truncate(at.index(file.len()));
        }
        file
    })
}

/// A pickle of random opcodes in an otherwise sound archive.
fn archive_of(pickle: &[u8]) -> Vec<u8> {
    let file = fs::read(data("state_dict.pth")).unwrap();
    let text = |needle: &[u8], from: usize| {
        file[from..]
            .windows(needle.len())
            .position(|w| w == needle)
            .unwrap()
            + from
    };
    // The stored pickle begins with its protocol and ends in front of the next entry; what is
    // replaced there is of the same length, so that the directory stays right.
    let start = text(b"\x80\x02c", 0);
    let end = start + 692;
    let mut file = file.clone();
    for (place, byte) in file[start + 2..end].iter_mut().zip(pickle) {
        *place = *byte;
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_to_a_safetensors_file_panics(file in mutated(safetensors_file())) {
        survive(&file);
    }

    #[test]
    fn no_header_panics(header in "[{]\"[ab]\":[{]\"dtype\":\"(F32|F16|I64|BOOL)\",\"shape\":\\[[0-9]{1,20}(,[0-9]{1,3})?\\],\"data_offsets\":\\[[0-9],[0-9]{1,20}\\][}][}]", data in 0usize..64) {
        survive(&headed(&header, data));
    }

    #[test]
    fn no_change_to_a_torch_file_panics(file in mutated(fs::read(data("training.pth")).unwrap())) {
        survive(&file);
    }

    #[test]
    fn no_change_to_a_pickle_panics(
        changes in proptest::collection::vec((0usize..690, any::<u8>()), 1..8),
    ) {
        let mut file = archive_of(&[]);
        let start = file.windows(3).position(|w| w == b"\x80\x02c").unwrap();
        for (at, byte) in changes {
            file[start + at] = byte;
        }
        survive(&file);
    }

    #[test]
    fn no_opcodes_panic(
        pickle in proptest::collection::vec(
            proptest::sample::select(&b"N\x88K\x01M\x02J\x8aI0\nX\x03U(abt)]}ld\x85\x86\x87aeus012q\x00\x01r\x94h\x00\x01jcos\nOrderedDict\nRbQ\x81\x92\x93\x90\x91."[..]),
            0..690,
        ),
    ) {
        survive(&archive_of(&pickle));
    }

    #[test]
    fn no_bytes_panic(
        head in proptest::sample::select(vec![&b""[..], b"PK\x03\x04", b"\x02\0\0\0\0\0\0\0{"]),
        tail in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        survive(&[head, &tail].concat());
    }
}

/// Values that share what they hold must not be copied per use: a few hundred bytes that ask for
/// 2^64 values, nested deeper than any stack.
#[test]
fn shared_and_nested_pickles_stay_small() {
    // t = (t, t), memoised, over and over.
    let doubling: Vec<u8> = std::iter::once(b')')
        .chain(b"q\x00h\x00\x86".iter().copied().cycle().take(5 * 130))
        .chain([b'.'])
        .collect();
    survive(&archive_of(&doubling));
    let nested = [vec![b')'; 1], vec![0x85; 680], vec![b'.']].concat();
    survive(&archive_of(&nested));
}

/// Modules that hold each other, or one of many attributes many times, must not be walked through
/// for each: a hundred modules of two names each would have 2^100.
#[test]
fn shared_modules_are_counted_against_the_file() {
    let module = b"c__torch__\nM\n)\x81";
    let close = b"ub";
    let holds =
        "is damaged: its modules hold each other: their names would exceed the file's own size";
    let script = |pickle: &[u8]| {
        let mut file = archive_of(&[]);
        let start = file.windows(3).position(|w| w == b"\x80\x02c").unwrap();
        file[start + 2..][..pickle.len()].copy_from_slice(pickle);
        file
    };
    // Each module holds the one before under two names.
    let mut doubling = [module, &b"}("[..], close].concat();
    for _ in 0..12 {
        let twice = b"q\x01}(X\x01\0\0\0ah\x02X\x01\0\0\0bh\x02";
        doubling = [&doubling, &b"q\x020"[..], module, twice, close].concat();
    }
    assert_eq!(refusal(&script(&[&doubling[..], b"."].concat())), holds);
    let own = [module, &b"q\0}(X\x01\0\0\0ah\0"[..], close, b"."].concat();
    assert_eq!(refusal(&script(&own)), holds);
}
