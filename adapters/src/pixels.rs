//! A map as a row of pixels, and back: `[B, C, H, W]` as `[B, H·W, C]`. No plugin.

use candle_core::Tensor;
use twinspan_sdk::Result;

/// A map's pixels row by row, `[B, H·W, C]`.
pub(crate) fn pixels(map: &Tensor) -> Result<Tensor> {
    Ok(map.flatten_from(2)?.transpose(1, 2)?)
}

/// Pixels `[B, H·W, C]` as a map of so many rows and columns.
pub(crate) fn to_grid(pixels: &Tensor, (rows, columns): (usize, usize)) -> Result<Tensor> {
    let (batch, _, channels) = pixels.dims3()?;
    let channels_first = pixels.transpose(1, 2)?;
    Ok(channels_first.reshape((batch, channels, rows, columns))?)
}
