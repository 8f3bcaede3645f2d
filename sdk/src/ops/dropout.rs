//! Dropout whose mask is a function of a key and the element's index.
//!
//! Owns the generator. Nothing is stored for the backward: the mask is made again.

use candle_core::{Result, Tensor, bail};

use super::check::choose;
use super::composed;
use super::parallel::{for_pieces, fresh};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

/// The fraction to drop, and the key of the mask. The default drops nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Probability of zero, in `[0, 1)`. What is kept is scaled by `1 / (1 - p)`.
    pub p: f32,
    /// Equal keys give equal masks.
    pub key: u64,
}

/// The finaliser of MurmurHash3 (Appleby, public domain): every output bit depends on every
/// input bit.
#[inline(always)]
fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// The mask around one index, ready to be asked for its neighbours.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    first: u32,
    second: u32,
    threshold: u32,
    scale: f32,
}

impl Stream {
    /// The factor, 0 or `1 / (1 - p)`, of the element whose index has these low 32 bits.
    #[inline(always)]
    pub(super) fn factor(self, low: u32) -> f32 {
        let bits = mix(mix(low ^ self.first).wrapping_add(self.second));
        if bits >= self.threshold {
            self.scale
        } else {
            0.
        }
    }
}

impl Dropout {
    /// Refuses a probability outside `[0, 1)`.
    pub(super) fn validate(self, op: &str) -> Result<()> {
        match (0. ..1.).contains(&self.p) {
            true => Ok(()),
            false => bail!("{op}: a dropout probability lies in [0, 1), got {}", self.p),
        }
    }

    /// The generator for the indices that share the high 32 bits `high`.
    pub(super) fn stream(self, high: u32) -> Stream {
        let first = mix(self.key as u32 ^ mix(high ^ 0x9e37_79b9));
        Stream {
            first,
            second: mix((self.key >> 32) as u32 ^ first.rotate_left(16)),
            threshold: (f64::from(self.p) * 4_294_967_296.) as u32,
            scale: 1. / (1. - self.p),
        }
    }

    /// Multiplies a run whose first element has the index `start`.
    #[inline(always)]
    pub(super) fn scale<T: Real>(self, start: u64, mut run: &mut [T]) {
        let mut start = start;
        while !run.is_empty() {
            let low = start as u32;
            let until = run.len().min((u32::MAX - low) as usize + 1);
            let (now, later) = run.split_at_mut(until);
            let stream = self.stream((start >> 32) as u32);
            for (i, y) in now.iter_mut().enumerate() {
                *y *= T::of(f64::from(stream.factor(low.wrapping_add(i as u32))));
            }
            start += until as u64;
            run = later;
        }
    }

    /// The factors of the elements `0..n`.
    pub(super) fn factors(self, n: usize) -> Vec<f32> {
        masked(&vec![1.; n], self)
    }
}

/// `x` times the mask.
fn masked<T: Real>(x: &[T], d: Dropout) -> Vec<T> {
    fresh(x.len(), |y| {
        for_pieces(
            y,
            #[inline(always)]
            |first, y| {
                y.copy_from_slice(&x[first..first + y.len()]);
                d.scale(first as u64, y);
            },
        );
    })
}

fn kernel<T: Real>(x: &Tensor, d: Dropout) -> Result<Tensor> {
    let y = masked(&view::<T>(&dense(x)?)?, d);
    record("dropout", [Some(x)], y, x.shape(), move |b| {
        Ok([shaped(masked(&view::<T>(b.grad)?, d), b.grad)?])
    })
}

/// Zeroes elements with probability `d.p` and scales the others by `1 / (1 - p)` (Srivastava et
/// al. 2014).
///
/// # Errors
/// `d.p` lies outside `[0, 1)`.
pub fn dropout(x: &Tensor, d: Dropout) -> Result<Tensor> {
    d.validate("dropout")?;
    if d.p == 0. {
        return Ok(x.clone());
    }
    choose!(
        "dropout",
        &[x],
        kernel(x, d),
        replay("dropout", [x], move |[x]| composed::dropout(x, d))
    )
}
