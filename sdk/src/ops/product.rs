//! Matrix products on slices with strides.
//!
//! Owns the bounds checks in front of the `gemm` crate.

use candle_core::DType;
use gemm::Parallelism;

use super::real::Real;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

fn fits(len: usize, rows: usize, columns: usize, row: usize, column: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < len
}

impl<'a, T> Matrix<'a, T> {
    /// Row-major, `width` elements from one row to the next.
    pub(super) fn new(data: &'a [T], rows: usize, columns: usize, width: usize) -> Self {
        assert!(fits(data.len(), rows, columns, width, 1));
        Self {
            data,
            rows,
            columns,
            row: width,
            column: 1,
        }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row: self.column,
            column: self.row,
            ..self
        }
    }
}

/// Where a product goes: row-major, `width` elements from one row to the next.
pub(super) struct Target<'a, T> {
    pub data: &'a mut [T],
    pub width: usize,
    /// Add to what is there, instead of overwriting it.
    pub add: bool,
}

impl<'a, T> Target<'a, T> {
    pub(super) fn overwrite(data: &'a mut [T], width: usize) -> Self {
        Self {
            data,
            width,
            add: false,
        }
    }

    pub(super) fn add(data: &'a mut [T], width: usize) -> Self {
        Self {
            data,
            width,
            add: true,
        }
    }
}

/// Who multiplies.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// The calling thread, which is one of many.
    One,
    /// All of rayon's.
    All,
}

/// `scale · a · b`.
pub(super) fn product<T: Real>(
    to: Target<T>,
    scale: T,
    a: Matrix<T>,
    b: Matrix<T>,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(a.columns, b.rows);
    assert!(fits(to.data.len(), m, n, to.width, 1));
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = match threads {
        // Below this a second thread costs more than it brings.
        Threads::All if m * n * k > 64 * 64 * 64 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    // SAFETY: `Matrix::new` and the assertions above keep every accessed element inside the three
    // slices, and the target is borrowed mutably, so it overlaps neither factor. T is f32 or
    // f64, the only types for which `Real` is implemented.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to.data.as_mut_ptr(),
            1,
            to.width as isize,
            to.add,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
    debug_assert!(matches!(T::DTYPE, DType::F32 | DType::F64));
}
