//! Checks of sizes, as every family's options need them.
//!
//! Owns the limits and the words of refusal. Behind these checks sizes fit together and no
//! product of them overflows.

use twinspan_sdk::{Error, Result};

use crate::block::{Activation, BlockShape};

/// Sizes above these are mistakes; below them every product of sizes fits 64 bits.
pub(crate) const MOST_WIDTH: usize = 1 << 16;
pub(crate) const MOST_LAYERS: usize = 1 << 10;
pub(crate) const MOST_PIXELS: usize = 1 << 14;
pub(crate) const MOST_TOKENS: usize = 1 << 24;

/// The width of a head where nothing is said of heads: that of every CLIP of OpenAI's.
pub(crate) const HEAD_WIDTH: usize = 64;

/// Checks for the backbone of this name.
#[derive(Clone, Copy)]
pub(crate) struct Check(pub &'static str);

/// What is said of a transformer's blocks.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    /// `vision` or `text`, for messages.
    pub tower: &'static str,
    pub width: usize,
    pub heads: Option<usize>,
    pub head_width: Option<usize>,
    /// Four times the width unless given.
    pub mlp: Option<usize>,
    pub activation: Activation,
    pub causal: bool,
    pub eps: f64,
}

impl Check {
    pub fn within(self, name: &str, value: usize, most: usize) -> Result<usize> {
        match (1..=most).contains(&value) {
            true => Ok(value),
            false => Err(self.wrong(format!("{name} = {value}: give 1 to {most}"))),
        }
    }

    pub fn multiple(self, name: &str, value: usize, of: usize, what: &str) -> Result<()> {
        match value.is_multiple_of(of) {
            true => Ok(()),
            false => Err(self.wrong(format!(
                "{name} = {value} is not a multiple of {of} ({what})"
            ))),
        }
    }

    /// An id that a table of `vocabulary` rows has.
    pub fn id(self, name: &str, id: u32, vocabulary: usize) -> Result<u32> {
        match (id as usize) < vocabulary {
            true => Ok(id),
            false => Err(self.wrong(format!(
                "{name} = {id}: the vocabulary has {vocabulary} ids"
            ))),
        }
    }

    pub fn wrong(self, message: impl std::fmt::Display) -> Error {
        Error::wrong_use(format!("backbone `{}`: {message}", self.0))
    }

    /// The sizes to keep in options beside which files were found that describe a model: what the
    /// options say of it themselves, or else what was found. A preset may not be contradicted.
    pub fn settle<A: Clone>(
        self,
        found: Option<A>,
        said: &Option<A>,
        preset: Option<(&str, A)>,
        differ: impl Fn(&A, &A) -> Result<bool>,
    ) -> Result<Option<A>> {
        match (found, preset) {
            (Some(found), Some((name, preset))) if said.is_none() && differ(&found, &preset)? => {
                Err(self.wrong(format!(
                    "the files beside the weights describe another model than preset = \"{name}\": leave it out, or give `model`"
                )))
            }
            (found, None) if said.is_none() => Ok(found),
            _ => Ok(said.clone()),
        }
    }

    /// The shape of a transformer's blocks, whose heads divide their width.
    pub fn blocks(self, said: Blocks) -> Result<BlockShape> {
        let name = |field: &str| format!("{}.{field}", said.tower);
        let width = self.within(&name("width"), said.width, MOST_WIDTH)?;
        let heads = match (said.heads, said.head_width) {
            (Some(_), Some(_)) => {
                return Err(self.wrong(format!(
                    "{} and {} say the same: give one of them",
                    name("heads"),
                    name("head_width")
                )));
            }
            (Some(heads), None) => heads,
            (None, head) => {
                let head = head.unwrap_or(HEAD_WIDTH);
                self.within(&name("head_width"), head, MOST_WIDTH)?;
                self.multiple(&name("width"), width, head, "the head width")?;
                width / head
            }
        };
        self.within(&name("heads"), heads, MOST_WIDTH)?;
        self.multiple(&name("width"), width, heads, "the number of heads")?;
        let mlp = said.mlp.unwrap_or(4 * width);
        Ok(BlockShape {
            width,
            heads,
            mlp: self.within(&name("mlp"), mlp, 4 * MOST_WIDTH)?,
            activation: said.activation,
            causal: said.causal,
            eps: said.eps,
            layer_scale: false,
        })
    }
}

/// What is left out of a recipe where it is as in most models.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
