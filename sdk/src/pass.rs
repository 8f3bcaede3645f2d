//! What lives during one forward pass, and is gone after it.
//!
//! Owns the mode (training or not), dropout keys, carries of adapters, streams that someone
//! reads, and statistics to be written after the step. Holds no parameters.

use std::any::Any;
use std::marker::PhantomData;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops::{self, Dropout};
use crate::parameter::Buffer;
use crate::stream::Stream;

/// The state of one forward pass, handed through every hook, layer and block. A second forward
/// pass in it starts without what the first carried.
#[derive(Debug, Default)]
pub struct Pass {
    /// Dropout drops, and batch norms that train use the batch's statistics.
    pub train: bool,
    /// Parameters enter as tracked tensors, so that gradients reach them.
    pub gradients: bool,
    seed: u64,
    drops: u64,
    carries: Vec<Option<Box<dyn Any + Send>>>,
    taps: Vec<Option<Stream>>,
    statistics: Vec<(Buffer, Tensor)>,
}

/// Where an adapter finds what it carried to here within a pass; made by
/// [`Hooks::carry`](crate::hooks::Hooks::carry).
#[derive(Debug)]
pub struct CarryKey<T> {
    index: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for CarryKey<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for CarryKey<T> {}

impl<T> CarryKey<T> {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            index,
            kind: PhantomData,
        }
    }
}

/// What has one row for each item of a tower, and can be repeated to one for each pair.
pub trait ByItem: Send + Sized + 'static {
    /// The rows `rows`, in that order.
    ///
    /// # Errors
    /// There is no such row.
    fn repeated(&self, rows: &[u32]) -> Result<Self>;
}

impl ByItem for Tensor {
    fn repeated(&self, rows: &[u32]) -> Result<Self> {
        Ok(ops::select(self, rows)?)
    }
}

impl ByItem for Stream {
    fn repeated(&self, rows: &[u32]) -> Result<Self> {
        Ok(self.select(rows)?)
    }
}

impl<T: ByItem> ByItem for Vec<T> {
    fn repeated(&self, rows: &[u32]) -> Result<Self> {
        self.iter().map(|t| t.repeated(rows)).collect()
    }
}

/// How a carry of one type is repeated, without naming the type.
pub(crate) type Repeat = fn(&mut Pass, usize, &[u32]) -> Result<()>;

/// Where a hook finds a stream that it declared to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapKey(pub(crate) usize);

impl Pass {
    /// A pass that predicts: nothing is dropped, nothing is recorded for gradients.
    pub fn predict() -> Self {
        Self::default()
    }

    /// A pass that trains. Dropout masks are a function of `seed` (of the run and the step) and
    /// of the order of the layers alone.
    pub fn train(seed: u64) -> Self {
        Self {
            train: true,
            gradients: true,
            seed,
            ..Self::default()
        }
    }

    /// The next dropout of probability `p`; off when the pass does not train.
    pub fn dropout(&mut self, p: f64) -> Dropout {
        if !self.train || p <= 0.0 {
            return Dropout::default();
        }
        self.drops += 1;
        let key = crate::random::mix(self.seed, self.drops);
        Dropout { p: p as f32, key }
    }

    /// Takes what was carried under `key`, leaving nothing.
    pub fn take<T: Send + 'static>(&mut self, key: CarryKey<T>) -> Option<T> {
        let carried = self.carries.get_mut(key.index)?.take()?;
        carried.downcast().ok().map(|boxed| *boxed)
    }

    /// Carries `value` on under `key`, to later hooks of this pass.
    pub fn carry<T: Send + 'static>(&mut self, key: CarryKey<T>, value: T) {
        if self.carries.len() <= key.index {
            self.carries.resize_with(key.index + 1, || None);
        }
        self.carries[key.index] = Some(Box::new(value));
    }

    /// The stream read under `key`. The plan has ordered the towers so that it is there. It has a
    /// row for each row of what the reader acts on: pairs where it looks at the other tower.
    ///
    /// # Errors
    /// The hook runs outside of [`Tuned::forward`](crate::tuned::Tuned::forward).
    pub fn read(&self, key: TapKey) -> Result<&Stream> {
        self.taps
            .get(key.0)
            .and_then(Option::as_ref)
            .ok_or(Error::NotYetRead { tap: key.0 })
    }

    /// Forgets what another forward pass carried and recorded; dropout goes on, and statistics
    /// wait for [`Pass::commit`].
    pub(crate) fn begin(&mut self) {
        self.carries.clear();
        self.taps.clear();
    }

    pub(crate) fn repeat_carried<T: ByItem>(&mut self, index: usize, rows: &[u32]) -> Result<()> {
        let key = CarryKey::<T>::new(index);
        if let Some(carried) = self.take(key) {
            self.carry(key, carried.repeated(rows)?);
        }
        Ok(())
    }

    pub(crate) fn record(&mut self, key: TapKey, stream: Stream) {
        if self.taps.len() <= key.0 {
            self.taps.resize_with(key.0 + 1, || None);
        }
        self.taps[key.0] = Some(stream);
    }

    pub(crate) fn recorded_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream)> {
        self.taps
            .iter_mut()
            .enumerate()
            .filter_map(|(i, s)| s.as_mut().map(|s| (i, s)))
    }

    /// Notes a buffer's new value; it is written by [`Pass::commit`], after the step.
    pub fn update(&mut self, buffer: &Buffer, value: Tensor) {
        self.statistics.push((buffer.clone(), value.detach()));
    }

    /// Writes the buffers that this pass changed. Called once per pass and after its backward,
    /// for a buffer written earlier would change the gradients.
    ///
    /// # Errors
    /// A buffer's new value has another shape.
    pub fn commit(&mut self) -> Result<()> {
        for (buffer, value) in self.statistics.drain(..) {
            buffer.set(&value)?;
        }
        Ok(())
    }
}
