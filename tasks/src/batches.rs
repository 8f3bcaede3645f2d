//! Pictures and sentences as tensors, for tasks that take whole pictures.
//!
//! Owns opening, preparation and encoding, and what such tasks ask of examples
//! and words; which items stand in a batch is theirs.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use twinspan_sdk::task::Kit;
use twinspan_sdk::topology::Topology;
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

/// Every picture with every sentence, picture by picture.
pub fn all_pairs(pictures: usize, sentences: usize) -> Vec<(u32, u32)> {
    let each = |picture: usize| (0..sentences as u32).map(move |s| (picture as u32, s));
    (0..pictures).flat_map(each).collect()
}

/// Example `index` of a split.
///
/// # Errors
/// The split has not as many.
pub(crate) fn example<'a, T>(examples: &'a [T], split: &str, index: usize) -> Result<&'a T> {
    examples.get(index).ok_or_else(|| {
        Error::wrong_use(format!(
            "example {index} of split `{split}` was asked for; it has {}",
            examples.len()
        ))
    })
}

/// Refuses sentences that the backbone cannot take, or that have no word.
pub(crate) fn words_fit(task: &'static str, words: usize, topology: &Topology) -> Result<()> {
    let context = topology.text.context;
    match words == 0 || (3..=context).contains(&words) {
        true => Ok(()),
        false => Err(Error::Options {
            kind: "task",
            name: task.into(),
            message: format!(
                "`words` must be 0 or lie between 3 and {context}, the backbone's longest sentence; got {words}"
            ),
        }),
    }
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
