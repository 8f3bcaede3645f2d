//! Loops over slices: vectorised, in parallel, cut into pieces of fixed size.
//!
//! The pieces depend on the sizes alone, never on the number of threads, and partial sums are
//! added in their order: the same data give the same bits.

use rayon::prelude::*;

use super::real::Real;

/// Elements that are worth a task of their own.
pub(super) const PIECE: usize = 16 * 1024;

/// Partial sums of a reduction: enough to keep processors busy, few enough to add up.
const PARTS: usize = 32;

/// Runs `f` compiled for the best vector instructions of this processor.
#[inline(always)]
pub(super) fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// A vector of `n` elements that `write` fills.
///
/// `write` must store every element and read none before. The memory is not cleared first,
/// since that costs as much as many of the operations.
pub(super) fn fresh<T: Real>(n: usize, write: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut data = Vec::with_capacity(n);
    // SAFETY: the allocation holds n elements of T, which is f32 or f64: every bit pattern is a
    // value, and dropping one does nothing. `write` stores all of them before any is read.
    unsafe {
        write(std::slice::from_raw_parts_mut(data.as_mut_ptr(), n));
        data.set_len(n);
    }
    data
}

/// Rows of `width` elements that make up about one piece; at least one.
pub(super) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Calls `f(first row, rows)` for runs of rows of `width` elements, in parallel.
pub(super) fn for_rows<T: Real>(data: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let rows = rows_per_piece(width);
    if data.len() <= rows * width {
        if !data.is_empty() {
            f(0, data);
        }
        return;
    }
    data.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(i, rows_of_piece)| f(i * rows, rows_of_piece));
}

/// Calls `f(first index, piece)` for all pieces, in parallel and vectorised.
pub(super) fn for_pieces<T: Real>(data: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    for_rows(data, 1, |first, piece| {
        simd(
            #[inline(always)]
            || f(first, piece),
        )
    });
}

/// `f` of every element.
pub(super) fn map<T: Real>(x: &[T], f: impl Fn(T) -> T + Copy + Sync) -> Vec<T> {
    fresh(x.len(), |y| {
        for_pieces(
            y,
            #[inline(always)]
            |first, y| {
                // A copy on the stack: what `f` captured cannot overlap `y`.
                let own = f;
                let x = &x[first..first + y.len()];
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = own(x);
                }
            },
        );
    })
}

/// `f` of every pair of elements.
pub(super) fn map2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Copy + Sync) -> Vec<T> {
    fresh(a.len(), |y| {
        for_pieces(
            y,
            #[inline(always)]
            |first, y| {
                let own = f;
                let a = &a[first..first + y.len()];
                let b = &b[first..first + y.len()];
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = own(a, b);
                }
            },
        );
    })
}

/// Independent sums, so that an addition need not wait for the one before.
pub(super) const LANES: usize = 32;

#[inline(always)]
pub(super) fn fold<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum of a slice.
#[inline(always)]
pub(super) fn sum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    fold(lanes)
}

/// The sum of `f(a, b)` over pairs.
#[inline(always)]
pub(super) fn sum2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for j in 0..LANES {
            lanes[j] += f(a[j], b[j]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(rest_a).zip(rest_b) {
        *lane += f(a, b);
    }
    fold(lanes)
}

/// The largest element. Numbers that are none may be passed over.
#[inline(always)]
pub(super) fn maximum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::NEGATIVE_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = lane.larger(x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = lanes[i].larger(lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sums `width` totals over `rows` rows: `f(rows, totals)` adds its share of them.
pub(super) fn accumulate<T: Real>(
    rows: usize,
    width: usize,
    f: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync,
) -> Vec<T> {
    let share = rows
        .div_ceil(PARTS)
        .max(rows_per_piece(width.max(1)))
        .max(1);
    if rows <= share {
        let mut total = vec![T::ZERO; width];
        simd(
            #[inline(always)]
            || f(0..rows, &mut total),
        );
        return total;
    }
    let parts: Vec<Vec<T>> = (0..rows.div_ceil(share))
        .into_par_iter()
        .map(|i| {
            let mut part = vec![T::ZERO; width];
            simd(
                #[inline(always)]
                || f(i * share..rows.min((i + 1) * share), &mut part),
            );
            part
        })
        .collect();
    fresh(width, |total| {
        for_pieces(total, |first, total| {
            let n = total.len();
            total.copy_from_slice(&parts[0][first..first + n]);
            for part in &parts[1..] {
                for (t, &p) in total.iter_mut().zip(&part[first..first + n]) {
                    *t += p;
                }
            }
        });
    })
}

/// The sum over the rows of a matrix of `width` columns.
pub(super) fn column_sums<T: Real>(x: &[T], width: usize) -> Vec<T> {
    accumulate(
        x.len() / width.max(1),
        width,
        #[inline(always)]
        |rows, total| {
            for row in x[rows.start * width..rows.end * width].chunks_exact(width) {
                for (t, &x) in total.iter_mut().zip(row) {
                    *t += x;
                }
            }
        },
    )
}
