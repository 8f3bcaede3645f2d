//! Convolutions and their transposes.

use candle_core::{Result, Tensor};

use super::check::{choose, require};
use super::parallel::{accumulate, for_rows, fresh, sum};
use super::real::Real;
use super::record::{dense, record, replay, view};
use super::windows::Windows;
use super::{add, composed};

/// How far a window moves, and how many zeros surround the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Pixels between two windows.
    pub stride: usize,
    /// Rings of zeros around the picture.
    pub padding: usize,
}

impl Default for Conv {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
        }
    }
}

/// The picture's side and the windows' side of a convolution, over a batch.
#[derive(Clone, Copy)]
struct Sides {
    windows: Windows,
    /// Channels on the side of the windows.
    features: usize,
    samples: usize,
}

impl Sides {
    fn image(self) -> usize {
        self.windows.area()
    }

    fn map(self) -> usize {
        self.features * self.windows.count()
    }

    /// A convolution of every sample of `image`, onto the bias.
    fn correlate<T: Real>(self, image: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
        let area = self.windows.count();
        fresh(self.samples * self.map(), |to| {
            fill(to, area, bias);
            for (b, to) in to.chunks_exact_mut(self.map().max(1)).enumerate() {
                let image = &image[b * self.image()..][..self.image()];
                self.windows.correlate(image, w, self.features, to);
            }
        })
    }

    /// A transposed convolution of every sample of `map`, onto the bias.
    fn spread<T: Real>(self, map: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
        let area = self.windows.height * self.windows.width;
        fresh(self.samples * self.image(), |to| {
            fill(to, area, bias);
            for (b, to) in to.chunks_exact_mut(self.image().max(1)).enumerate() {
                let map = &map[b * self.map()..][..self.map()];
                self.windows.spread(map, w, self.features, to);
            }
        })
    }

    /// The gradient of the kernel, from what both sides hold.
    fn outer<T: Real>(self, map: &[T], image: &[T]) -> Vec<T> {
        let mut dw = vec![T::ZERO; self.features * self.windows.depth()];
        for b in 0..self.samples {
            let map = &map[b * self.map()..][..self.map()];
            let image = &image[b * self.image()..][..self.image()];
            self.windows.outer(map, image, self.features, &mut dw);
        }
        dw
    }
}

/// Every plane of `area` elements starts as its channel's bias, or as zeros.
fn fill<T: Real>(to: &mut [T], area: usize, bias: Option<&[T]>) {
    for_rows(to, area, |first, planes| match bias {
        None => planes.fill(T::ZERO),
        Some(bias) => {
            for (i, plane) in planes.chunks_exact_mut(area).enumerate() {
                plane.fill(bias[(first + i) % bias.len()]);
            }
        }
    });
}

/// The gradient of a bias: sums over the planes of each of `channels` channels.
fn plane_sums<T: Real>(g: &[T], channels: usize, area: usize) -> Vec<T> {
    accumulate(
        g.len() / area.max(1),
        channels,
        #[inline(always)]
        |planes, total: &mut [T]| {
            for plane in planes {
                total[plane % channels] += sum(&g[plane * area..][..area]);
            }
        },
    )
}

/// Runs a convolution (`forward`: from picture to windows) or a transposed one.
fn kernel_of<T: Real>(
    name: &'static str,
    forward: bool,
    sides: Sides,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
) -> Result<Tensor> {
    let (kept_x, kept_w) = (dense(x)?, dense(w)?);
    let windows = sides.windows;
    let (y, dims, area) = {
        let (xs, ws) = (view::<T>(&kept_x)?, view::<T>(&kept_w)?);
        let bias = b.map(dense).transpose()?;
        let bias = bias.as_ref().map(view::<T>).transpose()?;
        let bias = bias.as_deref();
        if forward {
            let dims = [sides.samples, sides.features, windows.rows, windows.columns];
            (sides.correlate(&xs, &ws, bias), dims, windows.count())
        } else {
            let dims = [
                sides.samples,
                windows.channels,
                windows.height,
                windows.width,
            ];
            let area = windows.height * windows.width;
            (sides.spread(&xs, &ws, bias), dims, area)
        }
    };
    let channels = dims[1];
    let (shape_x, shape_w) = (x.shape().clone(), w.shape().clone());
    // An input is kept only for the gradient of the other.
    let kept_x = w.track_op().then_some(kept_x);
    let kept_w = x.track_op().then_some(kept_w);
    record(name, [Some(x), Some(w), b], y, &dims[..], move |back| {
        let g = view::<T>(back.grad)?;
        let device = back.grad.device();
        let dx = match &kept_w {
            None => None,
            Some(w) => {
                let w = view::<T>(w)?;
                let dx = match forward {
                    true => sides.spread(&g, &w, None),
                    false => sides.correlate(&g, &w, None),
                };
                Some(Tensor::from_vec(dx, &shape_x, device)?)
            }
        };
        let dw = match &kept_x {
            None => None,
            Some(x) => {
                let x = view::<T>(x)?;
                let dw = match forward {
                    true => sides.outer(&g, &x),
                    false => sides.outer(&x, &g),
                };
                Some(Tensor::from_vec(dw, &shape_w, device)?)
            }
        };
        let db = match back.needs[2] {
            false => None,
            true => {
                let db = plane_sums(&g, channels, area);
                Some(Tensor::from_vec(db, channels, device)?)
            }
        };
        Ok([dx, dw, db])
    })
}

fn expect(
    op: &str,
    wanted: &str,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    shared: usize,
    c: Conv,
) -> Result<()> {
    let fits = x.rank() == 4 && w.rank() == 4 && x.dims()[1] == w.dims()[shared];
    require(fits && w.elem_count() > 0, op, wanted, &[x, w])?;
    require(c.stride > 0, op, "a stride above 0", &[x, w])?;
    match b {
        Some(b) => require(b.dims() == [w.dims()[1 - shared]], op, "b [O]", &[w, b]),
        None => Ok(()),
    }
}

fn all<'a>(x: &'a Tensor, w: &'a Tensor, b: Option<&'a Tensor>) -> Vec<&'a Tensor> {
    [x, w].into_iter().chain(b).collect()
}

fn with_bias(y: Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    match b {
        None => Ok(y),
        Some(b) => add(&y, &b.reshape((b.elem_count(), 1, 1))?),
    }
}

/// Cross-correlation of `x [B,C,H,W]` with `w [O,C,kh,kw]`, plus `b [O]`.
///
/// # Errors
/// Shapes that do not fit, a stride of 0, a kernel larger than the padded picture.
pub fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, c: Conv) -> Result<Tensor> {
    let op = "conv2d";
    expect(op, "x [B,C,H,W], w [O,C,kh,kw]", x, w, b, 1, c)?;
    let (image, kernel) = (x.dims(), w.dims());
    require(
        image[2] + 2 * c.padding >= kernel[2] && image[3] + 2 * c.padding >= kernel[3],
        op,
        &format!(
            "a kernel no larger than the picture with padding {}",
            c.padding
        ),
        &[x, w],
    )?;
    let windows = Windows {
        channels: image[1],
        height: image[2],
        width: image[3],
        kernel: (kernel[2], kernel[3]),
        stride: c.stride,
        padding: c.padding,
        rows: (image[2] + 2 * c.padding - kernel[2]) / c.stride + 1,
        columns: (image[3] + 2 * c.padding - kernel[3]) / c.stride + 1,
    };
    let sides = Sides {
        windows,
        features: kernel[0],
        samples: image[0],
    };
    choose!(
        op,
        &all(x, w, b),
        kernel_of(op, true, sides, x, w, b),
        with_bias(
            replay(op, [x, w], move |[x, w]| composed::conv2d(x, w, c))?,
            b,
        )
    )
}

/// The transpose of [`conv2d`]: `x [B,C,H,W]`, `w [C,O,kh,kw]`, `b [O]` to
/// `[B,O,(H-1)·stride-2·padding+kh,…]`.
///
/// # Errors
/// Shapes that do not fit, a stride of 0, padding that leaves nothing.
pub fn conv_transpose2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, c: Conv) -> Result<Tensor> {
    let op = "conv_transpose2d";
    expect(op, "x [B,C,H,W], w [C,O,kh,kw]", x, w, b, 0, c)?;
    let (image, kernel) = (x.dims(), w.dims());
    let left = |size: usize, k: usize| size > 0 && (size - 1) * c.stride + k > 2 * c.padding;
    require(
        left(image[2], kernel[2]) && left(image[3], kernel[3]),
        op,
        &format!("a picture that padding {} does not consume", c.padding),
        &[x, w],
    )?;
    let size = |size: usize, k: usize| (size - 1) * c.stride + k - 2 * c.padding;
    let windows = Windows {
        channels: kernel[1],
        height: size(image[2], kernel[2]),
        width: size(image[3], kernel[3]),
        kernel: (kernel[2], kernel[3]),
        stride: c.stride,
        padding: c.padding,
        rows: image[2],
        columns: image[3],
    };
    let sides = Sides {
        windows,
        features: kernel[0],
        samples: image[0],
    };
    choose!(
        op,
        &all(x, w, b),
        kernel_of(op, false, sides, x, w, b),
        with_bias(
            replay(op, [x, w], move |[x, w]| {
                composed::conv_transpose2d(x, w, c)
            })?,
            b,
        )
    )
}
