//! Scaled dot-product attention over heads that are column slices.
//!
//! Owns masks and the softmax inside; projections belong to the caller.

use candle_core::{DType, Result, Tensor};

use rayon::prelude::*;

use super::check::{choose, require};
use super::parallel::{for_rows, fresh, simd, sum2};
use super::product::{Matrix, Target, Threads, product};
use super::real::Real;
use super::record::{dense, record, replay, view};
use super::softmax::{exponentials, inverse};
use super::{Dropout, composed};

/// Which keys a query may not see. The default hides nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mask<'a> {
    /// Query `i` of `N` sees keys up to `i + (M - N)`: keys put in front are seen by all.
    pub causal: bool,
    /// `u8 [B,M]`, 1 where a key is hidden from every query of that sample.
    pub padding: Option<&'a Tensor>,
}

/// Queries that are worked on together: their scores stay in the second-level cache.
const BLOCK: usize = 128;

/// One attention, without its data.
#[derive(Clone)]
struct Heads<T> {
    samples: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// Columns of `q` and `k`, and of `v`, over all heads.
    width: usize,
    value_width: usize,
    causal: bool,
    /// `[B,M]` of 0 and `-∞`, added to the scores.
    padding: Option<Vec<T>>,
    dropout: Dropout,
}

/// A block of queries of one head of one sample.
#[derive(Clone, Copy)]
struct Block {
    sample: usize,
    head: usize,
    first: usize,
    rows: usize,
    /// Keys that the last of the queries sees.
    keys: usize,
}

impl<T: Real> Heads<T> {
    fn block(&self, sample: usize, head: usize, first: usize) -> Block {
        let rows = BLOCK.min(self.queries - first);
        let keys = match self.causal {
            true => first + rows + self.keys - self.queries,
            false => self.keys,
        };
        Block {
            sample,
            head,
            first,
            rows,
            keys,
        }
    }

    fn scale(&self) -> T {
        T::of(1. / ((self.width / self.heads) as f64).sqrt())
    }

    /// The columns of one head of `rows` rows, from row `first` of a sample of `length` rows.
    fn head<'a>(
        &self,
        data: &'a [T],
        at: Block,
        (first, rows, length): (usize, usize, usize),
        width: usize,
    ) -> Matrix<'a, T> {
        let own = width / self.heads;
        let data = &data[(at.sample * length + first) * width + at.head * own..];
        Matrix::new(data, rows, own, width)
    }

    fn query_rows<'a>(&self, data: &'a [T], at: Block, width: usize) -> Matrix<'a, T> {
        self.head(data, at, (at.first, at.rows, self.queries), width)
    }

    fn key_rows<'a>(&self, data: &'a [T], at: Block, width: usize) -> Matrix<'a, T> {
        self.head(data, at, (0, at.keys, self.keys), width)
    }

    /// The masked scores of a block, `[rows, keys]`.
    fn scores(&self, q: &[T], k: &[T], at: Block, to: &mut [T]) {
        let (q, k) = (
            self.query_rows(q, at, self.width),
            self.key_rows(k, at, self.width),
        );
        let target = Target::overwrite(to, at.keys);
        product(target, self.scale(), q, k.t(), Threads::One);
        if let Some(padding) = &self.padding {
            let padding = &padding[at.sample * self.keys..][..at.keys];
            for row in to.chunks_exact_mut(at.keys) {
                for (score, &hidden) in row.iter_mut().zip(padding) {
                    *score += hidden;
                }
            }
        }
        if self.causal {
            for (i, row) in to.chunks_exact_mut(at.keys).enumerate() {
                row[at.first + i + 1 + self.keys - self.queries..].fill(T::NEGATIVE_INFINITY);
            }
        }
    }

    /// Applies dropout to row `i` of a block.
    #[inline(always)]
    fn drop(&self, at: Block, i: usize, row: &mut [T]) {
        if self.dropout.p > 0. {
            let line = (at.sample * self.heads + at.head) * self.queries + at.first + i;
            self.dropout.scale(line as u64 * self.keys as u64, row);
        }
    }

    /// The result `[B,N,Dv]`, and per query and head `[B,N,H]` the logarithm of the sum of the
    /// exponentials, from which the backward makes the probabilities again.
    fn forward(&self, q: &[T], k: &[T], v: &[T]) -> (Vec<T>, Vec<T>) {
        let (dv, heads, queries) = (self.value_width, self.heads, self.queries);
        let mut logs = vec![T::ZERO; self.samples * queries * heads];
        let y = fresh(self.samples * queries * dv, |y| {
            y.par_chunks_mut(queries * dv)
                .zip(logs.par_chunks_mut(queries * heads))
                .enumerate()
                .for_each(|(sample, (y, logs))| {
                    y.par_chunks_mut(BLOCK * dv)
                        .zip(logs.par_chunks_mut(BLOCK * heads))
                        .enumerate()
                        .for_each(|(i, (y, logs))| {
                            let mut scores = vec![T::ZERO; BLOCK.min(queries) * self.keys];
                            for head in 0..heads {
                                let at = self.block(sample, head, i * BLOCK);
                                let scores = &mut scores[..at.rows * at.keys];
                                self.scores(q, k, at, scores);
                                self.attend(at, scores, v, y, logs);
                            }
                        });
                });
        });
        (y, logs)
    }

    /// From the scores of a block to its rows of the result.
    fn attend(&self, at: Block, scores: &mut [T], v: &[T], y: &mut [T], logs: &mut [T]) {
        let own = self.value_width / self.heads;
        let mut shares = [T::ZERO; BLOCK];
        simd(
            #[inline(always)]
            || {
                for (i, row) in scores.chunks_exact_mut(at.keys).enumerate() {
                    let (sum, shift) = exponentials(row);
                    shares[i] = inverse(sum);
                    logs[i * self.heads + at.head] = match sum == T::ZERO {
                        true => -T::NEGATIVE_INFINITY,
                        false => shift + sum.natural_log(),
                    };
                    self.drop(at, i, row);
                }
            },
        );
        let y = &mut y[at.head * own..];
        let p = Matrix::new(scores, at.rows, at.keys, at.keys);
        let v = self.key_rows(v, at, self.value_width);
        let target = Target::overwrite(&mut *y, self.value_width);
        product(target, T::ONE, p, v, Threads::One);
        for (row, share) in y.chunks_mut(self.value_width).zip(shares) {
            for y in &mut row[..own] {
                *y *= share;
            }
        }
    }

    /// The gradients of one head of one sample, each in its own rows.
    fn backward(
        &self,
        saved: &Saved<T>,
        sample: usize,
        head: usize,
        needs: [bool; 3],
    ) -> [Vec<T>; 3] {
        let (own, own_v) = (self.width / self.heads, self.value_width / self.heads);
        let [of_q, of_k, of_v] = needs;
        let room = |needed: bool, n: usize| vec![T::ZERO; if needed { n } else { 0 }];
        let mut dq = room(of_q, self.queries * own);
        let mut dk = room(of_k, self.keys * own);
        let mut dv = room(of_v, self.keys * own_v);
        let space = BLOCK.min(self.queries) * self.keys;
        let (mut scores, mut slopes) = (vec![T::ZERO; space], vec![T::ZERO; space]);
        for first in (0..self.queries).step_by(BLOCK) {
            let at = self.block(sample, head, first);
            let p = &mut scores[..at.rows * at.keys];
            let ds = &mut slopes[..at.rows * at.keys];
            self.scores(saved.q, saved.k, at, p);
            let g = self.query_rows(saved.g, at, self.value_width);
            if of_q || of_k {
                let v = self.key_rows(saved.v, at, self.value_width);
                let target = Target::overwrite(&mut *ds, at.keys);
                product(target, T::ONE, g, v.t(), Threads::One);
            }
            simd(
                #[inline(always)]
                || {
                    let rows = p
                        .chunks_exact_mut(at.keys)
                        .zip(ds.chunks_exact_mut(at.keys));
                    for (i, (p, ds)) in rows.enumerate() {
                        let line = sample * self.queries + first + i;
                        let log = saved.logs[line * self.heads + head];
                        for p in p.iter_mut() {
                            *p = (*p - log).exponential();
                        }
                        if of_q || of_k {
                            let at_row = line * self.value_width + head * own_v;
                            let g = &saved.g[at_row..][..own_v];
                            let y = &saved.y[at_row..][..own_v];
                            let mean = sum2(g, y, |g, y| g * y);
                            self.drop(at, i, ds);
                            for (ds, &p) in ds.iter_mut().zip(p.iter()) {
                                *ds = p * (*ds - mean);
                            }
                        }
                        self.drop(at, i, p);
                    }
                },
            );
            let p = Matrix::new(p, at.rows, at.keys, at.keys);
            let ds = Matrix::new(ds, at.rows, at.keys, at.keys);
            if of_v {
                let target = Target::add(&mut dv, own_v);
                product(target, T::ONE, p.t(), g, Threads::One);
            }
            if of_q {
                let k = self.key_rows(saved.k, at, self.width);
                let target = Target::overwrite(&mut dq[first * own..], own);
                product(target, self.scale(), ds, k, Threads::One);
            }
            if of_k {
                let q = self.query_rows(saved.q, at, self.width);
                let target = Target::add(&mut dk, own);
                product(target, self.scale(), ds.t(), q, Threads::One);
            }
        }
        [dq, dk, dv]
    }

    /// Puts the heads' rows side by side: `[B,length,width]`.
    fn join(&self, parts: &[[Vec<T>; 3]], which: usize, length: usize, width: usize) -> Vec<T> {
        let own = width / self.heads;
        fresh(self.samples * length * width, |to| {
            for_rows(to, width, |first, rows| {
                for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                    let (sample, line) = ((first + i) / length, (first + i) % length);
                    for (head, to) in row.chunks_exact_mut(own).enumerate() {
                        let part = &parts[sample * self.heads + head][which];
                        to.copy_from_slice(&part[line * own..][..own]);
                    }
                }
            });
        })
    }
}

/// What the backward reads.
struct Saved<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    y: &'a [T],
    g: &'a [T],
    logs: &'a [T],
}

fn kernel<T: Real>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask,
    dropout: Dropout,
) -> Result<Tensor> {
    let (samples, queries, width) = q.dims3()?;
    let (_, keys, value_width) = v.dims3()?;
    let padding = match mask.padding {
        None => None,
        Some(p) => {
            let p = dense(p)?;
            let hidden = view::<u8>(&p)?;
            let weigh = |&h: &u8| {
                if h == 0 {
                    T::ZERO
                } else {
                    T::NEGATIVE_INFINITY
                }
            };
            Some(hidden.iter().map(weigh).collect())
        }
    };
    let all = Heads {
        samples,
        queries,
        keys,
        heads,
        width,
        value_width,
        causal: mask.causal,
        padding,
        dropout,
    };
    let kept = [dense(q)?, dense(k)?, dense(v)?];
    let (y, logs) = {
        let [q, k, v] = &kept;
        all.forward(&view::<T>(q)?, &view::<T>(k)?, &view::<T>(v)?)
    };
    let inputs = [Some(q), Some(k), Some(v)];
    let dims = (samples, queries, value_width);
    record("attention", inputs, y, dims, move |back| {
        let [q, k, v] = &kept;
        let (q, k, v) = (view::<T>(q)?, view::<T>(k)?, view::<T>(v)?);
        let (y, g) = (view::<T>(back.output)?, view::<T>(back.grad)?);
        let saved = Saved {
            q: &q,
            k: &k,
            v: &v,
            y: &y,
            g: &g,
            logs: &logs,
        };
        let parts: Vec<[Vec<T>; 3]> = (0..samples * heads)
            .into_par_iter()
            .map(|i| all.backward(&saved, i / heads, i % heads, back.needs))
            .collect();
        let lengths = [(queries, width), (keys, width), (keys, value_width)];
        let mut gradients = [None, None, None];
        for (which, (length, width)) in lengths.into_iter().enumerate() {
            if back.needs[which] {
                let d = all.join(&parts, which, length, width);
                let d = Tensor::from_vec(d, (samples, length, width), back.grad.device())?;
                gradients[which] = Some(d);
            }
        }
        Ok(gradients)
    })
}

/// `softmax(q kᵀ / √(D/heads)) v` for every head, `q [B,N,D]`, `k [B,M,D]`, `v [B,M,Dv]` to
/// `[B,N,Dv]`; head `h` is the `h`-th slice of the columns (Vaswani et al. 2017). `dropout` acts
/// on the probabilities. A query that sees no key gives zeros.
///
/// # Errors
/// Shapes that do not fit, columns that the heads do not divide, a causal mask with fewer keys
/// than queries.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask,
    dropout: Dropout,
) -> Result<Tensor> {
    let op = "attention";
    let all = [q, k, v];
    require(
        all.iter().all(|t| t.rank() == 3),
        op,
        "q [B,N,D], k [B,M,D], v [B,M,Dv]",
        &all,
    )?;
    let (b, n, d) = q.dims3()?;
    let (m, dv) = (k.dims()[1], v.dims()[2]);
    require(
        k.dims() == [b, m, d] && v.dims() == [b, m, dv],
        op,
        "q [B,N,D], k [B,M,D], v [B,M,Dv]",
        &all,
    )?;
    require(
        heads > 0 && d > 0 && d % heads == 0 && dv % heads == 0,
        op,
        &format!("columns in {heads} equal slices"),
        &all,
    )?;
    require(
        !mask.causal || m >= n,
        op,
        "as many keys as queries under a causal mask",
        &all,
    )?;
    if let Some(p) = mask.padding {
        require(
            p.dims() == [b, m] && p.dtype() == DType::U8,
            op,
            "a padding mask u8 [B,M]",
            &[p, k],
        )?;
    }
    dropout.validate(op)?;
    require(
        q.elem_count() > 0 && v.elem_count() > 0,
        op,
        "at least one query and one key",
        &all,
    )?;
    let (causal, padding) = (mask.causal, mask.padding.map(Tensor::detach));
    choose!(
        op,
        &all,
        kernel(q, k, v, heads, mask, dropout),
        replay(op, all, move |[q, k, v]| {
            let padding = padding.as_ref();
            composed::attention(q, k, v, heads, Mask { causal, padding }, dropout)
        })
    )
}
