//! The product with a frozen matrix, read where it lies.
//!
//! Owns the blocking and the micro-kernels. The weight stays in its rows and in its element type,
//! usually in a mapped file: a worker turns a few rows of it into a panel of `f32`, which fits its
//! cache, and uses that for all its rows of `x`. Other processors than x86-64 with AVX2 are not
//! served.

use std::ops::Range;

use candle_core::Result;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::frozen::{Elements, Frozen};

/// Rows of `x` that a worker takes at a time, and elements of each: together they fill the
/// second-level cache. The sums are cut at `DEPTH`, whatever the number of threads.
const ROWS: usize = 240;
const DEPTH: usize = 384;

/// Rows and columns of the blocks in which a weight is turned.
const BLOCK: usize = 8;

/// The bias of a tile that has none.
static ZEROS: [f32; 32] = [0.; 32];

/// A micro-kernel: `rows` by `columns` sums that stay in registers.
#[derive(Clone, Copy, Debug)]
struct Tile {
    rows: usize,
    columns: usize,
    run: Run,
}

/// `(rows, a, b, depth, bias, to, width)`: adds the product of `a [depth, rows of the tile]`
/// (transposed) and `b [depth, columns]` to `rows` rows of `to`, or with a bias starts them.
type Run = unsafe fn(usize, *const f32, *const f32, usize, Option<*const f32>, *mut f32, usize);

/// An element type that weights are read in.
trait Element: Copy + Sync {
    fn wide(self) -> f32;

    /// Transposes [`BLOCK`] rows of `from`, `k` elements apart, `blocks` blocks of their columns,
    /// to `to [columns, width]`.
    ///
    /// # Safety
    /// The elements lie within their allocations, and the processor has a [`Tile`].
    unsafe fn turn(from: *const Self, k: usize, blocks: usize, to: *mut f32, width: usize);
}

/// Where the workers write; each to its own tiles.
#[derive(Clone, Copy)]
struct Tiles(*mut f32);

// SAFETY: `product` gives every worker tiles of its own.
unsafe impl Send for Tiles {}
// SAFETY: as above.
unsafe impl Sync for Tiles {}

impl Tiles {
    /// The pointer to an element.
    ///
    /// # Safety
    /// It lies in the result.
    unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

/// `x [M,K] · Wᵀ + bias` for a weight `[N,K]`; `None` where it is no matrix or this processor has
/// no kernel.
///
/// # Errors
/// The weight cannot be had in a type that products read.
pub(super) fn product(w: &Frozen, x: &[f32], bias: Option<&[f32]>) -> Result<Option<Vec<f32>>> {
    let (Some(tile), &[n, k]) = (Tile::best(), w.shape().dims()) else {
        return Ok(None);
    };
    if n * k == 0 {
        return Ok(None);
    }
    let y = w.with_elements(|elements| match elements {
        Elements::F32(w) => Rows { w, n, k, tile }.product(x, bias),
        Elements::F16(w) => Rows { w, n, k, tile }.product(x, bias),
        Elements::BF16(w) => Rows { w, n, k, tile }.product(x, bias),
    })?;
    Ok(Some(y))
}

/// A weight `[N,K]`, row by row.
struct Rows<'a, T> {
    w: &'a [T],
    n: usize,
    k: usize,
    tile: Tile,
}

impl<T: Element> Rows<'_, T> {
    fn product(&self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (n, k, width) = (self.n, self.k, self.tile.columns);
        let m = x.len() / k;
        let panels = n.div_ceil(width);
        let mut start = bias.unwrap_or_default().to_vec();
        start.resize(panels * width, 0.);
        // Enough pieces for every thread; a piece of columns re-packs its rows of x, so it should
        // not be narrow.
        let blocks = m.div_ceil(ROWS);
        let wanted = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
        let group = panels.div_ceil(wanted).max(4);
        let groups = panels.div_ceil(group);
        let mut y = Vec::with_capacity(m * n);
        let tiles = Tiles(y.as_mut_ptr());
        (0..blocks * groups).into_par_iter().for_each(|piece| {
            let rows = piece / groups * ROWS..m.min((piece / groups + 1) * ROWS);
            let columns = piece % groups * group..panels.min((piece % groups + 1) * group);
            // SAFETY: the pieces cover the result and do not overlap; y has room for m · n.
            unsafe { self.piece(x, &start, rows, columns, tiles) };
        });
        // SAFETY: every element was written: the first cut of the depth starts each tile.
        unsafe { y.set_len(m * n) };
        y
    }

    /// The panels `panels` of the rows `rows`.
    ///
    /// # Safety
    /// `tiles` has room for all rows and columns, and nobody else writes to these.
    unsafe fn piece(
        &self,
        x: &[f32],
        start: &[f32],
        rows: Range<usize>,
        panels: Range<usize>,
        tiles: Tiles,
    ) {
        let (n, k, width, high) = (self.n, self.k, self.tile.columns, self.tile.rows);
        let mut packed = vec![0f32; rows.len().div_ceil(high) * high * DEPTH.min(k)];
        let mut turned = vec![0f32; width * DEPTH.min(k)];
        let mut edge = vec![0f32; high * width];
        // Rows of the next panel that are fetched beside each tile of this one.
        let ahead = width.div_ceil(rows.len().div_ceil(high).max(1));
        for cut in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - cut);
            pack_rows(x, rows.clone(), k, cut..cut + depth, high, &mut packed);
            for panel in panels.clone() {
                let own = width.min(n - panel * width);
                let b = &mut turned[..depth * width];
                self.turn(panel * width..panel * width + own, cut..cut + depth, b);
                let bias = (cut == 0).then(|| start[panel * width..][..width].as_ptr());
                let mut next = ((panel + 1) * width..n.min((panel + 2) * width))
                    .filter(|_| panel + 1 < panels.end);
                for (i, first) in rows.clone().step_by(high).enumerate() {
                    for row in next.by_ref().take(ahead) {
                        self.fetch(row, cut..cut + depth);
                    }
                    let a = packed[i * high * depth..][..high * depth].as_ptr();
                    let count = high.min(rows.end - first);
                    // SAFETY: a and b hold `depth` rows of the tile's sizes, bias one; the tile of
                    // `count` rows lies in the result, or in `edge` where the last panel is
                    // wider than it.
                    unsafe {
                        let to = tiles.at(first * n + panel * width);
                        if own == width {
                            (self.tile.run)(count, a, b.as_ptr(), depth, bias, to, n);
                            continue;
                        }
                        (self.tile.run)(
                            count,
                            a,
                            b.as_ptr(),
                            depth,
                            Some(bias.unwrap_or(ZEROS.as_ptr())),
                            edge.as_mut_ptr(),
                            width,
                        );
                        for (row, sums) in edge.chunks_exact(width).take(count).enumerate() {
                            for (j, &sum) in sums[..own].iter().enumerate() {
                                let to = tiles.at((first + row) * n + panel * width + j);
                                to.write(if cut == 0 { sum } else { to.read() + sum });
                            }
                        }
                    }
                }
            }
        }
    }

    /// Asks for the columns `cut` of a row, which will be read soon.
    fn fetch(&self, row: usize, cut: Range<usize>) {
        const LINE: usize = 64;
        let elements = &self.w[row * self.k..][cut];
        for line in elements.chunks((LINE / size_of::<T>()).max(1)) {
            kernels::fetch(line.as_ptr());
        }
    }

    /// The columns `cut` of the rows `rows`, transposed to `to [cut, width of the tile]`; zeros
    /// for the rows that a whole panel would have besides.
    fn turn(&self, rows: Range<usize>, cut: Range<usize>, to: &mut [f32]) {
        let (k, width) = (self.k, self.tile.columns);
        if rows.len() < width {
            to.fill(0.);
        }
        for j in (0..rows.len()).step_by(BLOCK) {
            let high = BLOCK.min(rows.len() - j);
            let w = &self.w[(rows.start + j) * k..][..high * k];
            let blocks = if high == BLOCK { cut.len() / BLOCK } else { 0 };
            // SAFETY: `w` holds a block's rows and `to` all columns of the cut.
            unsafe {
                T::turn(
                    w[cut.start..].as_ptr(),
                    k,
                    blocks,
                    to[j..].as_mut_ptr(),
                    width,
                )
            };
            for (i, row) in w.chunks_exact(k).enumerate() {
                let rest = blocks * BLOCK..cut.len();
                for (column, &w) in rest.clone().zip(&row[cut.clone()][rest]) {
                    to[column * width + j + i] = w.wide();
                }
            }
        }
    }
}

/// The columns `cut` of some rows of `x`, for each `high` rows transposed.
fn pack_rows(
    x: &[f32],
    rows: Range<usize>,
    k: usize,
    cut: Range<usize>,
    high: usize,
    to: &mut [f32],
) {
    let depth = cut.len();
    for (i, first) in rows.clone().step_by(high).enumerate() {
        let to = &mut to[i * high * depth..][..high * depth];
        for (j, row) in (first..rows.end.min(first + high)).enumerate() {
            let from = &x[row * k + cut.start..][..depth];
            for (to, &x) in to[j..].iter_mut().step_by(high).zip(from) {
                *to = x;
            }
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn turn(from: *const Self, k: usize, blocks: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promises are passed on.
        unsafe { kernels::turn_f32(from, k, blocks, to, width) }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn turn(from: *const Self, k: usize, blocks: usize, to: *mut f32, width: usize) {
        // SAFETY: as above; an f16 is its 16 bits.
        unsafe { kernels::turn_f16(from.cast(), k, blocks, to, width) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn turn(from: *const Self, k: usize, blocks: usize, to: *mut f32, width: usize) {
        // SAFETY: as above; a bf16 is its 16 bits.
        unsafe { kernels::turn_bf16(from.cast(), k, blocks, to, width) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Tile {
    fn best() -> Option<Self> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
impl Tile {
    fn best() -> Option<Self> {
        if !(is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        {
            None
        } else if is_x86_feature_detected!("avx512f") {
            Some(kernels::WIDE)
        } else {
            Some(kernels::NARROW)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod kernels {
    //! None: no tile is ever made here.

    pub(super) fn fetch<T>(_: *const T) {}
    pub(super) unsafe fn turn_f32(_: *const f32, _: usize, _: usize, _: *mut f32, _: usize) {}
    pub(super) unsafe fn turn_f16(_: *const u16, _: usize, _: usize, _: *mut f32, _: usize) {}
    pub(super) unsafe fn turn_bf16(_: *const u16, _: usize, _: usize, _: *mut f32, _: usize) {}
}

#[cfg(target_arch = "x86_64")]
mod kernels {
    //! The micro-kernels, with two vectors per row and as many rows as leave registers for the
    //! rest; and the transposition of blocks of 8 by 8.

    use std::arch::x86_64::*;

    use super::{BLOCK, Tile};

    macro_rules! tile {
        ($name:ident, $kernel:ident, $feature:literal, $rows:literal, $lanes:literal,
         $zero:ident, $load:ident, $store:ident, $all:ident, $fma:ident, $add:ident,
         [$($count:literal)*]) => {
            #[target_feature(enable = $feature)]
            unsafe fn $kernel<const M: usize>(
                a: *const f32,
                b: *const f32,
                depth: usize,
                bias: Option<*const f32>,
                to: *mut f32,
                width: usize,
            ) {
                // SAFETY: the caller gives `depth` rows of a and b, a bias of two vectors, and M
                // rows of two vectors to write to.
                unsafe {
                    let mut sums = [[$zero(); 2]; M];
                    for i in 0..depth {
                        let b = b.add(i * 2 * $lanes);
                        let (low, high) = ($load(b), $load(b.add($lanes)));
                        for (j, sums) in sums.iter_mut().enumerate() {
                            let x = $all(*a.add(i * $rows + j));
                            sums[0] = $fma(x, low, sums[0]);
                            sums[1] = $fma(x, high, sums[1]);
                        }
                    }
                    for (j, sums) in sums.iter().enumerate() {
                        let to = to.add(j * width);
                        let from = bias.unwrap_or(to);
                        $store(to, $add($load(from), sums[0]));
                        $store(to.add($lanes), $add($load(from.add($lanes)), sums[1]));
                    }
                }
            }

            #[target_feature(enable = $feature)]
            unsafe fn $name(
                rows: usize,
                a: *const f32,
                b: *const f32,
                depth: usize,
                bias: Option<*const f32>,
                to: *mut f32,
                width: usize,
            ) {
                // SAFETY: the caller's promises are passed on.
                unsafe {
                    match rows {
                        $($count => $kernel::<$count>(a, b, depth, bias, to, width),)*
                        _ => unreachable!("a tile has at most {} rows", $rows),
                    }
                }
            }
        };
    }

    tile!(wide, wide_rows, "avx512f", 12, 16, _mm512_setzero_ps, _mm512_loadu_ps,
        _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps,
        [1 2 3 4 5 6 7 8 9 10 11 12]);
    tile!(narrow, narrow_rows, "avx2,fma", 6, 8, _mm256_setzero_ps, _mm256_loadu_ps,
        _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps,
        [1 2 3 4 5 6]);

    /// Asks for the line of the cache at `place`.
    pub(super) fn fetch<T>(place: *const T) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
    }

    /// Rows of eight to columns of eight: pairs, then fours, then halves change places.
    #[target_feature(enable = "avx2")]
    fn transposed(r: [__m256; BLOCK]) -> [__m256; BLOCK] {
        let pair = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let four = |a, b| {
            (
                _mm256_shuffle_ps::<0b01_00_01_00>(a, b),
                _mm256_shuffle_ps::<0b11_10_11_10>(a, b),
            )
        };
        let ((a0, a1), (b0, b1)) = (pair(r[0], r[1]), pair(r[2], r[3]));
        let ((c0, c1), (d0, d1)) = (pair(r[4], r[5]), pair(r[6], r[7]));
        let ((e0, e1), (e2, e3)) = (four(a0, b0), four(a1, b1));
        let ((f0, f1), (f2, f3)) = (four(c0, d0), four(c1, d1));
        let low = |a, b| _mm256_permute2f128_ps::<0x20>(a, b);
        let high = |a, b| _mm256_permute2f128_ps::<0x31>(a, b);
        [
            low(e0, f0),
            low(e1, f1),
            low(e2, f2),
            low(e3, f3),
            high(e0, f0),
            high(e1, f1),
            high(e2, f2),
            high(e3, f3),
        ]
    }

    macro_rules! turn {
        ($name:ident, $element:ty, $load:expr) => {
            /// What [`Element::turn`](super::Element::turn) does.
            ///
            /// # Safety
            /// As there.
            #[target_feature(enable = "avx2,f16c")]
            pub(super) unsafe fn $name(
                from: *const $element,
                k: usize,
                blocks: usize,
                to: *mut f32,
                width: usize,
            ) {
                for block in 0..blocks {
                    let mut rows = [_mm256_setzero_ps(); BLOCK];
                    for (i, row) in rows.iter_mut().enumerate() {
                        // SAFETY: the caller gives eight rows of `blocks` blocks.
                        *row = unsafe { $load(from.add(i * k + block * BLOCK)) };
                    }
                    for (i, column) in transposed(rows).into_iter().enumerate() {
                        // SAFETY: and room for as many columns, `width` apart.
                        unsafe { _mm256_storeu_ps(to.add((block * BLOCK + i) * width), column) };
                    }
                }
            }
        };
    }

    turn!(turn_f32, f32, _mm256_loadu_ps);
    turn!(turn_f16, u16, |from: *const u16| _mm256_cvtph_ps(
        _mm_loadu_si128(from.cast())
    ));
    turn!(turn_bf16, u16, |from: *const u16| _mm256_castsi256_ps(
        _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))
    ));

    pub(super) const WIDE: Tile = Tile {
        rows: 12,
        columns: 32,
        run: wide,
    };
    pub(super) const NARROW: Tile = Tile {
        rows: 6,
        columns: 16,
        run: narrow,
    };
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919) % 1000) as f32 / 500. - 1.)
            .collect()
    }

    /// The product of `w` on `tile` against the sums of its values in double precision.
    fn check<T: Element>(w: &[T], (m, n, k): (usize, usize, usize), tile: Tile) {
        let (x, b) = (numbers(m * k), numbers(n));
        let rows = Rows { w, n, k, tile };
        let (with, without) = (rows.product(&x, Some(&b)), rows.product(&x, None));
        for i in 0..m {
            for j in 0..n {
                let row = x[i * k..][..k].iter().zip(&w[j * k..][..k]);
                let terms: Vec<f64> = row
                    .map(|(&a, &b)| f64::from(a) * f64::from(b.wide()))
                    .collect();
                let (exact, size) = (
                    terms.iter().sum::<f64>(),
                    terms.iter().map(|t| t.abs()).sum::<f64>(),
                );
                // A few roundings of the partial sums, none of which exceeds the sum of sizes.
                let most = 8.0 * f64::from(f32::EPSILON) * (size + f64::from(b[j]).abs());
                let near = |y: f32, y0: f64| (f64::from(y) - y0).abs() <= most;
                let y = without[i * n + j];
                assert!(near(y, exact), "{tile:?} {m} {n} {k}: {y} {exact}");
                assert!(near(with[i * n + j], exact + f64::from(b[j])));
            }
        }
    }

    #[test]
    fn every_tile_and_edge_gives_the_product() {
        let Some(best) = Tile::best() else {
            eprintln!("skipped: this processor has no kernel");
            return;
        };
        for tile in [kernels::NARROW, best] {
            for sizes in [
                (1, 1, 1),
                (5, 33, 7),
                (13, 32, 400),
                (253, 70, 5),
                (12, 15, 769),
                (3, 41, 1003),
            ] {
                let w = numbers(sizes.1 * sizes.2);
                check(&w, sizes, tile);
                let halves: Vec<f16> = w.iter().map(|w| f16::from_f32(*w)).collect();
                check(&halves, sizes, tile);
                let halves: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
                check(&halves, sizes, tile);
            }
        }
    }
}
