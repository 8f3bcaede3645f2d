//! The elements of a frozen weight as products read them.
//!
//! Owns the three element types that products read, and the rounding from one to another.
//! Whether they lie in a file or in memory is [`Frozen`](super::Frozen)'s business.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::MmapMut;
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
    /// Bytes of a file, which are little-endian, as elements, where they can be read in place.
    pub(super) fn of_file(bytes: &'a [u8], dtype: DType) -> Option<Self> {
        match cfg!(target_endian = "little") {
            true => Self::of_bytes(bytes, dtype),
            false => None,
        }
    }

    /// Bytes as elements, where they are of one of the three types, and aligned.
    fn of_bytes(bytes: &'a [u8], dtype: DType) -> Option<Self> {
        /// The whole of `bytes` as elements of `T`.
        ///
        /// # Safety
        /// Every bit pattern is a `T`.
        unsafe fn all<T>(bytes: &[u8]) -> Option<&[T]> {
            // SAFETY: the caller's promise; align_to keeps to aligned elements.
            let (head, body, tail) = unsafe { bytes.align_to::<T>() };
            (head.is_empty() && tail.is_empty()).then_some(body)
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

/// Elements in memory of their own.
#[derive(Debug)]
pub(super) struct Held {
    memory: MmapMut,
    dtype: DType,
}

impl Held {
    /// Room for `count` elements of `dtype`, zeros, in pages as large as the system has, which it
    /// clears faster.
    fn new(count: usize, dtype: DType) -> Result<Self> {
        let memory = MmapMut::map_anon(count * dtype.size_in_bytes())?;
        #[cfg(target_os = "linux")]
        // Where the system refuses, the pages are small.
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self { memory, dtype })
    }

    /// The elements.
    ///
    /// # Errors
    /// They are not of the three types.
    pub(super) fn elements(&self) -> Result<Elements<'_>> {
        match Elements::of_bytes(&self.memory, self.dtype) {
            Some(elements) => Ok(elements),
            None => bail!("products read no weight of {:?}", self.dtype),
        }
    }

    /// Little-endian numbers of `dtype` rounded to `to`; `None` where one of the two is not of
    /// the three types.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn rounded(bytes: &[u8], dtype: DType, to: DType) -> Result<Option<Self>> {
        let read = match dtype {
            DType::F32 => read_f32,
            DType::F16 => read_f16,
            DType::BF16 => read_bf16,
            _ => return Ok(None),
        };
        let write = match to {
            DType::F32 => write_f32,
            DType::F16 => write_f16,
            DType::BF16 => write_bf16,
            _ => return Ok(None),
        };
        let (from, wide) = (dtype.size_in_bytes(), to.size_in_bytes());
        let mut held = Self::new(bytes.len() / from, to)?;
        let chunks = held.memory.par_chunks_mut(CHUNK * wide);
        chunks
            .zip(bytes.par_chunks(CHUNK * from))
            .for_each(|(to, bytes)| {
                let mut numbers = [0f32; CHUNK];
                let numbers = &mut numbers[..bytes.len() / from];
                read(bytes, numbers);
                write(numbers, to);
            });
        Ok(Some(held))
    }

    /// The elements of a tensor on the CPU.
    ///
    /// # Errors
    /// They are not of the three types.
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let mut held = Self::new(tensor.elem_count(), tensor.dtype())?;
        let contiguous = tensor.contiguous()?;
        let (storage, layout) = contiguous.storage_and_layout();
        let elements = match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(storage), Some(span)) => Elements::of_storage(storage, span),
            _ => None,
        };
        match elements {
            Some(elements) => held.memory.copy_from_slice(elements.bytes()),
            None => bail!("products read no weight of {:?}", tensor.dtype()),
        }
        drop(storage);
        Ok(held)
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

fn write_f32(from: &[f32], to: &mut [u8]) {
    for (to, from) in to.as_chunks_mut().0.iter_mut().zip(from) {
        *to = from.to_ne_bytes();
    }
}

fn write_f16(from: &[f32], to: &mut [u8]) {
    let mut halves = [f16::ZERO; CHUNK];
    let halves = &mut halves[..from.len()];
    halves.convert_from_f32_slice(from);
    for (to, half) in to.as_chunks_mut().0.iter_mut().zip(halves) {
        *to = half.to_ne_bytes();
    }
}

fn write_bf16(from: &[f32], to: &mut [u8]) {
    for (to, &from) in to.as_chunks_mut().0.iter_mut().zip(from) {
        *to = bf16::from_f32(from).to_ne_bytes();
    }
}
