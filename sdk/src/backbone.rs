//! The contract of a backbone: two encoders and their joint space.
//!
//! Owns the traits a backbone implements and [`Weights`], through which its layers find frozen
//! and trained values alike. Walking the blocks is [`crate::tuned`]'s business: a backbone gives
//! single steps and never loops over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::base::Base;
use crate::error::{Error, Result};
use crate::hooks::PlaceHooks;
use crate::key_map::KeyMap;
use crate::parameter::{Buffer, Overlay, Parameter};
use crate::pass::Pass;
use crate::preparation::Preparation;
use crate::source::Description;
use crate::stream::Stream;
use crate::tokenizer::Tokenizer;
use crate::topology::{Origin, ParameterInfo, Topology};

/// A dual encoder, implemented by the serde struct of its options.
pub trait Backbone: Send + Sync {
    /// What it is made of, from its options alone.
    ///
    /// # Errors
    /// The options do not fit together.
    fn topology(&self) -> Result<Topology>;

    /// Its two encoders over given weights. Cheap: layers share the weights.
    ///
    /// # Errors
    /// A weight is missing.
    fn load(&self, weights: &Weights) -> Result<Encoders>;

    /// The foreign layouts its weights come in, as key maps onto its canonical names; those
    /// names themselves are always read.
    ///
    /// # Errors
    /// The options do not fit together.
    fn layouts(&self) -> Result<Vec<KeyMap>> {
        Ok(Vec::new())
    }

    /// Its options, with what they leave open filled in from the files beside its weights:
    /// sizes, how pictures are prepared. What the options say stays. `None` where the files say
    /// nothing of it.
    ///
    /// # Errors
    /// The files describe a model of another family, or one that it cannot be.
    fn described(&self, _description: &Description) -> Result<Option<toml::Table>> {
        Ok(None)
    }

    /// Whether its options say which model it is. Where they do not, weights from somewhere need
    /// files beside them that do: a default would be silently wrong.
    fn is_said(&self) -> bool {
        true
    }

    /// How pictures are prepared for it.
    fn preparation(&self) -> Preparation;

    /// Its tokenizer, from a vocabulary file or folder; its own default where none is named.
    ///
    /// # Errors
    /// The file is not a vocabulary of this backbone.
    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>>;

    /// Weights that are part of the program: a safetensors file under canonical names. A recipe
    /// that names no weights gets them.
    fn embedded(&self) -> Option<&'static [u8]> {
        None
    }
}

/// Both encoders of a backbone.
pub struct Encoders {
    /// Pictures `[B, 3, H, W]` to streams.
    pub vision: Box<dyn Encoder>,
    /// Ids `u32 [B, L]` to streams.
    pub text: Box<dyn Encoder>,
    /// The natural logarithm of the factor on similarities, `[]`.
    pub logit_scale: Parameter,
    /// What is added to similarities behind the factor, `[]`, where the model was trained with
    /// it ([`Topology::sigmoid`]).
    pub logit_bias: Option<Parameter>,
}

/// One tower, step by step.
pub trait Encoder: Send + Sync {
    /// Words or patches without positions, or the stem's map.
    ///
    /// # Errors
    /// The input does not have the tower's shape.
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream>;

    /// Positions added.
    ///
    /// # Errors
    /// There are more tokens than positions.
    fn positions(&self, stream: Stream, _pass: &mut Pass) -> Result<Stream> {
        Ok(stream)
    }

    /// The first norm, where the tower has one.
    ///
    /// # Errors
    /// An operation failed.
    fn norm(&self, stream: Stream, _pass: &mut Pass) -> Result<Stream> {
        Ok(stream)
    }

    /// Block `index`.
    ///
    /// # Errors
    /// An operation failed.
    fn block(
        &self,
        index: usize,
        stream: Stream,
        hooks: &PlaceHooks,
        pass: &mut Pass,
    ) -> Result<Stream>;

    /// The final features of every word or patch, from the last block's stream.
    ///
    /// # Errors
    /// An operation failed.
    fn features(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream>;

    /// One vector per item in the joint space `[B, E]`, from the last block's stream.
    ///
    /// # Errors
    /// An operation failed.
    fn pooled(&self, stream: &Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Tensor>;
}

/// The values a backbone's layers are built on: the base, and in its place what the overlay
/// holds under the same name.
pub struct Weights<'a> {
    base: &'a Base,
    overlay: &'a Overlay,
    infos: BTreeMap<&'a str, &'a ParameterInfo>,
    dtype: DType,
    device: Device,
}

impl<'a> Weights<'a> {
    /// The values of `base` and `overlay`, computed with in `dtype` on `device`.
    pub fn new(
        base: &'a Base,
        overlay: &'a Overlay,
        topology: &'a Topology,
        dtype: DType,
        device: &Device,
    ) -> Self {
        Self {
            base,
            overlay,
            infos: topology
                .parameters()
                .map(|p| (p.name.as_str(), p))
                .collect(),
            dtype,
            device: device.clone(),
        }
    }

    /// The parameter of a canonical name: trained where the overlay trains it, frozen otherwise.
    ///
    /// # Errors
    /// The topology or the base lacks it.
    pub fn parameter(&self, name: &str) -> Result<Parameter> {
        if let Some(trained) = self.overlay.trained.get(name) {
            return Ok(Parameter::Trained(trained.var.clone()));
        }
        if let Some(kept) = self.overlay.constants.get(name) {
            return Ok(Parameter::Kept(kept.clone()));
        }
        let missing = || Error::WeightMissing {
            name: name.to_string(),
        };
        let info = self.infos.get(name).ok_or_else(missing)?;
        if let Origin::Resized { .. } = info.origin {
            let value = value_in(self.base, info)?.to_dtype(self.dtype)?;
            return Ok(Parameter::constant(&value.to_device(&self.device)?));
        }
        let weight = self.base.get(name).ok_or_else(missing)?;
        if weight.shape().dims() != info.shape.as_slice() {
            return Err(Error::Shape {
                what: name.to_string(),
                expected: info.shape.clone(),
                got: weight.shape().dims().to_vec(),
            });
        }
        Ok(Parameter::Frozen {
            weight: weight.clone(),
            dtype: self.dtype,
            device: self.device.clone(),
        })
    }

    /// The parameter of a canonical name, if the topology has it.
    ///
    /// # Errors
    /// The base lacks it.
    pub fn optional(&self, name: &str) -> Result<Option<Parameter>> {
        match self.infos.contains_key(name) {
            true => self.parameter(name).map(Some),
            false => Ok(None),
        }
    }

    /// The running statistic of a canonical name: a buffer of the overlay where the towers'
    /// statistics train, and whether they do.
    ///
    /// # Errors
    /// The base lacks it.
    pub fn statistic(&self, name: &str) -> Result<(Buffer, bool)> {
        if let Some(buffer) = self.overlay.buffers.get(name) {
            return Ok((buffer.clone(), true));
        }
        let value = self.parameter(name)?.tensor(&Pass::predict())?;
        Ok((Buffer::new(&value)?, false))
    }
}

/// The value of an existing parameter as the model uses it: the base's, resized where its
/// topology says so.
///
/// # Errors
/// The base lacks it, or a table of positions does not lie on a square grid.
pub fn value_in(base: &Base, info: &ParameterInfo) -> Result<Tensor> {
    let stored = base.get(&info.name).ok_or_else(|| Error::WeightMissing {
        name: info.name.clone(),
    })?;
    let Origin::Resized { special, to, by } = info.origin else {
        return Ok(stored.tensor(stored.dtype(), &Device::Cpu)?);
    };
    let value = match stored.dtype() {
        DType::F64 => stored.tensor(DType::F64, &Device::Cpu)?,
        _ => stored.tensor(DType::F32, &Device::Cpu)?,
    };
    let (rows, width) = value.dims2()?;
    let side = rows.saturating_sub(special).isqrt();
    if side * side + special != rows {
        return Err(Error::Shape {
            what: format!("{} (a square grid and {special} more)", info.name),
            expected: info.shape.clone(),
            got: vec![rows, width],
        });
    }
    if (side, side) == to {
        return Ok(value);
    }
    // Drawn in f64 so that a model computed in f64 sees the resize exactly.
    let grid = value
        .narrow(0, special, side * side)?
        .to_dtype(DType::F64)?
        .t()?
        .reshape((1, width, side, side))?;
    let grid = by.resize(&grid, to)?;
    let grid = grid.reshape((width, to.0 * to.1))?.t()?.contiguous()?;
    let front = value.narrow(0, 0, special)?.to_dtype(DType::F64)?;
    Ok(Tensor::cat(&[&front, &grid], 0)?)
}
