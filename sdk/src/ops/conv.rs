//! Convolutions and their transposes.

use candle_core::{Result, Tensor};

use super::check::require;
use super::record::replay;
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

fn with_bias(y: Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    match b {
        None => Ok(y),
        Some(b) => add(&y, &b.reshape((b.elem_count(), 1, 1))?),
    }
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
    with_bias(
        replay(op, [x, w], move |[x, w]| composed::conv2d(x, w, c))?,
        b,
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
    with_bias(
        replay(op, [x, w], move |[x, w]| {
            composed::conv_transpose2d(x, w, c)
        })?,
        b,
    )
}
