//! Between a stage's channels and grid and the bridge's.
//!
//! Owns the released convolutions and the three other ways of the paper's ablation. What happens
//! on the middle grid is [`super`]'s.
//!
//! | zoom | channels | grid |
//! |---|---|---|
//! | conv-deconv | a convolution in, a transposed one out, or the reverse | by their stride: equal, half or double |
//! | linear | a linear layer | bilinear |
//! | conv-interpolate | a 1x1 convolution | bilinear |
//! | mlp | two linear layers with ReLU between | bilinear |
//!
//! Beside a vision tower of tokens, convolutions are followed by batch norm and ReLU. Resizing
//! acts on the narrow side, behind the layers on the way in and before them on the way out.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::StageSlot;
use twinspan_sdk::layers::{BatchNorm, Conv2d, ConvTranspose2d, Linear};
use twinspan_sdk::ops::{self, Conv, Interpolation};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;

use super::START;
use crate::pixels::{pixels, to_grid};
use crate::setting::wrong;

/// How the vision stream comes to the bridge's width and grid, and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zoom {
    /// As released: strided convolutions and transposed convolutions.
    #[default]
    #[serde(alias = "auto")]
    ConvDeconv,
    /// A linear layer over channels, and bilinear resizing.
    Linear,
    /// A 1x1 convolution, and bilinear resizing.
    ConvInterpolate,
    /// Two linear layers with ReLU between, and bilinear resizing.
    Mlp,
}

type Grid = (usize, usize);

/// Both ends of a zoom.
pub(super) struct Ends {
    owner: String,
    stage: usize,
    width: usize,
    grid: Grid,
    dim: usize,
    middle: Grid,
    /// The backbone's last stage.
    last: bool,
    /// Batch norm and ReLU behind convolutions.
    normed: bool,
}

impl Ends {
    pub fn of(slot: &StageSlot, dim: usize, owner: &str) -> Result<Self> {
        let (_, stream) = slot.vision;
        let (Some(grid), Some(middle)) = (stream.grid, slot.middle) else {
            let stage = slot.stage;
            let message = format!("the vision stream of stage {stage} does not lie on a grid");
            return Err(wrong(owner, message));
        };
        Ok(Self {
            owner: owner.to_string(),
            stage: slot.stage,
            width: stream.width,
            grid,
            dim,
            middle,
            last: slot.stage == slot.stages,
            normed: !stream.map,
        })
    }

    /// The kernel and stride between both grids, and whether the way in is transposed. Between
    /// equal grids either would do; the last stage is transposed, as released.
    fn kernel(&self) -> Result<(usize, bool)> {
        let double = |(rows, columns): Grid| (2 * rows, 2 * columns);
        if self.grid == self.middle {
            Ok((1, self.last))
        } else if self.grid == double(self.middle) {
            Ok((2, false))
        } else if double(self.grid) == self.middle {
            Ok((2, true))
        } else {
            let message = format!(
                "zoom = \"conv-deconv\" wants grids equal to, half of or double the middle \
                 one, {}x{}; stage {} has {}x{}: set zoom to \"linear\", \"conv-interpolate\" or \
                 \"mlp\"",
                self.middle.0, self.middle.1, self.stage, self.grid.0, self.grid.1,
            );
            Err(wrong(&self.owner, message))
        }
    }

    /// Where the bridge's side must be resized to reach `to`.
    fn resize(&self, to: Grid) -> Option<Grid> {
        (self.grid != self.middle).then_some(to)
    }
}

impl Zoom {
    /// From the stage to the bridge.
    pub(super) fn zoom_in(self, ends: &Ends, params: &mut Params) -> Result<Lens> {
        let (from, to) = (ends.width, ends.dim);
        if self == Zoom::ConvDeconv {
            let (kernel, transposed) = ends.kernel()?;
            return Lens::conv(params, from, to, kernel, transposed, ends.normed);
        }
        Ok(Lens {
            after: ends.resize(ends.middle),
            ..self.channels(from, to, ends, params)?
        })
    }

    /// From the bridge back to the stage.
    pub(super) fn zoom_out(self, ends: &Ends, params: &mut Params) -> Result<Lens> {
        let (from, to) = (ends.dim, ends.width);
        if self == Zoom::ConvDeconv {
            let (kernel, transposed) = ends.kernel()?;
            return Lens::conv(params, from, to, kernel, !transposed, ends.normed);
        }
        Ok(Lens {
            before: ends.resize(ends.grid),
            ..self.channels(from, to, ends, params)?
        })
    }

    fn channels(self, from: usize, to: usize, ends: &Ends, params: &mut Params) -> Result<Lens> {
        Ok(match self {
            Zoom::ConvDeconv | Zoom::ConvInterpolate => {
                Lens::conv(params, from, to, 1, false, ends.normed)?
            }
            Zoom::Linear => {
                let layer = Linear::make(&mut params.within("linear"), from, to, START)?;
                Lens::plain(Layers::Linear(layer))
            }
            Zoom::Mlp => {
                let first = Linear::make(&mut params.within("first"), from, ends.dim, START)?;
                let second = Linear::make(&mut params.within("second"), ends.dim, to, START)?;
                Lens::plain(Layers::Mlp(first, second))
            }
        })
    }
}

/// A way from one width and grid to another.
pub(super) struct Lens {
    before: Option<Grid>,
    layers: Layers,
    norm: Option<BatchNorm>,
    after: Option<Grid>,
}

enum Layers {
    Conv(Conv2d),
    Deconv(ConvTranspose2d),
    Linear(Linear),
    Mlp(Linear, Linear),
}

impl Lens {
    fn plain(layers: Layers) -> Self {
        Self {
            before: None,
            layers,
            norm: None,
            after: None,
        }
    }

    fn conv(
        params: &mut Params,
        from: usize,
        to: usize,
        kernel: usize,
        transposed: bool,
        normed: bool,
    ) -> Result<Self> {
        let conv = Conv {
            stride: kernel,
            padding: 0,
        };
        let area = kernel * kernel;
        let mut here = params.within("conv");
        let layers = match transposed {
            // PyTorch takes the first dimension of a weight for its outputs; here it is `from`.
            true => Layers::Deconv(ConvTranspose2d::make(
                &mut here,
                from,
                to,
                kernel,
                conv,
                Init::KaimingNormal { fan: from * area },
            )?),
            false => Layers::Conv(Conv2d::make(
                &mut here,
                from,
                to,
                kernel,
                conv,
                Init::KaimingNormal { fan: to * area },
            )?),
        };
        let norm = match normed {
            true => Some(BatchNorm::make(&mut params.within("norm"), to)?),
            false => None,
        };
        Ok(Self {
            norm,
            ..Self::plain(layers)
        })
    }

    /// `[B, C, H, W]` to `[B, C', H', W']`.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = resized(x, self.before)?;
        let mut y = match &self.layers {
            Layers::Conv(conv) => conv.forward(&x, pass)?,
            Layers::Deconv(deconv) => deconv.forward(&x, pass)?,
            Layers::Linear(linear) => by_pixel(&x, |x| linear.forward(x, pass))?,
            Layers::Mlp(first, second) => by_pixel(&x, |x| {
                second.forward(&ops::relu(&first.forward(x, pass)?)?, pass)
            })?,
        };
        if let Some(norm) = &self.norm {
            y = ops::relu(&norm.forward(&y, pass)?)?;
        }
        resized(&y, self.after)
    }
}

fn resized(x: &Tensor, to: Option<Grid>) -> Result<Tensor> {
    Ok(match to {
        Some(grid) => ops::resize(x, grid, Interpolation::Bilinear, false)?,
        None => x.clone(),
    })
}

fn by_pixel(x: &Tensor, layers: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (_, _, rows, columns) = x.dims4()?;
    to_grid(&layers(&pixels(x)?)?, (rows, columns))
}
