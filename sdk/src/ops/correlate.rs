//! Cross-correlation where every sample brings its own kernel.

use candle_core::{Result, Tensor};

use super::check::require;
use super::composed;
use super::record::replay;

/// `x [B,C,H,W]` against `k [B,C,kh,kw]`, sample by sample over all channels, plus `b [B]`:
/// `[B,1,H+2·padding-kh+1,…]`. The head of CRIS (Wang et al. 2022) makes its kernels from text.
///
/// # Errors
/// Shapes that do not fit, or a kernel larger than the padded picture.
pub fn correlate_per_sample(x: &Tensor, k: &Tensor, b: &Tensor, padding: usize) -> Result<Tensor> {
    let op = "correlate_per_sample";
    let all = [x, k, b];
    let wanted = "x [B,C,H,W], k [B,C,kh,kw], b [B]";
    require(x.rank() == 4 && k.rank() == 4, op, wanted, &all)?;
    let (image, kernel) = (x.dims(), k.dims());
    require(
        image[..2] == kernel[..2] && b.dims() == [image[0]] && k.elem_count() > 0,
        op,
        wanted,
        &all,
    )?;
    require(
        image[2] + 2 * padding >= kernel[2] && image[3] + 2 * padding >= kernel[3],
        op,
        &format!("a kernel no larger than the picture with padding {padding}"),
        &all,
    )?;
    replay(op, all, move |[x, k, b]| {
        composed::correlate_per_sample(x, k, b, padding)
    })
}
