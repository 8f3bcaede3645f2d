//! The elements of a frozen weight as products read them.
//!
//! Owns the three element types that products read, and the rounding from one to another.
//! Whether they lie in a file or in memory is [`Frozen`](super::Frozen)'s business.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Result, Tensor, bail};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that a worker converts at a time; they stay in its first-level cache.
const CHUNK: usize = 2048;

/// Elements, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl<'a> Elements<'a> {
    /// Little-endian bytes as elements, where they can be read in place: of one of the three
    /// types, and aligned.
    pub(super) fn of_bytes(bytes: &'a [u8], dtype: DType) -> Option<Self> {
        /// The whole of `bytes` as elements of `T`.
        ///
        /// # Safety
        /// Every bit pattern is a `T`.
        unsafe fn all<T>(bytes: &[u8]) -> Option<&[T]> {
            // SAFETY: the caller's promise; align_to keeps to aligned elements.
            let (head, body, tail) = unsafe { bytes.align_to::<T>() };
            (head.is_empty() && tail.is_empty()).then_some(body)
        }
        if cfg!(target_endian = "big") {
            return None;
        }
        // SAFETY: numbers of 32 and of 16 bits, of which any bits are some.
        unsafe {
            match dtype {
                DType::F32 => all(bytes).map(Elements::F32),
                DType::F16 => all(bytes).map(Elements::F16),
                DType::BF16 => all(bytes).map(Elements::BF16),
                _ => None,
            }
        }
    }

    /// The elements `start..end` of a storage, where they are of one of the three types.
    pub(super) fn of_storage(
        storage: &'a CpuStorage,
        (start, end): (usize, usize),
    ) -> Option<Self> {
        match storage {
            CpuStorage::F32(all) => all.get(start..end).map(Elements::F32),
            CpuStorage::F16(all) => all.get(start..end).map(Elements::F16),
            CpuStorage::BF16(all) => all.get(start..end).map(Elements::BF16),
            _ => None,
        }
    }

    /// The elements in single precision, which holds all of them.
    pub(crate) fn wide(self) -> Cow<'a, [f32]> {
        let halves = match self {
            Elements::F32(all) => return Cow::Borrowed(all),
            Elements::F16(all) => Ok(all),
            Elements::BF16(all) => Err(all),
        };
        let mut wide = vec![0f32; halves.map_or_else(<[bf16]>::len, <[f16]>::len)];
        let chunks = wide.par_chunks_mut(CHUNK);
        match halves {
            Ok(all) => chunks
                .zip(all.par_chunks(CHUNK))
                .for_each(|(to, from)| from.convert_to_f32_slice(to)),
            Err(all) => chunks
                .zip(all.par_chunks(CHUNK))
                .for_each(|(to, from)| from.convert_to_f32_slice(to)),
        }
        Cow::Owned(wide)
    }

    fn bytes(self) -> &'a [u8] {
        // SAFETY: numbers have no padding, and any bytes may be read as such.
        unsafe {
            match self {
                Elements::F32(all) => all.align_to().1,
                Elements::F16(all) => all.align_to().1,
                Elements::BF16(all) => all.align_to().1,
            }
        }
    }

    /// Reads something of every page, so that the system has them at hand.
    pub(super) fn touch(self) {
        /// No system of ours has smaller pages.
        const PAGE: usize = 4096;
        /// Pages that a worker touches at a time.
        const RUN: usize = 256;
        let sum = |bytes: &[u8]| bytes.iter().step_by(PAGE).fold(0, |sum, b| sum ^ b);
        let all = self.bytes().par_chunks(RUN * PAGE).map(sum);
        std::hint::black_box(all.reduce(|| 0, |a, b| a ^ b));
    }
}

/// Elements in memory.
#[derive(Debug)]
pub(super) enum Held {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

impl Held {
    pub(super) fn elements(&self) -> Elements<'_> {
        match self {
            Held::F32(all) => Elements::F32(all),
            Held::F16(all) => Elements::F16(all),
            Held::BF16(all) => Elements::BF16(all),
        }
    }

    /// Little-endian numbers of `dtype` rounded to `to`; `None` where one of the two is not of
    /// the three types.
    pub(super) fn rounded(bytes: &[u8], dtype: DType, to: DType) -> Option<Self> {
        let read = match dtype {
            DType::F32 => read_f32,
            DType::F16 => read_f16,
            DType::BF16 => read_bf16,
            _ => return None,
        };
        let width = dtype.size_in_bytes();
        let count = bytes.len() / width;
        let chunks = bytes.par_chunks(CHUNK * width);
        let halves = |write: fn(&[f32], &mut [u16])| {
            let mut all = vec![0u16; count];
            let pairs = all.par_chunks_mut(CHUNK).zip(chunks.clone());
            pairs.for_each(|(to, from)| {
                let mut wide = [0f32; CHUNK];
                let wide = &mut wide[..to.len()];
                read(from, wide);
                write(wide, to);
            });
            all
        };
        Some(match to {
            DType::F32 => {
                let mut all = vec![0f32; count];
                let pairs = all.par_chunks_mut(CHUNK).zip(chunks);
                pairs.for_each(|(to, from)| read(from, to));
                Held::F32(all)
            }
            DType::F16 => Held::F16(halves(write_f16).reinterpret_into()),
            DType::BF16 => Held::BF16(halves(write_bf16).reinterpret_into()),
            _ => return None,
        })
    }

    /// The elements of a tensor on the CPU.
    ///
    /// # Errors
    /// It is not of the three types.
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.flatten_all()?;
        Ok(match flat.dtype() {
            DType::F32 => Held::F32(flat.to_vec1()?),
            DType::F16 => Held::F16(flat.to_vec1()?),
            DType::BF16 => Held::BF16(flat.to_vec1()?),
            dtype => bail!("a weight of {dtype:?} is not read by products"),
        })
    }
}

fn read_f32(bytes: &[u8], to: &mut [f32]) {
    for (to, &b) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = f32::from_le_bytes(b);
    }
}

fn read_f16(bytes: &[u8], to: &mut [f32]) {
    let mut halves = [f16::ZERO; 64];
    for (to, bytes) in to.chunks_mut(64).zip(bytes.chunks(2 * 64)) {
        let halves = &mut halves[..to.len()];
        for (half, &b) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(b);
        }
        halves.convert_to_f32_slice(to);
    }
}

fn read_bf16(bytes: &[u8], to: &mut [f32]) {
    for (to, &b) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = bf16::from_le_bytes(b).to_f32();
    }
}

fn write_f16(from: &[f32], to: &mut [u16]) {
    to.reinterpret_cast_mut::<f16>()
        .convert_from_f32_slice(from);
}

fn write_bf16(from: &[f32], to: &mut [u16]) {
    to.reinterpret_cast_mut::<bf16>()
        .convert_from_f32_slice(from);
}
