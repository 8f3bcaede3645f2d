//! Opening a recipe's or a model's parts, for the commands that run one.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::site::Projection;
use twinspan::sdk::task::Kit;
use twinspan::sdk::tokenizer::Tokenizer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Error, artifact, device};

use super::ModelArgs;
use super::failure::Failure;

/// Where and in what the program computes: f32 on the device of that name.
pub fn compute(name: &str) -> Result<Compute, Failure> {
    Ok(Compute {
        dtype: DType::F32,
        device: device::device(name)?,
    })
}

/// The recipe's tokenizer.
pub fn tokenizer(recipe: &Recipe) -> Result<Arc<dyn Tokenizer>, Failure> {
    let path = &recipe.weights.tokenizer;
    if !path.is_empty() {
        return Ok(recipe.backbone.plugin.tokenizer(Some(Path::new(path)))?);
    }
    let tokenizer = recipe.backbone.plugin.tokenizer(None)?;
    let topology = recipe.backbone.plugin.topology()?;
    let table = topology
        .projections()
        .find(|p| p.projection == Projection::Token);
    let rows = table.map_or(0, |table| table.input);
    // Random weights learn any vocabulary; trained ones know the words of their own.
    if recipe.weights.random().is_none() && rows != tokenizer.vocabulary() {
        return Err(Failure::Usage(format!(
            "{} has {rows} words, and no vocabulary is named: set backbone.tokenizer to the one it was trained with",
            recipe.weights.weights
        )));
    }
    Ok(tokenizer)
}

/// Refuses an `out` with a file inside that it is made from: a model folder is replaced whole.
pub fn spares<'a>(out: &Path, files: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    let Ok(out) = out.canonicalize() else {
        return Ok(());
    };
    let inside = |file: &&Path| file.canonicalize().is_ok_and(|file| file.starts_with(&out));
    match files.into_iter().find(inside) {
        None => Ok(()),
        Some(file) => Err(Failure::Usage(format!(
            "{} lies in {}, which would be replaced: name another folder",
            file.display(),
            out.display()
        ))),
    }
}

/// What data needs of a recipe's backbone.
pub fn kit(recipe: &Recipe, compute: &Compute) -> Result<Kit, Failure> {
    Ok(Kit {
        preparation: recipe.backbone.plugin.preparation(),
        tokenizer: tokenizer(recipe)?,
        dtype: compute.dtype,
        device: compute.device.clone(),
    })
}

/// A model folder, opened.
pub struct Model {
    /// Its recipe.
    pub recipe: Recipe,
    /// The model.
    pub tuned: Tuned,
    /// What data needs of it.
    pub kit: Kit,
}

impl Model {
    /// Opens the model that `args` name.
    pub fn open(args: &ModelArgs) -> Result<Self, Failure> {
        let compute = compute(&args.device)?;
        let mut recipe = artifact::recipe(&args.model, args.weights.as_deref())?;
        if let Some(tokenizer) = &args.tokenizer {
            recipe.weights.tokenizer = tokenizer.display().to_string();
        } else if !recipe.weights.tokenizer.is_empty() {
            is_there(&recipe.weights.tokenizer, "tokenizer")?;
        }
        if args.weights.is_none() && !recipe.weights.weights.starts_with("random:") {
            is_there(&recipe.weights.weights, "weights")?;
        }
        let kit = kit(&recipe, &compute)?;
        let tuned = artifact::open(&args.model, &recipe, compute)?;
        Ok(Self { recipe, tuned, kit })
    }
}

/// Says by which option a file that has moved since training is named.
fn is_there(path: &str, option: &str) -> Result<(), Failure> {
    match Path::new(path).exists() {
        true => Ok(()),
        false => Err(Failure::Sdk(Error::plugin(format!(
            "{path}, with which the model was made, is not there: say where it is with --{option}"
        )))),
    }
}
