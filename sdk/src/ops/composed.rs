//! The operations as compositions of candle's own.
//!
//! They run where there is no kernel, and tests compare the kernels with them. Written to be
//! short and right, not fast: candle's pooling, normalisation and softmax shortcuts, whose
//! gradients are cut or wrong, are not used. Shapes are checked by the callers.

use candle_core::{D, Device, Result, Tensor};

use super::resize::matrix;
use super::{Conv, Dropout, Interpolation, Mask};

/// `x · Wᵀ`.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n, k) = w.dims2()?;
    let mut dims = x.dims().to_vec();
    let rows = x.elem_count() / k.max(1);
    dims.pop();
    dims.push(n);
    x.reshape((rows, k))?.matmul(&w.t()?)?.reshape(dims)
}

/// Cross-correlation without a bias.
pub fn conv2d(x: &Tensor, w: &Tensor, c: Conv) -> Result<Tensor> {
    let (_, _, kh, kw) = w.dims4()?;
    let mut x = x.clone();
    // candle's backward wants the picture to end where the last window ends.
    for (dim, kernel) in [(2, kh), (3, kw)] {
        let size = x.dim(dim)? + 2 * c.padding;
        let used = (size - kernel) / c.stride * c.stride + kernel;
        x = x
            .pad_with_zeros(dim, c.padding, c.padding)?
            .narrow(dim, 0, used)?;
    }
    x.contiguous()?.conv2d(&w.contiguous()?, 0, c.stride, 1, 1)
}

/// The transpose of [`conv2d`], without a bias.
pub fn conv_transpose2d(x: &Tensor, w: &Tensor, c: Conv) -> Result<Tensor> {
    x.contiguous()?
        .conv_transpose2d(&w.contiguous()?, c.padding, 0, c.stride, 1)
}

/// Every sample with its own kernel over all channels, and its own bias.
pub fn correlate_per_sample(x: &Tensor, k: &Tensor, b: &Tensor, padding: usize) -> Result<Tensor> {
    let samples = (0..x.dim(0)?)
        .map(|i| {
            let y = x.narrow(0, i, 1)?.contiguous()?;
            let y = y.conv2d(&k.narrow(0, i, 1)?.contiguous()?, padding, 1, 1, 1)?;
            y.broadcast_add(&b.narrow(0, i, 1)?)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&samples, 0)
}

/// Layer normalisation over the last dimension, mean first.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&deviation)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

fn per_channel(t: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut dims = vec![1; like.rank()];
    dims[1] = t.elem_count();
    t.reshape(dims)
}

/// Normalisation with given statistics.
pub fn batch_norm(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let deviation = (var + eps)?.sqrt()?;
    x.broadcast_sub(&per_channel(mean, x)?)?
        .broadcast_div(&per_channel(&deviation, x)?)?
        .broadcast_mul(&per_channel(weight, x)?)?
        .broadcast_add(&per_channel(bias, x)?)
}

/// Mean and biased variance of every channel.
pub fn batch_statistics(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let channels = x.dim(1)?;
    let flat = x.transpose(0, 1)?.contiguous()?.reshape((channels, ()))?;
    let mean = flat.mean_keepdim(1)?;
    let var = flat.broadcast_sub(&mean)?.sqr()?.mean(1)?;
    Ok((mean.squeeze(1)?, var))
}

/// Softmax over the last dimension; a row of negative infinities gives zeros.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let most = x.max_keepdim(D::Minus1)?.detach().maximum(-1e30)?;
    let e = x.broadcast_sub(&most)?.exp()?;
    let sum = e.sum_keepdim(D::Minus1)?;
    let empty = sum.detach().eq(0.)?.to_dtype(x.dtype())?;
    e.broadcast_div(&(sum + empty)?)
}

/// Attention of `heads` heads that are column slices.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask,
    dropout: Dropout,
) -> Result<Tensor> {
    let (b, n, d) = q.dims3()?;
    let m = k.dim(1)?;
    let dv = v.dim(2)?;
    let split = |t: &Tensor| -> Result<Tensor> {
        let (b, rows, columns) = t.dims3()?;
        t.reshape((b, rows, heads, columns / heads))?
            .transpose(1, 2)?
            .contiguous()
    };
    let scale = 1. / ((d / heads) as f64).sqrt();
    let mut scores = (split(q)?.matmul(&split(k)?.t()?.contiguous()?)? * scale)?;
    if let Some(hidden) = hidden(mask, b, n, m, q.device())? {
        let hidden = hidden.broadcast_as(scores.shape())?;
        let nothing = Tensor::full(f64::NEG_INFINITY, scores.shape(), q.device())?;
        scores = hidden.where_cond(&nothing.to_dtype(q.dtype())?, &scores)?;
    }
    let p = self::dropout(&softmax(&scores)?, dropout)?;
    p.matmul(&split(v)?)?.transpose(1, 2)?.reshape((b, n, dv))
}

/// `u8 [B,1,N,M]` (or broadcast to it), 1 where a key is hidden.
fn hidden(mask: Mask, b: usize, n: usize, m: usize, device: &Device) -> Result<Option<Tensor>> {
    let causal = match mask.causal {
        false => None,
        true => {
            let rows = (0..n).flat_map(|i| (0..m).map(move |j| u8::from(j + n > i + m)));
            Some(Tensor::from_vec(rows.collect(), (1, 1, n, m), device)?)
        }
    };
    let padding = match mask.padding {
        None => None,
        Some(p) => Some(p.ne(0u8)?.reshape((b, 1, 1, m))?),
    };
    match (causal, padding) {
        (Some(a), Some(b)) => Ok(Some(a.broadcast_maximum(&b)?)),
        (a, b) => Ok(a.or(b)),
    }
}

/// `x Φ(x)`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    // candle's gelu_erf is off by 1e-6 in its slope.
    let erf = (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?;
    (x * 0.5)? * (erf + 1.)?
}

/// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let slope = (2.0 / std::f64::consts::PI).sqrt();
    let inner = ((x + (x.powf(3.0)? * 0.044_715)?)? * slope)?;
    (x * 0.5)? * (inner.tanh()? + 1.)?
}

/// `x σ(1.702 x)`.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * sigmoid(&(x * 1.702)?)?
}

/// `max(x, 0)`, with slope 0 at 0.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x * x.detach().gt(0.)?.to_dtype(x.dtype())?
}

/// `1 / (1 + e⁻ˣ)`.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? * 0.5)? + 0.5
}

/// The hyperbolic tangent.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    x.tanh()
}

/// Resizing as two matrix products.
pub fn resize(
    x: &Tensor,
    to: (usize, usize),
    how: Interpolation,
    align_corners: bool,
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let matrix = |from, to| matrix(from, to, how, align_corners, x);
    let wide = x
        .reshape((b * c * h, w))?
        .matmul(&matrix(w, to.1)?.t()?)?
        .reshape((b * c, h, to.1))?;
    let turned = wide.transpose(1, 2)?.reshape((b * c * to.1, h))?;
    turned
        .matmul(&matrix(h, to.0)?.t()?)?
        .reshape((b * c, to.1, to.0))?
        .transpose(1, 2)?
        .reshape((b, c, to.0, to.1))
}

/// Means of `k` by `k` squares.
pub fn avg_pool2d(x: &Tensor, k: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (h, w) = (h / k, w / k);
    x.narrow(2, 0, h * k)?
        .narrow(3, 0, w * k)?
        .reshape((b * c * h, k, w, k))?
        .mean(3)?
        .mean(1)?
        .reshape((b, c, h, w))
}

/// Dropout with the mask of the kernels.
pub fn dropout(x: &Tensor, d: Dropout) -> Result<Tensor> {
    if d.p == 0. {
        return Ok(x.clone());
    }
    let factors: Vec<f32> = d.factors(x.elem_count());
    let factors = Tensor::from_vec(factors, x.shape(), &Device::Cpu)?;
    x * factors.to_device(x.device())?.to_dtype(x.dtype())?
}

/// Mean of `log(1 + eˣ) - x z`.
pub fn bce_with_logits(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let pair = Tensor::stack(&[&logits.zeros_like()?, logits], D::Minus1)?;
    (pair.log_sum_exp(D::Minus1)? - (logits * target)?)?.mean_all()
}

/// The mean over rows of `log Σ eˣ - x[right]`.
pub fn cross_entropy(logits: &Tensor, right: &[u32]) -> Result<Tensor> {
    let right = Tensor::new(right, logits.device())?.unsqueeze(1)?;
    let target = logits.contiguous()?.gather(&right, 1)?.squeeze(1)?;
    (logits.log_sum_exp(D::Minus1)? - target)?.mean_all()
}

/// Rows of the first dimension.
pub fn select(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let rows = Tensor::new(rows, x.device())?;
    x.contiguous()?.index_select(&rows, 0)
}

/// A constant matrix in the type and on the device of `like`.
pub(super) fn constant(data: Vec<f64>, shape: (usize, usize), like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}
