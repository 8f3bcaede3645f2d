//! The digest of named tensors.
//!
//! Owns the exact bytes that are hashed. They are part of the artifact format: changing them
//! makes every saved artifact refuse its base.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::frozen::Frozen;

/// Elements converted at a time, so that nothing is held twice.
const CHUNK: usize = 1 << 16;
/// Elements that a fingerprint reads at each of three places of a tensor.
const SAMPLE: usize = 16;

/// The digest of all values.
pub(super) fn of(tensors: &BTreeMap<String, Frozen>) -> Result<String> {
    combine("twinspan base 1\n", tensors, |count| [0..count, 0..0, 0..0])
}

/// A digest of names, shapes and a few values: tells apart what one file can be read as, at the
/// cost of touching a few pages.
pub(super) fn fingerprint(tensors: &BTreeMap<String, Frozen>) -> Result<String> {
    combine("twinspan fingerprint 1\n", tensors, |count| {
        let last = count.saturating_sub(SAMPLE);
        [0, last / 2, last].map(|start| start..(start + SAMPLE).min(count))
    })
}

/// Hashes, under a heading that names the format, each tensor's name, shape, and the hash of its
/// values in the ranges that `ranges` picks of so many elements. Lengths go in front of what
/// they count, as little-endian u64.
fn combine(
    heading: &str,
    tensors: &BTreeMap<String, Frozen>,
    ranges: impl Fn(usize) -> [Range<usize>; 3] + Sync,
) -> Result<String> {
    let tensors: Vec<(&String, &Frozen)> = tensors.iter().collect();
    let hashes = tensors
        .par_iter()
        .map(|(_, tensor)| hash_values(tensor, &ranges(tensor.shape().elem_count())))
        .collect::<Result<Vec<_>>>()?;
    let mut hasher = Sha256::new_with_prefix(heading);
    let number = |n: usize| (n as u64).to_le_bytes();
    for ((name, tensor), values) in tensors.iter().zip(hashes) {
        hasher.update(number(name.len()));
        hasher.update(name);
        hasher.update(number(tensor.shape().rank()));
        for &dim in tensor.shape().dims() {
            hasher.update(number(dim));
        }
        hasher.update(values);
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

fn hash_values(tensor: &Frozen, ranges: &[Range<usize>]) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let dense = match tensor.bytes() {
        Some(_) => None,
        None => Some(tensor.stored()?.to_device(&Device::Cpu)?.flatten_all()?),
    };
    let mut buffer = Vec::new();
    for range in ranges {
        for start in range.clone().step_by(CHUNK) {
            let chunk = start..(start + CHUNK).min(range.end);
            match (tensor.bytes(), &dense) {
                (Some(bytes), _) => {
                    let width = tensor.dtype().size_in_bytes();
                    let bytes = &bytes[chunk.start * width..chunk.end * width];
                    if tensor.dtype() == DType::F32 {
                        hasher.update(bytes);
                        continue;
                    }
                    convert(bytes, tensor, &mut buffer)?;
                }
                (None, Some(dense)) => {
                    let values = dense.narrow(0, chunk.start, chunk.len())?;
                    extend(&mut buffer, values.to_dtype(DType::F32)?.to_vec1::<f32>()?);
                }
                (None, None) => {}
            }
            hasher.update(&buffer);
            buffer.clear();
        }
    }
    tensor.release();
    Ok(hasher.finalize().into())
}

/// Appends mapped values as little-endian `f32`.
fn convert(bytes: &[u8], tensor: &Frozen, out: &mut Vec<u8>) -> Result<()> {
    match tensor.dtype() {
        DType::F16 => extend(out, numbers(bytes, |b| f16::from_le_bytes(b).to_f32())),
        DType::BF16 => extend(out, numbers(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        DType::F64 => extend(out, numbers(bytes, |b| f64::from_le_bytes(b) as f32)),
        DType::I64 => extend(out, numbers(bytes, |b| i64::from_le_bytes(b) as f32)),
        dtype => {
            let count = bytes.len() / dtype.size_in_bytes();
            let values = Tensor::from_raw_buffer(bytes, dtype, &[count], &Device::Cpu)?;
            extend(out, values.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
    }
    Ok(())
}

fn numbers<const N: usize>(
    bytes: &[u8],
    read: impl Fn([u8; N]) -> f32,
) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<N>().0.iter().map(move |&b| read(b))
}

fn extend(out: &mut Vec<u8>, values: impl IntoIterator<Item = f32>) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}
