//! Opening a recipe's or a model's parts, for the commands that run one.

use std::path::Path;

use candle_core::DType;
use twinspan::sdk::recipe::{BYTES, Recipe};
use twinspan::sdk::source::Source;
use twinspan::sdk::task::{DataSource, Kit};
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Error, artifact, device, weights};

use super::ModelArgs;
use super::failure::Failure;
use super::progress::DownloadProgress;

/// Where and in what the program computes: f32 on the device of that name.
pub fn compute(name: &str) -> Result<Compute, Failure> {
    Ok(Compute {
        dtype: DType::F32,
        device: device::device(name)?,
    })
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

/// Refuses a file to write whose folder is not there, before the work and not behind it.
pub fn has_folder(option: &str, file: &Path) -> Result<(), Failure> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Failure::Usage(
            format!("{option}: the folder {} does not exist", folder.display()),
        )),
        _ => Ok(()),
    }
}

/// What data needs of a recipe's backbone; a download is shown.
pub fn kit(recipe: &Recipe, compute: &Compute) -> Result<Kit, Failure> {
    Ok(twinspan::kit(
        recipe,
        compute,
        &DownloadProgress::default(),
    )?)
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
        } else if !recipe.weights.tokenizer.is_empty() && recipe.weights.tokenizer != BYTES {
            is_there(
                &recipe.weights.tokenizer,
                "say where it is with --tokenizer",
            )?;
        }
        let named = usize::from(args.weights.is_some());
        let sources = recipe.weights.sources()?.into_iter().enumerate();
        for (i, source) in sources.skip(named) {
            let help = match i {
                0 => "say where it is with --weights",
                _ => "write where it is into more_weights of the model's recipe.toml",
            };
            if let Source::Path(path) = source {
                is_there(&path.display().to_string(), help)?;
            }
        }
        let kit = kit(&recipe, &compute)?;
        let base = weights::open_telling(&recipe, &DownloadProgress::default())?;
        let tuned = artifact::open_on(&args.model, &recipe, base, compute)?;
        Ok(Self { recipe, tuned, kit })
    }

    /// The model that a recipe makes, fitted to data, before any training.
    pub fn start(
        recipe: &Path,
        settings: &[String],
        source: &DataSource,
        device: &str,
    ) -> Result<Self, Failure> {
        let downloads = DownloadProgress::default();
        let mut recipe = Recipe::open_with(recipe, settings)?;
        recipe = weights::described(&recipe, &downloads)?;
        recipe.task = recipe.task.fitted(source)?;
        let compute = compute(device)?;
        let kit = kit(&recipe, &compute)?;
        let data = recipe.task.plugin.open(source, kit.clone())?;
        recipe = recipe.fitted(data.as_ref())?;
        let mut tuned = Tuned::new(
            &recipe,
            weights::open_telling(&recipe, &downloads)?,
            compute,
        )?;
        let training = recipe.training(data.as_ref());
        tuned.prepare(Some(kit.tokenizer.as_ref()), Some(training))?;
        Ok(Self { recipe, tuned, kit })
    }
}

/// Says how a file that has moved since training is named.
fn is_there(path: &str, help: &str) -> Result<(), Failure> {
    match Path::new(path).exists() {
        true => Ok(()),
        false => Err(Failure::Sdk(Error::plugin(format!(
            "{path}, with which the model was made, is not there: {help}"
        )))),
    }
}
