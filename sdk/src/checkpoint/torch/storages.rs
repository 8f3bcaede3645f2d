//! From a tensor's description to its elements.
//!
//! Owns the checks that they lie inside their storage, and the dense copies of views. Where a
//! storage lies, the archive says.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::rebuilt::Strided;
use crate::checkpoint::{Refused, byte_count, shown};
use crate::frozen::Frozen;

/// Where the storage of a key lies in the file; `None` if there is none.
pub(super) type Place<'a> = dyn Fn(&str) -> Result<Option<Range<usize>>, Refused> + 'a;

pub(super) struct Storages<'a> {
    map: &'a Arc<Mmap>,
    place: &'a Place<'a>,
    /// Bytes of dense copies made so far.
    copied: usize,
}

impl<'a> Storages<'a> {
    pub(super) fn new(map: &'a Arc<Mmap>, place: &'a Place<'a>) -> Self {
        Self {
            map,
            place,
            copied: 0,
        }
    }
}

impl Storages<'_> {
    /// The tensor in the mapping where its elements lie in order, else a dense copy. The inner
    /// error is what is wrong with the tensor.
    pub(super) fn load(&mut self, tensor: &Strided<'_>) -> Result<Result<Frozen, String>, Refused> {
        let Some(place) = (self.place)(tensor.storage)? else {
            return Ok(Err(format!(
                "refers to the storage `{}`, which is not in the file",
                shown(tensor.storage)
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
            // SAFETY: `Checkpoint` maps files, read only.
            return unsafe { Frozen::mapped(self.map.clone(), first, dtype, shape.as_slice()) }
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
