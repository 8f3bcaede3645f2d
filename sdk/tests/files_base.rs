//! The base and its digest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::base::Base;
use twinspan_sdk::checkpoint::{Checkpoint, CheckpointError};
use twinspan_sdk::frozen::Frozen;

/// Values that every element type holds exactly; 70000 of them cross a chunk's end.
fn tensors(dtype: DType) -> BTreeMap<String, Tensor> {
    let cpu = &Device::Cpu;
    let long = Tensor::from_iter((0..70_000).map(|i| (i % 17) as f32 * 0.25 - 2.), cpu).unwrap();
    let matrix = Tensor::from_iter((0..6).map(|i| i as f32), cpu).unwrap();
    let scale = Tensor::new(1.5f32, cpu).unwrap();
    [
        ("long", long),
        ("matrix", matrix.reshape((2, 3)).unwrap()),
        ("scale", scale),
    ]
    .map(|(name, tensor)| (name.to_string(), tensor.to_dtype(dtype).unwrap()))
    .into()
}

fn save(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

fn all(file: &Checkpoint) -> Result<BTreeMap<String, Frozen>, CheckpointError> {
    Ok(file
        .names()
        .map(|name| (name.to_string(), file.get(name).unwrap().clone()))
        .collect())
}

/// Computed in Python from the documented format. Another number here means that every saved
/// artifact refuses its base.
const DIGEST: &str = "f4f02e9b81c0b857c50ed86ea5e0fd4dd1020a683e01e95435e06e96099ba509";

#[test]
fn the_digest_is_that_of_the_values_however_stored() {
    assert_eq!(
        Base::from_tensors(tensors(DType::F32)).digest().unwrap(),
        DIGEST
    );
    let folder = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        assert_eq!(
            Base::from_tensors(tensors(dtype)).digest().unwrap(),
            DIGEST,
            "{dtype:?}"
        );
        let path = folder.path().join(format!("{dtype:?}.safetensors"));
        save(&path, &tensors(dtype));
        let mapped = Base::from_frozen(all(&Checkpoint::open(&path).unwrap()).unwrap());
        assert!(mapped.get("long").unwrap().bytes().is_some());
        assert_eq!(mapped.digest().unwrap(), DIGEST, "{dtype:?} mapped");
    }
    let mut strided = tensors(DType::F32);
    let transposed = strided["matrix"]
        .t()
        .unwrap()
        .contiguous()
        .unwrap()
        .t()
        .unwrap();
    strided.insert("matrix".into(), transposed);
    assert_eq!(
        Base::from_tensors(strided).digest().unwrap(),
        DIGEST,
        "strided"
    );
}

#[test]
fn names_shapes_and_values_change_the_digest() {
    let changes: [fn(&mut BTreeMap<String, Tensor>); 4] = [
        |t| drop(t.remove("scale")),
        |t| {
            let matrix = t["matrix"].reshape((3, 2)).unwrap();
            t.insert("matrix".into(), matrix);
        },
        |t| {
            let scale = t.remove("scale").unwrap();
            t.insert("scala".into(), scale);
        },
        |t| {
            let last = Tensor::new(&[0.125f32], &Device::Cpu).unwrap();
            let long = t["long"].narrow(0, 0, 69_999).unwrap();
            t.insert("long".into(), Tensor::cat(&[long, last], 0).unwrap());
        },
    ];
    for change in changes {
        let mut changed = tensors(DType::F32);
        change(&mut changed);
        assert_ne!(Base::from_tensors(changed).digest().unwrap(), DIGEST);
    }
}

#[test]
fn the_digest_is_cached_beside_the_file_and_not_trusted_when_stale() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let cache = folder.path().join("w.safetensors.digest");
    save(&path, &tensors(DType::F16));
    let open = || Base::open_with_cache(&path, all).unwrap();
    assert_eq!(open().digest().unwrap(), DIGEST);
    let text = fs::read_to_string(&cache).unwrap();
    assert!(text.ends_with(&format!("digest {DIGEST}\n")), "{text}");

    // The cache is used, ...
    let forged = text.replace(DIGEST, &"0".repeat(64));
    fs::write(&cache, &forged).unwrap();
    assert_eq!(open().digest().unwrap(), "0".repeat(64));
    // ... not for another reading of the same file, ...
    let other = |file: &Checkpoint| {
        let mut tensors = all(file)?;
        let matrix = tensors["matrix"].tensor(DType::F32, &Device::Cpu).unwrap();
        tensors.insert("matrix".into(), Frozen::dense(&(matrix * 2.).unwrap()));
        Ok::<_, CheckpointError>(tensors)
    };
    let digest = Base::open_with_cache(&path, other)
        .unwrap()
        .digest()
        .unwrap()
        .to_string();
    assert!(digest != DIGEST && !digest.starts_with("000"));
    // ... not after the file changed, and not when it is damaged.
    fs::write(&cache, &forged).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(open().digest().unwrap(), DIGEST);
    for damage in ["", "digest", &text[..text.len() - 3]] {
        fs::write(&cache, damage).unwrap();
        assert_eq!(open().digest().unwrap(), DIGEST);
    }
}

#[test]
fn the_digest_is_of_what_is_stored_whatever_the_precision() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    // In halves these are others: bf16 has 8 bits.
    let third = |(name, tensor): (String, Tensor)| (name, (tensor / 3.).unwrap());
    save(&path, &tensors(DType::F32).into_iter().map(third).collect());
    let base = Base::open_with_cache(&path, all).unwrap();
    for precision in [DType::BF16, DType::F16, DType::F32] {
        let rounded = base.in_precision(precision);
        let fresh = Base::open_with_cache(&path, all).unwrap();
        let fresh = fresh.in_precision(precision);
        let values = |base: &Base| {
            let matrix = base.get("matrix").unwrap();
            let dense = matrix.tensor(DType::F32, &Device::Cpu).unwrap();
            dense.to_vec2::<f32>().unwrap()
        };
        assert_eq!(values(&rounded) == values(&base), precision == DType::F32);
        assert_eq!(rounded.file(), Some(path.as_path()));
        let in_memory = |base: &Base| {
            let tensors = base
                .names()
                .map(|n| (n.into(), base.get(n).unwrap().clone()));
            Base::from_frozen(tensors.collect())
        };
        let digest = in_memory(&fresh).digest().unwrap().to_string();
        assert_eq!(digest, rounded.digest().unwrap());
        assert_eq!(digest, base.digest().unwrap());
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    save(&path, &tensors(DType::F32));
    // A folder in its place refuses the file, also for a user who may write everywhere.
    fs::create_dir(folder.path().join("w.safetensors.digest")).unwrap();
    assert_eq!(
        Base::open_with_cache(&path, all).unwrap().digest().unwrap(),
        DIGEST
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_clone_is_the_same_base() {
    let base = Base::from_tensors(tensors(DType::F32));
    let clone = base.clone();
    let digest: *const str = base.digest().unwrap();
    assert!(std::ptr::eq(digest, clone.digest().unwrap()));
    assert_eq!(
        clone.names().collect::<Vec<_>>(),
        ["long", "matrix", "scale"]
    );
    assert_eq!((clone.len(), clone.is_empty()), (3, false));
    assert!(clone.get("absent").is_none());
}
