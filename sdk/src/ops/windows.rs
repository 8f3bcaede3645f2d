//! The windows that a kernel sees of a picture, as columns of a matrix.
//!
//! Owns the three products that convolutions and their transposes are made of. The matrix of
//! columns would be `kh·kw` pictures large, so it is made a band of window rows at a time. All
//! on one sample; knows no tensors.

use super::parallel::{for_rows, fresh};
use super::product::{Matrix, Target, Threads, product};
use super::real::Real;

/// Elements of one band of columns, at most (unless a single row of windows has more).
const BAND: usize = 4 << 20;

/// A picture `[channels, height, width]` and the grid `[rows, columns]` of windows on it.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Windows {
    /// Elements of a window.
    pub(super) fn depth(self) -> usize {
        self.channels * self.kernel.0 * self.kernel.1
    }

    /// How many windows there are.
    pub(super) fn count(self) -> usize {
        self.rows * self.columns
    }

    /// Elements of the picture.
    pub(super) fn area(self) -> usize {
        self.channels * self.height * self.width
    }

    /// The picture is the matrix of its windows.
    fn are_pixels(self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == 0
    }

    fn band(self) -> usize {
        (BAND / (self.depth() * self.columns).max(1)).clamp(1, self.rows.max(1))
    }

    /// First rows of the bands, and how many each has.
    fn bands(self) -> impl Iterator<Item = (usize, usize)> {
        let band = self.band();
        (0..self.rows)
            .step_by(band)
            .map(move |row| (row, band.min(self.rows - row)))
    }

    /// The windows of a row whose pixel at `offset` in the kernel lies in the picture.
    #[inline(always)]
    fn inside(self, offset: usize) -> std::ops::Range<usize> {
        let low = self.padding.saturating_sub(offset).div_ceil(self.stride);
        let end = (self.width + self.padding)
            .saturating_sub(offset)
            .div_ceil(self.stride)
            .min(self.columns);
        low.min(end)..end
    }

    /// The row of the picture that row `row` of windows sees at `offset`.
    #[inline(always)]
    fn line(self, row: usize, offset: usize) -> Option<usize> {
        (row * self.stride + offset)
            .checked_sub(self.padding)
            .filter(|&y| y < self.height)
    }

    /// Window rows `first..first + band` as the columns of `[depth, band · columns]`.
    fn unfold<T: Real>(self, image: &[T], first: usize, band: usize, to: &mut [T]) {
        let (kh, kw) = self.kernel;
        for_rows(to, band * self.columns, |start, lines| {
            for (i, line) in lines.chunks_exact_mut(band * self.columns).enumerate() {
                let at = start + i;
                let (c, ky, kx) = (at / (kh * kw), at / kw % kh, at % kw);
                let inside = self.inside(kx);
                for (j, to) in line.chunks_exact_mut(self.columns).enumerate() {
                    let Some(y) = self.line(first + j, ky) else {
                        to.fill(T::ZERO);
                        continue;
                    };
                    let from = &image[(c * self.height + y) * self.width..][..self.width];
                    to[..inside.start].fill(T::ZERO);
                    to[inside.end..].fill(T::ZERO);
                    if inside.is_empty() {
                        continue;
                    }
                    let from = &from[inside.start * self.stride + kx - self.padding..];
                    let to = &mut to[inside.clone()];
                    if self.stride == 1 {
                        to.copy_from_slice(&from[..to.len()]);
                    } else {
                        for (to, &x) in to.iter_mut().zip(from.iter().step_by(self.stride)) {
                            *to = x;
                        }
                    }
                }
            }
        });
    }

    /// The transpose of [`Self::unfold`]: adds every column to where it came from.
    fn fold<T: Real>(self, from: &[T], first: usize, band: usize, image: &mut [T]) {
        let (kh, kw) = self.kernel;
        let wide = band * self.columns;
        for_rows(image, self.height * self.width, |start, planes| {
            for (i, plane) in planes
                .chunks_exact_mut(self.height * self.width)
                .enumerate()
            {
                for k in 0..kh * kw {
                    let (ky, kx) = (k / kw, k % kw);
                    let inside = self.inside(kx);
                    if inside.is_empty() {
                        continue;
                    }
                    let columns = &from[((start + i) * kh * kw + k) * wide..][..wide];
                    for (j, from) in columns.chunks_exact(self.columns).enumerate() {
                        let Some(y) = self.line(first + j, ky) else {
                            continue;
                        };
                        let skip = inside.start * self.stride + kx - self.padding;
                        let to = &mut plane[y * self.width + skip..(y + 1) * self.width];
                        let from = &from[inside.clone()];
                        if self.stride == 1 {
                            for (to, &x) in to.iter_mut().zip(from) {
                                *to += x;
                            }
                        } else {
                            for (to, &x) in to.iter_mut().step_by(self.stride).zip(from) {
                                *to += x;
                            }
                        }
                    }
                }
            }
        });
    }

    /// `to [n, count] += w [n, depth] · windows`.
    pub(super) fn correlate<T: Real>(self, image: &[T], w: &[T], n: usize, to: &mut [T]) {
        let (depth, count) = (self.depth(), self.count());
        let w = Matrix::new(w, n, depth, depth);
        if self.are_pixels() {
            let image = Matrix::new(image, depth, count, count);
            return product(Target::add(to, count), T::ONE, w, image, Threads::All);
        }
        for (row, band) in self.bands() {
            let wide = band * self.columns;
            let columns = fresh(depth * wide, |c| self.unfold(image, row, band, c));
            let columns = Matrix::new(&columns, depth, wide, wide);
            let to = Target::add(&mut to[row * self.columns..], count);
            product(to, T::ONE, w, columns, Threads::All);
        }
    }

    /// `image += fold(wᵀ · g)` for `w [n, depth]` and `g [n, count]`: the transpose of
    /// [`Self::correlate`].
    pub(super) fn spread<T: Real>(self, g: &[T], w: &[T], n: usize, image: &mut [T]) {
        let (depth, count) = (self.depth(), self.count());
        let w = Matrix::new(w, n, depth, depth).t();
        if self.are_pixels() {
            let g = Matrix::new(g, n, count, count);
            return product(Target::add(image, count), T::ONE, w, g, Threads::All);
        }
        for (row, band) in self.bands() {
            let wide = band * self.columns;
            let g = Matrix::new(&g[row * self.columns..], n, wide, count);
            let columns = fresh(depth * wide, |c| {
                product(Target::overwrite(c, wide), T::ONE, w, g, Threads::All);
            });
            self.fold(&columns, row, band, image);
        }
    }

    /// `dw [n, depth] += g [n, count] · windowsᵀ`.
    pub(super) fn outer<T: Real>(self, g: &[T], image: &[T], n: usize, dw: &mut [T]) {
        let (depth, count) = (self.depth(), self.count());
        if self.are_pixels() {
            let g = Matrix::new(g, n, count, count);
            let image = Matrix::new(image, depth, count, count).t();
            return product(Target::add(dw, depth), T::ONE, g, image, Threads::All);
        }
        for (row, band) in self.bands() {
            let wide = band * self.columns;
            let g = Matrix::new(&g[row * self.columns..], n, wide, count);
            let columns = fresh(depth * wide, |c| self.unfold(image, row, band, c));
            let columns = Matrix::new(&columns, depth, wide, wide).t();
            product(Target::add(dw, depth), T::ONE, g, columns, Threads::All);
        }
    }
}
