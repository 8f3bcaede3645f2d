//! Matrix products with a weight: trainable or frozen.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::parallel::{column_sums, for_rows, fresh};
use super::product::{Matrix, Target, Threads, product};
use super::real::Real;
use super::record::{dense, record, replay, view};
use super::{add, composed};
use crate::frozen::Frozen;

fn expect(op: &str, x: &Tensor, w: &[usize], b: Option<&Tensor>) -> Result<()> {
    let fits = x.rank() >= 1 && w.len() == 2 && x.dims().last() == Some(&w[1]) && w[1] > 0;
    let wanted = format!("x [..,K] for w {w:?} as [N,K]");
    require(fits, op, &wanted, &[x])?;
    match b {
        Some(b) => require(
            b.dims() == [w[0]],
            op,
            &format!("b [N] for w {w:?} as [N,K]"),
            &[b],
        ),
        None => Ok(()),
    }
}

/// Every row starts as the bias, or as zeros.
fn fill<T: Real>(y: &mut [T], n: usize, bias: Option<&[T]>) {
    for_rows(y, n, |_, rows| match bias {
        None => rows.fill(T::ZERO),
        Some(bias) => {
            for row in rows.chunks_exact_mut(n) {
                row.copy_from_slice(bias);
            }
        }
    });
}

/// `x [M,K] · wᵀ + bias` for `w [N,K]`.
fn forward<T: Real>(x: &[T], w: &[T], bias: Option<&[T]>, n: usize, k: usize) -> Vec<T> {
    let m = x.len() / k;
    let (x, w) = (Matrix::new(x, m, k, k), Matrix::new(w, n, k, k).t());
    fresh(m * n, |y| match bias {
        None => product(Target::overwrite(y, n), T::ONE, x, w, Threads::All),
        Some(_) => {
            fill(y, n, bias);
            product(Target::add(y, n), T::ONE, x, w, Threads::All);
        }
    })
}

/// `g [M,N] · w` for `w [N,K]`.
fn backward<T: Real>(g: &[T], w: &[T], n: usize, k: usize) -> Vec<T> {
    let m = g.len() / n.max(1);
    fresh(m * k, |dx| {
        let (g, w) = (Matrix::new(g, m, n, n), Matrix::new(w, n, k, k));
        product(Target::overwrite(dx, k), T::ONE, g, w, Threads::All);
    })
}

fn result_dims(x: &Tensor, n: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(n);
    dims
}

fn kernel<T: Real>(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (n, k) = w.dims2()?;
    let (kept_x, kept_w) = (dense(x)?, dense(w)?);
    let y = {
        let bias = b.map(dense).transpose()?;
        let bias = bias.as_ref().map(view::<T>).transpose()?;
        let (xs, ws) = (view::<T>(&kept_x)?, view::<T>(&kept_w)?);
        forward(&xs, &ws, bias.as_deref(), n, k)
    };
    let shape = x.shape().clone();
    // An input is kept only for the gradient of the other.
    let kept_x = w.track_op().then_some(kept_x);
    let kept_w = x.track_op().then_some(kept_w);
    let inputs = [Some(x), Some(w), b];
    record("linear", inputs, y, result_dims(x, n), move |back| {
        let g = view::<T>(back.grad)?;
        let device = back.grad.device();
        let dx = match &kept_w {
            None => None,
            Some(w) => {
                let dx = backward(&g, &view::<T>(w)?, n, k);
                Some(Tensor::from_vec(dx, &shape, device)?)
            }
        };
        let dw = match &kept_x {
            None => None,
            Some(x) => {
                let xs = view::<T>(x)?;
                let m = xs.len() / k;
                let (g, x) = (Matrix::new(&g, m, n, n).t(), Matrix::new(&xs, m, k, k));
                let dw = fresh(n * k, |dw| {
                    product(Target::overwrite(dw, k), T::ONE, g, x, Threads::All);
                });
                Some(Tensor::from_vec(dw, (n, k), device)?)
            }
        };
        let db = match back.needs[2] {
            false => None,
            true => Some(Tensor::from_vec(column_sums(&g, n), n, device)?),
        };
        Ok([dx, dw, db])
    })
}

fn frozen_kernel<T: Real>(x: &Tensor, w: &Frozen, b: Option<&Tensor>) -> Result<Tensor> {
    let (n, k) = w.shape().dims2()?;
    let y = {
        let plain = dense(x)?;
        let xs = view::<T>(&plain)?;
        let bias = b.map(dense).transpose()?;
        let bias = bias.as_ref().map(view::<T>).transpose()?;
        match T::product_in_place(w, &xs, bias.as_deref())? {
            Some(y) => y,
            None => T::with_frozen(w, |ws| forward(&xs, ws, bias.as_deref(), n, k))?,
        }
    };
    let (w, shape) = (w.clone(), x.shape().clone());
    let inputs = [Some(x), b];
    record("linear_frozen", inputs, y, result_dims(x, n), move |back| {
        let g = view::<T>(back.grad)?;
        let device = back.grad.device();
        let dx = match back.needs[0] {
            false => None,
            true => {
                let dx = T::with_frozen(&w, |w| backward(&g, w, n, k))?;
                Some(Tensor::from_vec(dx, &shape, device)?)
            }
        };
        let db = match back.needs[1] {
            false => None,
            true => Some(Tensor::from_vec(column_sums(&g, n), n, device)?),
        };
        Ok([dx, db])
    })
}

/// `x · Wᵀ + b` for `x [..,K]`, `w [N,K]`, `b [N]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let op = "linear";
    expect(op, x, w.dims(), b)?;
    let all: Vec<&Tensor> = [x, w].into_iter().chain(b).collect();
    choose!(op, &all, kernel(x, w, b), {
        let y = replay(op, [x, w], |[x, w]| composed::linear(x, w))?;
        match b {
            Some(b) => add(&y, b),
            None => Ok(y),
        }
    })
}

/// [`linear`] with a weight that never gets a gradient.
///
/// # Errors
/// Shapes that do not fit, or a weight that cannot be had in the type of `x`.
pub fn linear_frozen(x: &Tensor, w: &Frozen, b: Option<&Tensor>) -> Result<Tensor> {
    let op = "linear_frozen";
    expect(op, x, w.shape().dims(), b)?;
    let all: Vec<&Tensor> = [x].into_iter().chain(b).collect();
    choose!(
        op,
        &all,
        frozen_kernel(x, w, b),
        linear(x, &w.tensor(x.dtype(), x.device())?, b)
    )
}
