//! Rows of a batch, in any order and number.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::check::{choose, require};
use super::composed;
use super::parallel::{for_rows, fresh, simd};
use super::real::Real;
use super::record::{dense, record, replay, view};

/// For every row of `x`, where it went: `places[starts[r]..starts[r + 1]]`, ascending.
fn inverse(rows: &[u32], count: usize) -> (Vec<usize>, Vec<usize>) {
    let mut starts = vec![0; count + 1];
    for &r in rows {
        starts[r as usize + 1] += 1;
    }
    for r in 0..count {
        starts[r + 1] += starts[r];
    }
    let mut next = starts.clone();
    let mut places = vec![0; rows.len()];
    for (place, &r) in rows.iter().enumerate() {
        places[next[r as usize]] = place;
        next[r as usize] += 1;
    }
    (starts, places)
}

/// Rows are long (a whole picture), so they are worked on in blocks.
const BLOCK: usize = 4096;

/// Calls `f(row, first column, block)` for all blocks of the rows of `data`.
fn for_blocks<T: Real>(data: &mut [T], width: usize, f: impl Fn(usize, usize, &mut [T]) + Sync) {
    if width < BLOCK {
        return for_rows(data, width, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                f(first + i, 0, row);
            }
        });
    }
    data.par_chunks_mut(width)
        .enumerate()
        .for_each(|(row, data)| {
            data.par_chunks_mut(BLOCK)
                .enumerate()
                .for_each(|(i, block)| f(row, i * BLOCK, block));
        });
}

fn kernel<T: Real>(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let plain = dense(x)?;
    let mut dims = x.dims().to_vec();
    let count = dims[0];
    let width: usize = dims[1..].iter().product();
    let y = {
        let xs = view::<T>(&plain)?;
        fresh(rows.len() * width, |y| {
            for_blocks(y, width, |row, column, y| {
                let from = rows[row] as usize * width + column;
                y.copy_from_slice(&xs[from..from + y.len()]);
            });
        })
    };
    let before = dims.clone();
    dims[0] = rows.len();
    let rows = rows.to_vec();
    record("select", [Some(x)], y, dims, move |b| {
        let gs = view::<T>(b.grad)?;
        let (starts, places) = inverse(&rows, count);
        let dx = fresh(count * width, |dx| {
            for_blocks(dx, width, |row, column, dx| {
                let places = &places[starts[row]..starts[row + 1]];
                let Some((&first, rest)) = places.split_first() else {
                    return dx.fill(T::ZERO);
                };
                let n = dx.len();
                dx.copy_from_slice(&gs[first * width + column..][..n]);
                simd(
                    #[inline(always)]
                    || {
                        for place in rest {
                            let g = &gs[place * width + column..][..n];
                            for (dx, &g) in dx.iter_mut().zip(g) {
                                *dx += g;
                            }
                        }
                    },
                );
            });
        });
        Ok([Some(Tensor::from_vec(dx, &before[..], b.grad.device())?)])
    })
}

/// The rows `rows` of the first dimension of `x`; a row may come many times, and its gradients
/// are then summed in the order of `rows`.
///
/// # Errors
/// A row that `x` does not have.
pub fn select(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let op = "select";
    let count = x.dims().first().copied().unwrap_or(0);
    let worst = rows.iter().max().map_or(0, |&r| r as usize + 1);
    require(
        x.rank() > 0 && worst <= count && !rows.is_empty(),
        op,
        &format!("{worst} rows"),
        &[x],
    )?;
    let kept = rows.to_vec();
    choose!(
        op,
        &[x],
        kernel(x, rows),
        replay(op, [x], move |[x]| composed::select(x, &kept))
    )
}
