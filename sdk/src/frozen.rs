//! Frozen tensors: weights that are read, never trained.
//!
//! Owns where the bytes of a frozen weight live (a mapped file or a dense tensor), the precision
//! its values are rounded to, and the forms they are converted to, once each. Does not know names,
//! files or layers.

mod elements;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Shape, Storage, Tensor, bail};
use memmap2::Mmap;

pub(crate) use elements::Elements;
use elements::Held;

/// Mapped weights of fewer bytes keep their pages when they were copied: asking costs more.
const WORTH_RELEASING: usize = 1 << 20;

/// A weight that never gets a gradient.
///
/// The bytes stay where they are, usually in a mapped file, and matrix products read them there.
/// What products cannot read in place is converted once: values that are rounded to another
/// precision ([`Frozen::in_precision`]), and element types that have no kernel.
/// [`Frozen::tensor`] makes a dense candle tensor the first time it is asked and keeps it.
/// Cloning shares all of it.
#[derive(Clone, Debug)]
pub struct Frozen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    dtype: DType,
    shape: Shape,
    /// What the values are rounded to, where that changes any.
    rounded: Option<DType>,
    dense: OnceLock<Tensor>,
    held: OnceLock<Held>,
}

#[derive(Clone, Debug)]
enum Source {
    Mapped { map: Arc<Mmap>, start: usize },
    Dense(Tensor),
}

impl Frozen {
    /// A weight of `shape` and `dtype` whose row-major little-endian bytes begin at `start` in
    /// `map`: pages that are not needed any more are given back to the system, and read from the
    /// file again where they are.
    ///
    /// # Errors
    /// The bytes would end behind the mapping.
    ///
    /// # Safety
    /// `map` maps a file, shared or never written to: given back pages of anything else would
    /// come back as zeros under those who read them.
    pub unsafe fn mapped(
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
                Ok(Self::new(Source::Mapped { map, start }, dtype, shape, None))
            }
            _ => bail!("a tensor of {shape:?} at byte {start} ends behind its file"),
        }
    }

    /// A weight held as a dense tensor. It is detached: no gradient passes into it.
    pub fn dense(tensor: &Tensor) -> Self {
        let tensor = tensor.detach();
        let (dtype, shape) = (tensor.dtype(), tensor.shape().clone());
        Self::new(Source::Dense(tensor), dtype, shape, None)
    }

    fn new(source: Source, dtype: DType, shape: Shape, rounded: Option<DType>) -> Self {
        Self(Arc::new(Inner {
            source,
            dtype,
            shape,
            rounded,
            dense: OnceLock::new(),
            held: OnceLock::new(),
        }))
    }

    /// The same stored values, rounded to `precision` (`f32`, `f16` or `bf16`, to the nearest,
    /// ties to even) and held in it. A precision that holds every stored value changes nothing,
    /// and neither does any on a tensor of whole numbers.
    ///
    /// Rounding starts from the stored values, whatever precision this weight has.
    #[must_use]
    pub fn in_precision(&self, precision: DType) -> Self {
        let rounded = match (self.0.dtype, precision) {
            (DType::F16 | DType::BF16, DType::F32) => None,
            (stored, precision) if stored == precision => None,
            (
                DType::F64 | DType::F32 | DType::F16 | DType::BF16,
                DType::F32 | DType::F16 | DType::BF16,
            ) => Some(precision),
            _ => None,
        };
        if rounded == self.0.rounded {
            return self.clone();
        }
        let source = self.0.source.clone();
        Self::new(source, self.0.dtype, self.0.shape.clone(), rounded)
    }

    /// The shape as stored.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The element type as stored.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The element type that holds every value it is read as: the stored one, unless it is
    /// rounded.
    pub fn precision(&self) -> DType {
        self.0.rounded.unwrap_or(self.0.dtype)
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

    /// Calls `f` with the elements, rounded and in the type they are held in: where they are
    /// stored, if they can be read there; else from a copy that is made once and kept.
    ///
    /// # Errors
    /// They cannot be brought to the CPU, or have no room there.
    pub(crate) fn with_elements<R>(&self, f: impl FnOnce(Elements<'_>) -> R) -> Result<R> {
        if let Some(elements) = self.in_place() {
            return Ok(f(elements));
        }
        if let (Source::Dense(tensor), None) = (&self.0.source, self.0.rounded) {
            let (storage, layout) = tensor.storage_and_layout();
            if let (Storage::Cpu(storage), Some(span)) = (&*storage, layout.contiguous_offsets())
                && let Some(elements) = Elements::of_storage(storage, span)
            {
                return Ok(f(elements));
            }
        }
        Ok(f(self.held()?.elements()?))
    }

    /// The elements as they lie in the file, where products can read them there.
    fn in_place(&self) -> Option<Elements<'_>> {
        match self.0.rounded {
            None => Elements::of_file(self.bytes()?, self.0.dtype),
            Some(_) => None,
        }
    }

    /// The elements in memory. Filled outside of the cell: a worker that waits for others may
    /// come by here again.
    fn held(&self) -> Result<&Held> {
        if let Some(held) = self.0.held.get() {
            return Ok(held);
        }
        let to = match (self.0.rounded, self.0.dtype) {
            (Some(to), _) | (None, to @ (DType::F16 | DType::BF16)) => to,
            (None, _) => DType::F32,
        };
        let rounded = match self.bytes() {
            Some(bytes) => Held::rounded(bytes, self.0.dtype, to)?,
            None => None,
        };
        let held = match rounded {
            Some(held) => held,
            None => Held::of(&self.convert(to, &Device::Cpu)?)?,
        };
        let held = self.0.held.get_or_init(|| held);
        self.release();
        Ok(held)
    }

    /// Brings the elements into the form and the place in which a product reads them, so that the
    /// first product takes no longer than the second.
    ///
    /// # Errors
    /// They cannot be brought to the CPU, or have no room there.
    pub fn warm(&self) -> Result<()> {
        self.with_elements(|elements| elements.touch())
    }

    /// Gives the pages of a large mapped weight back to the system, unless products read them.
    pub(crate) fn release(&self) {
        let copied = self.0.dense.get().is_some() || self.0.held.get().is_some();
        if !copied && self.in_place().is_some() {
            return;
        }
        #[cfg(unix)]
        if let (Source::Mapped { map, start }, Some(bytes)) = (&self.0.source, self.bytes())
            && bytes.len() >= WORTH_RELEASING
        {
            // Where the system refuses, the pages stay: it only saves memory.
            // SAFETY: the mapping is of a file, from which the same bytes are read again.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, *start, bytes.len())
            };
        }
    }

    /// The weight as a dense tensor of `dtype` on `device`; converted once, then shared.
    ///
    /// # Errors
    /// The conversion is not supported by the device.
    pub fn tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let fits = |t: &Tensor| t.dtype() == dtype && t.device().same_device(device);
        if let Some(t) = self.0.dense.get()
            && fits(t)
        {
            return Ok(t.clone());
        }
        let tensor = self.convert(dtype, device)?;
        let kept = self.0.dense.get_or_init(|| tensor.clone());
        self.release();
        Ok(if fits(kept) { kept.clone() } else { tensor })
    }

    /// The weight as a dense tensor, which is not kept.
    pub(crate) fn convert(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        self.round(self.stored()?)?
            .to_device(device)?
            .to_dtype(dtype)?
            .contiguous()
    }

    /// The values as they are stored, not rounded, as a dense tensor that is not kept.
    pub(crate) fn stored(&self) -> Result<Tensor> {
        match &self.0.source {
            Source::Dense(t) => Ok(t.clone()),
            Source::Mapped { .. } => {
                let bytes = self.bytes().unwrap_or_default();
                Tensor::from_raw_buffer(bytes, self.0.dtype, self.0.shape.dims(), &Device::Cpu)
            }
        }
    }

    fn round(&self, stored: Tensor) -> Result<Tensor> {
        match self.0.rounded {
            Some(precision) => stored.to_dtype(precision),
            None => Ok(stored),
        }
    }

    /// The rows `ids` of the first dimension as a dense tensor `[ids, …]` of `dtype` on `device`.
    /// No other row is read.
    ///
    /// # Errors
    /// There is no such row, or the conversion is not supported by the device.
    pub fn gather(&self, ids: &[u32], dtype: DType, device: &Device) -> Result<Tensor> {
        let mut shape = self.0.shape.dims().to_vec();
        let Some(rows) = shape.first_mut().map(|n| std::mem::replace(n, ids.len())) else {
            bail!("rows of a tensor without dimensions");
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            bail!("row {id} of a tensor of shape {:?}", self.0.shape);
        }
        let picked = match (&self.0.source, self.bytes()) {
            (Source::Mapped { .. }, Some(bytes)) => {
                let row = bytes.len() / rows.max(1);
                let mut picked = Vec::with_capacity(ids.len() * row);
                for &id in ids {
                    picked.extend_from_slice(&bytes[id as usize * row..][..row]);
                }
                Tensor::from_raw_buffer(&picked, self.0.dtype, &shape, &Device::Cpu)?
            }
            (Source::Dense(t), _) => t.index_select(&Tensor::new(ids, t.device())?, 0)?,
            (Source::Mapped { .. }, None) => bail!("a mapped tensor without bytes"),
        };
        self.round(picked)?.to_device(device)?.to_dtype(dtype)
    }

    /// The same elements in another shape; the weight itself where the shape is its own.
    ///
    /// # Errors
    /// The shape has another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape == self.0.shape.dims() {
            return Ok(self.clone());
        }
        let same = Shape::from(shape);
        if same.elem_count() != self.0.shape.elem_count() {
            bail!("a tensor of shape {:?} as {shape:?}", self.0.shape);
        }
        let source = match &self.0.source {
            Source::Dense(t) => Source::Dense(t.reshape(shape)?),
            mapped => mapped.clone(),
        };
        Ok(Self::new(source, self.0.dtype, same, self.0.rounded))
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
        let source = match &self.0.source {
            Source::Dense(t) => Source::Dense(t.narrow(0, rows.start, rows.len())?),
            Source::Mapped { map, start } => {
                let row = self.0.shape.elem_count() / dims[0].max(1) * self.0.dtype.size_in_bytes();
                let (map, start) = (map.clone(), start + rows.start * row);
                Source::Mapped { map, start }
            }
        };
        Ok(Self::new(
            source,
            self.0.dtype,
            shape.into(),
            self.0.rounded,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use candle_core::Var;

    use super::*;
    use crate::ops;

    #[test]
    fn products_and_gradients_keep_no_copy_of_what_lies_in_a_file() {
        let (n, k) = (48, 40);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0; n * k * 4]).unwrap();
        // SAFETY: the file is anonymous: nobody else can shorten it.
        let map = Arc::new(unsafe { Mmap::map(&file).unwrap() });
        let stored = |dtype| unsafe { Frozen::mapped(map.clone(), 0, dtype, (n, k)) }.unwrap();
        let single = stored(DType::F32);
        let cases = [
            (stored(DType::F16), false),
            (stored(DType::BF16).in_precision(DType::F32), false),
            (single.in_precision(DType::BF16), true),
            (single, false),
        ];
        let x = Var::ones((3, k), DType::F32, &Device::Cpu).unwrap();
        let wide = x.as_detached_tensor().to_dtype(DType::F64).unwrap();
        for (weight, copied) in cases {
            let y = ops::linear_frozen(&x, &weight, None).unwrap();
            y.backward().unwrap();
            ops::linear_frozen(&wide, &weight, None).unwrap();
            weight.gather(&[1], DType::F32, &Device::Cpu).unwrap();
            weight.warm().unwrap();
            assert_eq!(weight.0.held.get().is_some(), copied, "{weight:?}");
            assert!(weight.0.dense.get().is_none());
        }
    }
}
