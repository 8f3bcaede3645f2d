//! Frozen tensors: weights that are read, never trained.
//!
//! Owns where the bytes of a frozen weight live (a mapped file or a dense tensor) and the forms
//! they are converted to, once each. Does not know names, files or layers.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use memmap2::Mmap;

use crate::ops::Packed;

/// A weight that never gets a gradient.
///
/// The bytes stay where they are, usually in a mapped file. [`Frozen::tensor`] makes a dense
/// candle tensor the first time it is asked and keeps it; [`Frozen::packed`] does the same for
/// the panel layout that the matrix product prefers. Cloning shares all of it.
#[derive(Clone, Debug)]
pub struct Frozen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    dtype: DType,
    shape: Shape,
    dense: OnceLock<Tensor>,
    packed: OnceLock<Option<Packed>>,
}

#[derive(Debug)]
enum Source {
    Mapped { map: Arc<Mmap>, start: usize },
    Dense(Tensor),
}

impl Frozen {
    /// A weight of `shape` and `dtype` whose row-major little-endian bytes begin at `start` in
    /// `map`.
    ///
    /// # Errors
    /// The bytes would end behind the mapping.
    pub fn mapped(
        map: Arc<Mmap>,
        start: usize,
        dtype: DType,
        shape: impl Into<Shape>,
    ) -> Result<Self> {
        let shape = shape.into();
        let bytes = shape
            .elem_count()
            .checked_mul(dtype.size_in_bytes())
            .and_then(|n| n.checked_add(start));
        match bytes {
            Some(end) if end <= map.len() => {
                Ok(Self::new(Source::Mapped { map, start }, dtype, shape))
            }
            _ => bail!("a tensor of {shape:?} at byte {start} ends behind its file"),
        }
    }

    /// A weight held as a dense tensor. It is detached: no gradient passes into it.
    pub fn dense(tensor: &Tensor) -> Self {
        let tensor = tensor.detach();
        Self::new(
            Source::Dense(tensor.clone()),
            tensor.dtype(),
            tensor.shape().clone(),
        )
    }

    fn new(source: Source, dtype: DType, shape: Shape) -> Self {
        Self(Arc::new(Inner {
            source,
            dtype,
            shape,
            dense: OnceLock::new(),
            packed: OnceLock::new(),
        }))
    }

    /// The shape as stored.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The element type as stored.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The stored bytes, when the weight is mapped.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.0.source {
            Source::Mapped { map, start } => {
                let len = self.0.shape.elem_count() * self.0.dtype.size_in_bytes();
                Some(&map[*start..*start + len])
            }
            Source::Dense(_) => None,
        }
    }

    /// The elements as they lie in the file, when they are `f32` and aligned: the matrix product
    /// reads them there without a copy.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if self.0.dtype != DType::F32 || cfg!(target_endian = "big") {
            return None;
        }
        // SAFETY: every bit pattern is a valid f32; align_to keeps to aligned elements.
        let (head, body, tail) = unsafe { self.bytes()?.align_to::<f32>() };
        (head.is_empty() && tail.is_empty()).then_some(body)
    }

    /// The weight as a dense tensor of `dtype` on `device`; converted once, then shared.
    ///
    /// # Errors
    /// The conversion is not supported by the device.
    pub fn tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(t) = self.0.dense.get()
            && t.dtype() == dtype
            && t.device().same_device(device)
        {
            return Ok(t.clone());
        }
        let tensor = self.convert(dtype, device)?;
        Ok(self.0.dense.get_or_init(|| tensor.clone()).clone()).map(|kept| {
            if kept.dtype() == dtype && kept.device().same_device(device) {
                kept
            } else {
                tensor
            }
        })
    }

    /// The weight as a dense tensor, which is not kept.
    pub(crate) fn convert(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.0.source {
            Source::Dense(t) => t.to_device(device)?.to_dtype(dtype)?.contiguous(),
            Source::Mapped { .. } => {
                let bytes = self.bytes().unwrap_or_default();
                Tensor::from_raw_buffer(bytes, self.0.dtype, self.0.shape.dims(), &Device::Cpu)?
                    .to_dtype(dtype)?
                    .to_device(device)
            }
        }
    }

    /// The weight `[N, K]` packed for `x · Wᵀ` in f32 on this processor, or `None` where no
    /// packed kernel serves it. Packed once, then shared.
    pub fn packed(&self) -> Option<&Packed> {
        self.0
            .packed
            .get_or_init(|| Packed::of(self).ok().flatten())
            .as_ref()
    }

    /// The same elements in another shape; the weight itself where the shape is its own.
    ///
    /// # Errors
    /// The shape has another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape == self.0.shape.dims() {
            return Ok(self.clone());
        }
        match &self.0.source {
            Source::Dense(t) => Ok(Self::dense(&t.reshape(shape)?)),
            Source::Mapped { .. }
                if Shape::from(shape).elem_count() != self.0.shape.elem_count() =>
            {
                bail!("a tensor of shape {:?} as {shape:?}", self.0.shape)
            }
            Source::Mapped { map, start } => Self::mapped(map.clone(), *start, self.0.dtype, shape),
        }
    }

    /// Rows `rows` of the first dimension, sharing the mapping where there is one.
    ///
    /// # Errors
    /// The range leaves the tensor.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let dims = self.0.shape.dims();
        if dims.is_empty() || rows.start > rows.end || rows.end > dims[0] {
            bail!("rows {rows:?} of a tensor of shape {:?}", self.0.shape);
        }
        let mut shape = dims.to_vec();
        shape[0] = rows.len();
        match &self.0.source {
            Source::Dense(t) => Ok(Self::dense(&t.narrow(0, rows.start, rows.len())?)),
            Source::Mapped { map, start } => {
                let row = self.0.shape.elem_count() / dims[0].max(1) * self.0.dtype.size_in_bytes();
                Self::mapped(map.clone(), start + rows.start * row, self.0.dtype, shape)
            }
        }
    }
}
