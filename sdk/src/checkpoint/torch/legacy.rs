//! The files of `torch.save` before PyTorch 1.6: pickles one behind the other, then the storages.
//!
//! Owns the order of the parts and the widths of the elements, by which a storage's end is found.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

use crate::checkpoint::{Named, Refused, damaged, shown};
use crate::pickle::{Pickle, Value};

/// Pickles in front of the content: a number to know the file by, a version, a machine.
const PREFACE: usize = 3;

/// Reads such a file.
pub(in crate::checkpoint) fn read(map: &Arc<Mmap>) -> Result<Named, Refused> {
    let mut rest = &map[..];
    for _ in 0..PREFACE {
        next(&mut rest)?;
    }
    let content = next(&mut rest)?;
    let keys = next(&mut rest)?;
    let places = places(&content, &keys, map.len() - rest.len(), rest)?;
    super::named(map, &content, &|key| Ok(places.get(key).cloned()))
}

/// The pickle in front of `rest`, which it is taken off.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Pickle<'a>, Refused> {
    let pickle = Pickle::read(rest).map_err(|error| damaged(error.to_string()))?;
    *rest = &rest[pickle.length()..];
    Ok(pickle)
}

/// Where the storages lie, which follow in `rest` from byte `at` of the file: for each key the
/// number of its elements in eight bytes, and the elements.
fn places<'p>(
    content: &Pickle<'_>,
    keys: &'p Pickle<'_>,
    mut at: usize,
    mut rest: &[u8],
) -> Result<HashMap<&'p str, Range<usize>>, Refused> {
    let Value::List(list) = keys.root() else {
        return Err(damaged("it has no list of its storages"));
    };
    let widths = widths(content);
    let mut places = HashMap::new();
    for &key in list {
        let Value::Text(key) = keys.get(key) else {
            return Err(damaged("a key of its storages is no text"));
        };
        let width = widths.get(key.as_ref()).ok_or_else(|| {
            damaged(format!(
                "its storage `{}` is of no tensor, so where it ends is not known",
                shown(key)
            ))
        })?;
        let held = rest.split_first_chunk().and_then(|(count, elements)| {
            let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
            let (held, after) = elements.split_at_checked(count.checked_mul(*width)?)?;
            Some((held.len(), after))
        });
        let (length, after) = held.ok_or_else(|| {
            damaged(format!(
                "it is cut short in its storage `{}`; fetch it again",
                shown(key)
            ))
        })?;
        places.insert(key.as_ref(), at + 8..at + 8 + length);
        (at, rest) = (at + 8 + length, after);
    }
    Ok(places)
}

/// Bytes of an element of each storage, by its key.
fn widths<'p>(content: &'p Pickle<'_>) -> HashMap<&'p str, usize> {
    let storages = content.values().filter_map(|value| {
        let Value::Persistent(id) = value else {
            return None;
        };
        let Value::Tuple(storage) = content.get(*id) else {
            return None;
        };
        let &[_, class, key, ..] = &storage[..] else {
            return None;
        };
        match (content.get(class), content.get(key)) {
            (Value::Class { name, .. }, Value::Text(key)) => Some((key.as_ref(), width(name)?)),
            _ => None,
        }
    });
    storages.collect()
}

fn width(class: &str) -> Option<usize> {
    Some(match class {
        "BoolStorage" | "ByteStorage" | "CharStorage" | "QInt8Storage" | "QUInt8Storage" => 1,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "FloatStorage" | "IntStorage" | "QInt32Storage" => 4,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "ComplexDoubleStorage" => 16,
        _ => return None,
    })
}
