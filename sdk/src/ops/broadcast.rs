//! Sums and products of a tensor with one that may be repeated along some dimensions.
//!
//! Owns the walk over the repeated tensor, and the sums that its gradient needs.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::parallel::{accumulate, for_pieces, for_rows, fresh, map2, simd, sum, sum2};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

/// How `b` is repeated to the shape of `a`: as rows of `width` elements of `a`, for each of
/// which `b` offers either a run as long or a single element.
struct Repeat {
    width: usize,
    constant: bool,
    /// Sizes of `a` outside the rows, and how far `b` moves along each.
    outer: Vec<(usize, usize)>,
}

impl Repeat {
    fn new(a: &[usize], b: &[usize]) -> Self {
        let mut dims: Vec<(usize, usize)> = vec![];
        let mut step = 1;
        for (i, &size) in a.iter().enumerate().rev() {
            let own = (i + b.len()).checked_sub(a.len()).map_or(1, |j| b[j]);
            let stride = if own == 1 { 0 } else { step };
            step *= own;
            if size == 1 {
                continue;
            }
            match dims.last_mut() {
                // Neighbours that b walks through evenly are one dimension.
                Some((inner, s)) if stride == *s * *inner => *inner *= size,
                _ => dims.push((size, stride)),
            }
        }
        let (width, stride) = dims.first().copied().unwrap_or((1, 1));
        Self {
            width: width.max(1),
            constant: stride == 0,
            outer: dims.get(1..).unwrap_or_default().to_vec(),
        }
    }

    /// Where in `b` the row begins.
    #[inline(always)]
    fn start(&self, mut row: usize) -> usize {
        let mut at = 0;
        for &(size, stride) in &self.outer {
            at += row % size * stride;
            row /= size;
        }
        at
    }

    /// `f(a, b)` for every element of `a`.
    fn map<T: Real>(&self, a: &[T], b: &[T], f: impl Fn(T, T) -> T + Copy + Sync) -> Vec<T> {
        let width = self.width;
        if self.outer.is_empty() && !self.constant {
            return map2(a, b, f);
        }
        fresh(a.len(), |y| {
            if self.outer.is_empty() {
                let b = b[0];
                return for_pieces(
                    y,
                    #[inline(always)]
                    |first, y| {
                        let a = &a[first..first + y.len()];
                        for (y, &a) in y.iter_mut().zip(a) {
                            *y = f(a, b);
                        }
                    },
                );
            }
            for_rows(y, width, |first, rows| {
                simd(
                    #[inline(always)]
                    || {
                        let a = a[first * width..][..rows.len()].chunks_exact(width);
                        for (i, (y, a)) in rows.chunks_exact_mut(width).zip(a).enumerate() {
                            let at = self.start(first + i);
                            if self.constant {
                                let b = b[at];
                                for (y, &a) in y.iter_mut().zip(a) {
                                    *y = f(a, b);
                                }
                            } else {
                                let b = &b[at..at + width];
                                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                                    *y = f(a, b);
                                }
                            }
                        }
                    },
                );
            });
        })
    }

    /// The gradient of `b`, of `n` elements: the sums of `g`, or of `g · a`, over its copies.
    fn fold<T: Real>(&self, g: &[T], a: Option<&[T]>, n: usize) -> Vec<T> {
        let width = self.width;
        accumulate(
            g.len() / width,
            n,
            #[inline(always)]
            |rows, total| {
                for row in rows {
                    let at = self.start(row);
                    let g = &g[row * width..][..width];
                    let a = a.map(|a| &a[row * width..][..width]);
                    match (self.constant, a) {
                        (true, None) => total[at] += sum(g),
                        (true, Some(a)) => total[at] += sum2(g, a, |g, a| g * a),
                        (false, None) => {
                            for (t, &g) in total[at..at + width].iter_mut().zip(g) {
                                *t += g;
                            }
                        }
                        (false, Some(a)) => {
                            for ((t, &g), &a) in total[at..at + width].iter_mut().zip(g).zip(a) {
                                *t += g * a;
                            }
                        }
                    }
                }
            },
        )
    }
}

fn add_kernel<T: Real>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let repeat = Repeat::new(a.dims(), b.dims());
    let small = dense(b)?;
    let y = {
        let large = dense(a)?;
        repeat.map(
            &view::<T>(&large)?,
            &view::<T>(&small)?,
            #[inline(always)]
            |a, b| a + b,
        )
    };
    // Only its shape is needed below.
    let (shape, n) = (small.shape().clone(), small.elem_count());
    drop(small);
    record("add", [Some(a), Some(b)], y, a.shape(), move |back| {
        let [of_a, of_b] = back.needs;
        let db = match of_b {
            false => None,
            true if n == back.grad.elem_count() => Some(back.grad.reshape(&shape)?),
            true => {
                let db = repeat.fold(&view::<T>(back.grad)?, None, n);
                Some(Tensor::from_vec(db, &shape, back.grad.device())?)
            }
        };
        Ok([of_a.then(|| back.grad.clone()), db])
    })
}

fn mul_kernel<T: Real>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let repeat = Repeat::new(a.dims(), b.dims());
    let (large, small) = (dense(a)?, dense(b)?);
    let y = repeat.map(
        &view::<T>(&large)?,
        &view::<T>(&small)?,
        #[inline(always)]
        |a, b| a * b,
    );
    // A factor is kept only for the gradient of the other.
    let shape = small.shape().clone();
    let large = b.track_op().then_some(large);
    let small = a.track_op().then_some(small);
    record("mul", [Some(a), Some(b)], y, a.shape(), move |back| {
        let g = view::<T>(back.grad)?;
        let da = match &small {
            None => None,
            Some(b) => shaped(
                repeat.map(
                    &g,
                    &view::<T>(b)?,
                    #[inline(always)]
                    |g, b| g * b,
                ),
                back.grad,
            )?,
        };
        let db = match &large {
            None => None,
            Some(a) => {
                let db = repeat.fold(&g, Some(&view::<T>(a)?), shape.elem_count());
                Some(Tensor::from_vec(db, &shape, back.grad.device())?)
            }
        };
        Ok([da, db])
    })
}

fn expect(op: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    let fits = b.rank() <= a.rank()
        && b.dims()
            .iter()
            .rev()
            .zip(a.dims().iter().rev())
            .all(|(&b, &a)| b == a || b == 1);
    require(fits, op, "b of the shape of a, or repeated to it", &[a, b])
}

/// `a + b`, where `b` has the shape of `a` or is repeated to it as numpy does.
///
/// # Errors
/// `b` cannot be repeated to the shape of `a`.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect("add", a, b)?;
    choose!(
        "add",
        &[a, b],
        add_kernel(a, b),
        replay("add", [a, b], |[a, b]| a.broadcast_add(b))
    )
}

/// `a · b` element by element, where `b` has the shape of `a` or is repeated to it as numpy does.
///
/// # Errors
/// `b` cannot be repeated to the shape of `a`.
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect("mul", a, b)?;
    choose!(
        "mul",
        &[a, b],
        mul_kernel(a, b),
        replay("mul", [a, b], |[a, b]| a.broadcast_mul(b))
    )
}
