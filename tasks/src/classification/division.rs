//! Which pictures are trained on: the division of data that is not divided,
//! and the draw of a few of each class.
//!
//! Draws depend on the seed, the class's name and the names of its pictures'
//! order alone: a class more or less changes no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use twinspan_sdk::{Error, Result, random};

use super::Classification;
use crate::folders::{Classes, Division, Labelled};

const TRAIN: &str = "train";
/// Pictures of a class that validate, where a few train: no more than four, as
/// CoOp (arXiv 2109.01134) has it.
const MOST_TO_VALIDATE: usize = 4;

/// Pictures with the number of their class.
pub(super) type Examples = Vec<(PathBuf, u32)>;

/// The examples of each split, class by class in the order of `task.classes`.
///
/// Data that is divided stays so, and `shots` are drawn of what trains. Other
/// data gives, of each class, `shots` to train on, as many but no more than
/// four to validate, the rest to test; without `shots` eight, one and one of
/// ten, where there are so many, and at least one to train on.
pub(super) fn divided(task: &Classification, data: Labelled) -> Result<BTreeMap<String, Examples>> {
    let path = data.path.as_path();
    let mut splits = match data.pictures {
        Division::Splits(splits) => splits,
        Division::Whole(classes) => drawn(task, path, classes)?,
    };
    if task.shots > 0
        && let Some(classes) = splits.get_mut(TRAIN)
    {
        for (class, pictures) in classes.iter_mut() {
            enough(path, class, pictures.len(), task.shots, "to train on")?;
            *pictures = shuffled(task.seed, class, pictures);
            pictures.truncate(task.shots);
        }
    }
    let mut examples = BTreeMap::new();
    for (split, mut classes) in splits {
        let mut of_split = Examples::new();
        for (number, class) in (0..).zip(&task.classes) {
            let pictures = classes.remove(class).unwrap_or_default();
            of_split.extend(pictures.into_iter().map(|picture| (picture, number)));
        }
        if let Some(class) = classes.keys().next() {
            return Err(strange(task, path, &split, class));
        }
        if !of_split.is_empty() {
            examples.insert(split, of_split);
        }
    }
    Ok(examples)
}

fn drawn(
    task: &Classification,
    path: &Path,
    classes: Classes,
) -> Result<BTreeMap<String, Classes>> {
    let mut splits: BTreeMap<String, Classes> = BTreeMap::new();
    for (class, pictures) in classes {
        let count = pictures.len();
        let (train, val) = match task.shots {
            0 => {
                let train = (8 * count).div_ceil(10);
                (train, (count - train) / 2)
            }
            shots => {
                let val = shots.min(MOST_TO_VALIDATE);
                let needed = shots.saturating_add(val).saturating_add(1);
                let what = format!("to train on, {val} to validate and one to test");
                enough(path, &class, count, needed, &what)?;
                (shots, val)
            }
        };
        let mut pictures = shuffled(task.seed, &class, &pictures).into_iter();
        for (split, share) in [(TRAIN, train), ("val", val), ("test", count)] {
            let part: Vec<PathBuf> = pictures.by_ref().take(share).collect();
            if !part.is_empty() {
                let classes = splits.entry(split.into()).or_default();
                classes.insert(class.clone(), part);
            }
        }
    }
    Ok(splits)
}

fn enough(path: &Path, class: &str, there: usize, needed: usize, what: &str) -> Result<()> {
    match there < needed {
        true => Err(Error::wrong_use(format!(
            "{}: class `{class}` has {there} pictures; task.shots takes {needed} of each, {what}",
            path.display()
        ))),
        false => Ok(()),
    }
}

fn shuffled(seed: u64, class: &str, pictures: &[PathBuf]) -> Vec<PathBuf> {
    let order = random::permutation(random::key(seed, class), pictures.len());
    let pictures = order.into_iter().filter_map(|place| pictures.get(place));
    pictures.cloned().collect()
}

fn strange(task: &Classification, path: &Path, split: &str, class: &str) -> Error {
    let near = twinspan_sdk::error::nearest(class, task.classes.iter().map(String::as_str));
    let near = near.map(|near| format!(" (is it `{near}`?)"));
    Error::wrong_use(format!(
        "{}: split `{split}` has the class `{class}`{}, which is not among the model's: {}",
        path.display(),
        near.unwrap_or_default(),
        task.classes.join(", ")
    ))
}

/// Refuses data of which a class is tested that is not trained on.
pub(super) fn all_are_trained(data: &Labelled) -> Result<()> {
    let Division::Splits(splits) = &data.pictures else {
        return Ok(());
    };
    let Some(trained) = splits.get(TRAIN) else {
        return Ok(());
    };
    for (split, classes) in splits {
        if let Some(class) = classes.keys().find(|class| !trained.contains_key(*class)) {
            return Err(Error::wrong_use(format!(
                "{}: split `{split}` has the class `{class}`, which `{TRAIN}` lacks; name the classes in task.classes if that is meant",
                data.path.display()
            )));
        }
    }
    Ok(())
}
