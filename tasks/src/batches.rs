//! Pictures and sentences as tensors, for tasks that take whole pictures.
//!
//! Owns opening, preparation and encoding; which items stand in a batch is the
//! tasks'.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use twinspan_sdk::task::Kit;
use twinspan_sdk::{Error, Result};

use crate::picture;
use crate::prepare::prepare;

/// The pictures of files, `[B, 3, S, S]`, prepared as the kit says.
///
/// # Errors
/// A file cannot be opened as a picture; of several, the first.
pub(crate) fn pictures(paths: &[&Path], kit: &Kit) -> Result<Tensor> {
    let planes = paths.par_iter().map(|path| {
        let picture = picture::open(path).map_err(Error::plugin)?;
        prepare(&kit.preparation, &picture).map_err(Error::plugin)
    });
    placed(planes.collect::<Vec<_>>(), kit)
}

/// Pictures `[B, 3, S, S]`, prepared as the kit says.
///
/// # Errors
/// A picture is empty.
pub fn prepared(pictures: &[RgbImage], kit: &Kit) -> Result<Tensor> {
    let planes = pictures
        .par_iter()
        .map(|picture| prepare(&kit.preparation, picture).map_err(Error::plugin));
    placed(planes.collect::<Vec<_>>(), kit)
}

fn placed(planes: Vec<Result<Vec<f32>>>, kit: &Kit) -> Result<Tensor> {
    let (count, size) = (planes.len(), kit.preparation.size);
    let planes = planes.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let images = Tensor::from_vec(planes, (count, 3, size, size), &Device::Cpu)?;
    Ok(images.to_dtype(kit.dtype)?.to_device(&kit.device)?)
}

/// Sentences as ids, all of one length.
pub(crate) struct Sentences {
    ids: Vec<Vec<u32>>,
    words: usize,
    /// How many were too long, and the first of them.
    cut: Option<(usize, String)>,
}

impl Sentences {
    /// Encodes sentences to `words` ids each, or to the kit's context where
    /// that is 0.
    pub fn encode<S: AsRef<str> + Sync>(sentences: &[S], words: usize, kit: &Kit) -> Self {
        let words = match words {
            0 => kit.context,
            words => words,
        };
        let encoded: Vec<_> = sentences
            .par_iter()
            .map(|sentence| kit.tokenizer.encode(sentence.as_ref(), words))
            .collect();
        let mut too_long = encoded.iter().zip(sentences).filter(|(e, _)| e.cut);
        let first = too_long.next().map(|(_, sentence)| sentence.as_ref());
        let cut = first.map(|first| {
            let start: String = first.chars().take(60).collect();
            let more = if start.len() < first.len() { "…" } else { "" };
            (1 + too_long.count(), format!("{start}{more}"))
        });
        Self {
            ids: encoded.into_iter().map(|encoded| encoded.ids).collect(),
            words,
            cut,
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The ids of some of them, `u32 [n, L]`.
    pub fn tokens(&self, chosen: &[usize], kit: &Kit) -> Result<Tensor> {
        let ids = chosen.iter().filter_map(|place| self.ids.get(*place));
        let ids: Vec<u32> = ids.flatten().copied().collect();
        Ok(Tensor::from_vec(
            ids,
            (chosen.len(), self.words),
            &kit.device,
        )?)
    }

    /// Says how many of them, called `what`, are cut; nothing where none is.
    pub fn cut(&self, what: &str) -> Option<String> {
        let (count, first) = self.cut.as_ref()?;
        Some(format!(
            "{count} of {} {what} do not fit {} tokens and are cut, the first being `{first}`",
            self.ids.len(),
            self.words
        ))
    }
}
