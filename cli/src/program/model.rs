//! Opening a recipe's or a model's parts, for the commands that run one.

use candle_core::DType;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Kit;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{artifact, device, weights};

use super::ModelArgs;
use super::failure::Failure;

/// Where and in what the program computes: f32 on the device of that name.
pub fn compute(name: &str) -> Result<Compute, Failure> {
    Ok(Compute {
        dtype: DType::F32,
        device: device::device(name)?,
    })
}

/// What data needs of a recipe's backbone.
pub fn kit(recipe: &Recipe, compute: &Compute) -> Result<Kit, Failure> {
    Ok(Kit {
        preparation: recipe.backbone.plugin.preparation(),
        tokenizer: weights::tokenizer(recipe)?,
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
        }
        let kit = kit(&recipe, &compute)?;
        let tuned = artifact::open(&args.model, &recipe, compute)?;
        Ok(Self { recipe, tuned, kit })
    }
}
