//! Frozen matrices in the order in which a product reads them.
//!
//! Owns the panels and the product on them. A general product copies the weight into panels at
//! every call; a frozen weight is copied once. Other processors than x86-64 with AVX2 are not
//! served.

use candle_core::{DType, Device, Result};
use rayon::prelude::*;

use super::record::view;
use crate::frozen::Frozen;

/// Rows of `x` that a worker takes at a time, and elements of each: together they fill the
/// second-level cache. The sums are cut at `DEPTH`, whatever the number of threads.
const ROWS: usize = 240;
const DEPTH: usize = 384;

/// The bias of a tile that has none.
static ZEROS: [f32; 32] = [0.; 32];

/// A weight `[N,K]` in panels of some of its rows, each of which lists, for every `k`, the
/// elements of its rows.
#[derive(Debug)]
pub struct Packed {
    panels: Vec<f32>,
    n: usize,
    k: usize,
    tile: Tile,
}

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

impl Packed {
    /// Packs a weight `[N,K]`; `None` where it is no matrix or this processor has no kernel.
    ///
    /// # Errors
    /// The weight cannot be had in `f32`.
    pub fn of(w: &Frozen) -> Result<Option<Self>> {
        let (Some(tile), &[n, k]) = (Tile::best(), w.shape().dims()) else {
            return Ok(None);
        };
        if n * k == 0 {
            return Ok(None);
        }
        if let Some(in_place) = w.as_f32() {
            return Ok(Some(Self::pack(in_place, n, k, tile)));
        }
        let dense = w.convert(DType::F32, &Device::Cpu)?;
        Ok(Some(Self::pack(&view::<f32>(&dense)?, n, k, tile)))
    }

    fn pack(w: &[f32], n: usize, k: usize, tile: Tile) -> Self {
        let width = tile.columns;
        let mut panels = vec![0.; n.div_ceil(width) * width * k];
        panels
            .par_chunks_exact_mut(width * k)
            .zip(w.par_chunks(width * k))
            .for_each(|(panel, rows)| {
                for (j, row) in rows.chunks_exact(k).enumerate() {
                    for (to, &w) in panel[j..].iter_mut().step_by(width).zip(row) {
                        *to = w;
                    }
                }
            });
        Self { panels, n, k, tile }
    }

    /// `x [M,K] · Wᵀ + bias`.
    pub(super) fn product(&self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
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
        rows: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        tiles: Tiles,
    ) {
        let (n, k, width, high) = (self.n, self.k, self.tile.columns, self.tile.rows);
        let mut packed = vec![0f32; rows.len().div_ceil(high) * high * DEPTH.min(k)];
        let mut edge = vec![0f32; high * width];
        for cut in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - cut);
            pack_rows(x, rows.clone(), k, cut..cut + depth, high, &mut packed);
            for panel in panels.clone() {
                let b = &self.panels[(panel * k + cut) * width..][..depth * width];
                let bias = (cut == 0).then(|| start[panel * width..][..width].as_ptr());
                let own = width.min(n - panel * width);
                for (i, first) in rows.clone().step_by(high).enumerate() {
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
}

/// The columns `cut` of some rows of `x`, for each `high` rows transposed.
fn pack_rows(
    x: &[f32],
    rows: std::ops::Range<usize>,
    k: usize,
    cut: std::ops::Range<usize>,
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

#[cfg(not(target_arch = "x86_64"))]
impl Tile {
    fn best() -> Option<Self> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
impl Tile {
    fn best() -> Option<Self> {
        if is_x86_feature_detected!("avx512f") {
            Some(x86::WIDE)
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Some(x86::NARROW)
        } else {
            None
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The micro-kernels. Two vectors per row, and as many rows as leave registers for the rest.

    use std::arch::x86_64::*;

    use super::Tile;

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

    #[test]
    fn every_tile_and_edge_gives_the_product() {
        let mut tiles = vec![];
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            tiles.push(x86::NARROW);
        }
        tiles.extend(Tile::best());
        for tile in tiles {
            for (m, n, k) in [
                (1, 1, 1),
                (5, 33, 7),
                (13, 32, 400),
                (253, 70, 5),
                (12, 15, 769),
            ] {
                let (x, w, b) = (numbers(m * k), numbers(n * k), numbers(n));
                let packed = Packed::pack(&w, n, k, tile);
                let (with, without) = (packed.product(&x, Some(&b)), packed.product(&x, None));
                for i in 0..m {
                    for j in 0..n {
                        let row = x[i * k..][..k].iter().zip(&w[j * k..][..k]);
                        let exact: f64 = row.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        // A few roundings of the partial sums.
                        let near =
                            |y: f32, y0: f64| (f64::from(y) - y0).abs() < 1e-6 * y0.abs().max(50.);
                        let y = without[i * n + j];
                        assert!(near(y, exact), "{tile:?} {m} {n} {k}: {y} {exact}");
                        assert!(near(with[i * n + j], exact + f64::from(b[j])));
                    }
                }
            }
        }
    }
}
