//! State dicts in the zip archives of `torch.save`.
//!
//! Owns which calls in the pickle mean a tensor, and where its storage lies. Archives and
//! pickles are read in `zip.rs` and [`crate::pickle`].

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use super::zip::Archive;
use super::{Named, Refused, byte_count, damaged, shown};
use crate::frozen::Frozen;
use crate::pickle::{Id, Pickle, Value};

/// Keys under which training scripts keep the state dict, in order of preference.
const NESTED: [&str; 2] = ["state_dict", "model"];

/// More dimensions than any weight has. A tuple of sizes can be shared by many tensors: without
/// a limit, their copies could take memory quadratic in the file's size.
const HIGHEST_RANK: usize = 8;

pub(super) fn read(map: &Arc<Mmap>) -> Result<Named, Refused> {
    let archive = Archive::read(map)?;
    let named = |end: &str| archive.names().find(|name| name.ends_with(end));
    let Some(pickle) = archive
        .names()
        .filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
        .min_by_key(|name| (name.len(), *name))
    else {
        let found = match named(".npy") {
            Some(_) => "it is a NumPy archive (.npz)",
            None => "it is a zip archive without data.pkl",
        };
        return Err(Refused::NoStateDict(found.into()));
    };
    let root = pickle.strip_suffix("data.pkl").unwrap_or_default();
    let script = format!("{root}code/");
    if archive.names().any(|name| name.starts_with(&script)) {
        return Err(Refused::Unsupported {
            kind: "a TorchScript archive",
            advice: "load it with torch.jit.load and torch.save its state_dict()",
        });
    }
    let place = |name: &str| archive.place(&format!("{root}{name}"));
    if let Some(order) = place("byteorder")?
        && map[order] != *b"little"
    {
        return Err(Refused::Unsupported {
            kind: "a file of a big-endian machine",
            advice: "save it again on a little-endian one",
        });
    }
    let bytes = place("data.pkl")?.unwrap_or_default();
    let pickle = Pickle::read(&map[bytes]).map_err(|error| damaged(error.to_string()))?;
    let mut storages = Storages {
        map,
        archive: &archive,
        root,
        copied: 0,
    };
    let mut read = Named::default();
    // A later entry of the same name wins, as in Python.
    let mut entries: BTreeMap<&str, Saved> = BTreeMap::new();
    for &(key, value) in state_dict(&pickle)? {
        if let Value::Text(name) = pickle.get(key)
            && let Some(tensor) = tensor(&pickle, value)
        {
            entries.insert(name.as_ref(), tensor);
        }
    }
    for (name, saved) in entries {
        let at = |problem: String| damaged(format!("`{}` {problem}", shown(name)));
        match saved {
            Saved::Skipped(reason) => {
                read.skipped.insert(name.into(), reason.into());
            }
            Saved::Damaged(problem) => return Err(at(problem.into())),
            Saved::Strided(tensor) => {
                let frozen = storages.load(&tensor)?.map_err(at)?;
                read.tensors.insert(name.into(), frozen);
            }
        }
    }
    Ok(read)
}

/// The dict that holds the tensors: nested under a known key, or the pickled dict itself.
fn state_dict<'p>(pickle: &'p Pickle<'_>) -> Result<&'p [(Id, Id)], Refused> {
    let lacking = |found: String| Err(Refused::NoStateDict(found));
    let root = match pickle.root() {
        Value::Dict(root) => root,
        Value::Object { class } => {
            let class = match pickle.get(*class) {
                Value::Class { module, name } => format!("{module}.{name}"),
                _ => "unknown class".into(),
            };
            return lacking(format!(
                "it is a whole pickled object ({}); torch.save its state_dict() instead",
                shown(&class)
            ));
        }
        Value::List(_) | Value::Tuple(_) => return lacking("it is a list".into()),
        Value::Call { .. } if tensor(pickle, pickle.root_id()).is_some() => {
            return lacking("it is a single tensor".into());
        }
        _ => return lacking("it is a single value".into()),
    };
    let holds_tensors = |dict: &[(Id, Id)]| {
        dict.iter()
            .any(|&(_, value)| tensor(pickle, value).is_some())
    };
    for key in NESTED {
        let nested =
            root.iter()
                .rev()
                .find_map(|&(k, value)| match (pickle.get(k), pickle.get(value)) {
                    (Value::Text(text), Value::Dict(dict)) if text == key => Some(dict),
                    _ => None,
                });
        if let Some(dict) = nested.filter(|dict| holds_tensors(dict)) {
            return Ok(dict);
        }
    }
    if holds_tensors(root) {
        return Ok(root);
    }
    let keys: Vec<String> = root
        .iter()
        .filter_map(|&(key, _)| match pickle.get(key) {
            Value::Text(text) => Some(format!("`{}`", shown(text))),
            _ => None,
        })
        .take(8)
        .collect();
    lacking(match keys[..] {
        [] => "it is an empty dict".into(),
        _ => format!("it is a dict with {}", keys.join(", ")),
    })
}

/// A tensor as the pickle describes it.
enum Saved<'a> {
    Strided(Strided<'a>),
    /// A tensor of a kind that is not read, with the reason.
    Skipped(&'a str),
    Damaged(&'static str),
}

struct Strided<'a> {
    storage: &'a str,
    dtype: DType,
    /// In elements.
    offset: usize,
    shape: Vec<usize>,
    /// In elements, one per dimension.
    strides: Vec<usize>,
}

/// The tensor that the value at `id` rebuilds; `None` if it is something else.
fn tensor<'a>(pickle: &'a Pickle<'_>, mut id: Id) -> Option<Saved<'a>> {
    // A parameter or a subclass wraps the tensor once; more would be made up.
    for _ in 0..4 {
        let &Value::Call {
            callable,
            args: arguments,
        } = pickle.get(id)
        else {
            return None;
        };
        let (Value::Class { module, name }, Value::Tuple(args)) =
            (pickle.get(callable), pickle.get(arguments))
        else {
            return None;
        };
        match (*module, *name, &args[..]) {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [of, ..]) => {
                id = *of;
            }
            ("torch._tensor", "_rebuild_from_type_v2", [function, _, of, ..]) => {
                return rebuilt(pickle, *function, *of);
            }
            _ => return rebuilt(pickle, callable, arguments),
        }
    }
    None
}

/// What `function(*args)` rebuilds.
fn rebuilt<'a>(pickle: &'a Pickle<'_>, function: Id, args: Id) -> Option<Saved<'a>> {
    let (Value::Class { module, name }, Value::Tuple(args)) =
        (pickle.get(function), pickle.get(args))
    else {
        return None;
    };
    match (*module, *name) {
        ("torch._utils", "_rebuild_tensor_v2") => Some(strided(pickle, args).unwrap_or(
            Saved::Damaged("is described in a way that torch.save never does"),
        )),
        ("torch._utils", name) if name.starts_with("_rebuild_") => Some(Saved::Skipped(name)),
        _ => None,
    }
}

/// The arguments of `_rebuild_tensor_v2`: storage, offset, size, stride, and what is not needed.
fn strided<'a>(pickle: &'a Pickle<'_>, args: &[Id]) -> Option<Saved<'a>> {
    let &[storage, offset, size, stride, ..] = args else {
        return None;
    };
    let Value::Persistent(storage) = pickle.get(storage) else {
        return None;
    };
    let Value::Tuple(storage) = pickle.get(*storage) else {
        return None;
    };
    // ("storage", class, key, device, elements)
    let &[_, class, key, ..] = &storage[..] else {
        return None;
    };
    let (Value::Class { name: class, .. }, Value::Text(key)) = (pickle.get(class), pickle.get(key))
    else {
        return None;
    };
    let dtype = match *class {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "DoubleStorage" => DType::F64,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "ByteStorage" => DType::U8,
        other => return Some(Saved::Skipped(other)),
    };
    let (shape, strides) = (sizes(pickle, size)?, sizes(pickle, stride)?);
    (shape.len() == strides.len()).then_some(())?;
    Some(Saved::Strided(Strided {
        storage: key,
        dtype,
        offset: size_of(pickle, offset)?,
        shape,
        strides,
    }))
}

/// A tuple of sizes, plain or as `torch.Size`.
fn sizes(pickle: &Pickle<'_>, id: Id) -> Option<Vec<usize>> {
    let items = match pickle.get(id) {
        Value::Tuple(items) | Value::List(items) => items,
        Value::Call { args, .. } => match pickle.get(*args) {
            Value::Tuple(args) => match pickle.get(*args.first()?) {
                Value::Tuple(items) | Value::List(items) => items,
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    (items.len() <= HIGHEST_RANK).then_some(())?;
    items.iter().map(|&id| size_of(pickle, id)).collect()
}

fn size_of(pickle: &Pickle<'_>, id: Id) -> Option<usize> {
    match pickle.get(id) {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

struct Storages<'a> {
    map: &'a Arc<Mmap>,
    archive: &'a Archive<'a>,
    root: &'a str,
    /// Bytes of dense copies made so far.
    copied: usize,
}

impl Storages<'_> {
    /// The tensor in the mapping where its elements lie in order, else a dense copy. The inner
    /// error is what is wrong with the tensor.
    fn load(&mut self, tensor: &Strided<'_>) -> Result<Result<Frozen, String>, Refused> {
        let name = format!("{}data/{}", self.root, tensor.storage);
        let Some(place) = self.archive.place(&name)? else {
            return Ok(Err(format!(
                "refers to `{}`, which is not in the archive",
                shown(&name)
            )));
        };
        Ok(self.load_from(tensor, place.start, place.len()))
    }

    fn load_from(
        &mut self,
        tensor: &Strided<'_>,
        start: usize,
        held: usize,
    ) -> Result<Frozen, String> {
        let Strided {
            dtype,
            offset,
            ref shape,
            ref strides,
            ..
        } = *tensor;
        let width = dtype.size_in_bytes();
        let leaves = || format!("of shape {shape:?} leaves its storage of {held} bytes");
        let bytes = byte_count(shape, dtype).ok_or_else(leaves)?;
        // One past the last element, in bytes.
        let end = if bytes == 0 {
            Some(0)
        } else {
            shape
                .iter()
                .zip(strides)
                .try_fold(offset, |at, (d, s)| {
                    at.checked_add((d - 1).checked_mul(*s)?)
                })
                .and_then(|last| last.checked_add(1)?.checked_mul(width))
        };
        if end.is_none_or(|end| end > held) {
            return Err(leaves());
        }
        if bytes == 0 || in_order(shape, strides) {
            let first = if bytes == 0 {
                start
            } else {
                start + offset * width
            };
            return Frozen::mapped(self.map.clone(), first, dtype, shape.as_slice())
                .map_err(|e| e.to_string());
        }
        // A stride of zero repeats elements and views share storages: copies of them could ask
        // for any amount.
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > self.map.len() {
            return Err(format!(
                "of shape {shape:?} is a view whose copy would exceed the file's own size"
            ));
        }
        let storage = &self.map[start..start + held];
        let copied = gather(&storage[offset * width..], width, shape, strides);
        Tensor::from_raw_buffer(&copied, dtype, shape, &Device::Cpu)
            .map(|t| Frozen::dense(&t))
            .map_err(|e| e.to_string())
    }
}

/// Whether the elements lie row by row without gaps; the stride of a dimension of one is free.
fn in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&d, &s)| {
        let fits = d == 1 || s == expected;
        expected *= d;
        fits
    })
}

/// The elements in row-major order; the caller has checked that all of them lie inside.
fn gather(storage: &[u8], width: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * width);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    // The stride of a dimension of one is free, and may be any number.
    let strides: Vec<usize> = shape
        .iter()
        .zip(strides)
        .map(|(&d, &s)| if d == 1 { 0 } else { s })
        .collect();
    for _ in 0..count {
        out.extend_from_slice(&storage[at * width..][..width]);
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            at += strides[dim];
            if index[dim] < shape[dim] {
                break;
            }
            at -= strides[dim] * shape[dim];
            index[dim] = 0;
        }
    }
    out
}
