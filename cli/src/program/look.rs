//! What the commands that only look have in common: opening an encoder, and pictures in numbers.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use image::RgbImage;
use toml::Table;
use twinspan::sdk::{Error, ops};
use twinspan::tasks::folders::ENDINGS;
use twinspan::tasks::picture;
use twinspan::{Encoder, Model};

use super::LookArgs;
use super::failure::Failure;
use super::model;
use super::progress::{DownloadProgress, Progress};

/// Pictures that are opened and looked at together.
const TOGETHER: usize = 16;
/// Numbers of a vector that tell encoders apart.
const PROBED: usize = 16;

/// A frozen encoder, or one with adapters.
pub enum Looker {
    Encoder(Box<Encoder>),
    Model(Box<Model>),
}

impl std::ops::Deref for Looker {
    type Target = Encoder;

    fn deref(&self) -> &Encoder {
        match self {
            Looker::Encoder(encoder) => encoder,
            Looker::Model(model) => model,
        }
    }
}

impl Looker {
    /// What `args` name.
    pub fn open(args: &LookArgs) -> Result<Self, Failure> {
        let compute = model::compute(&args.device)?;
        let downloads = DownloadProgress::default();
        match (&args.model, &args.weights) {
            (Some(folder), _) => {
                let model = Model::open_with(folder, compute, &downloads)?;
                Ok(Self::Model(Box::new(model)))
            }
            (None, Some(weights)) => {
                let options = options(&args.set)?;
                let encoder = Encoder::open_with(weights, options, compute, &downloads)?;
                Ok(Self::Encoder(Box::new(encoder)))
            }
            (None, None) => Err(Failure::Usage("give --weights or --model".into())),
        }
    }

    /// The first numbers of the vector of a picture that is always the same: other weights,
    /// adapters, precision or preparation give others.
    pub fn probe(&self) -> Result<Vec<f32>, Failure> {
        let shade = |x: u32, y: u32| image::Rgb([(3 * x) as u8, (5 * y) as u8, (x ^ y) as u8]);
        let picture = RgbImage::from_fn(80, 50, shade);
        let vector = ops::unit(&self.encode_image(&[picture])?.to_device(&Device::Cpu)?)?;
        let mut vector = vector.flatten_all()?.to_vec1::<f32>()?;
        vector.truncate(PROBED);
        Ok(vector)
    }

    /// The vectors `[pictures, E]` of the pictures at `paths`, and the places of those that could
    /// be opened; a warning names the others.
    pub fn vectors(&self, paths: &[PathBuf]) -> Result<(Tensor, Vec<usize>), Failure> {
        let mut progress = Progress::new("pictures", paths.len());
        let (mut vectors, mut opened) = (Vec::new(), Vec::new());
        for start in (0..paths.len()).step_by(TOGETHER) {
            let end = paths.len().min(start + TOGETHER);
            let mut pictures = Vec::new();
            for (place, path) in paths.iter().enumerate().take(end).skip(start) {
                match picture::open(path) {
                    Ok(picture) => {
                        pictures.push(picture);
                        opened.push(place);
                    }
                    Err(error) => progress.line(&format!("warning: left out: {error}")),
                }
            }
            if !pictures.is_empty() {
                let found = self.encode_image(&pictures)?;
                vectors.push(found.to_device(&Device::Cpu)?);
            }
            progress.at(end, String::new());
        }
        progress.finish();
        match vectors.is_empty() {
            true => Err(Failure::Sdk(Error::plugin("no picture could be opened"))),
            false => Ok((Tensor::cat(&vectors, 0)?, opened)),
        }
    }
}

/// The options of a backbone that `--set KEY=VALUE` give; values are TOML, or texts.
pub fn options(settings: &[String]) -> Result<Table, Failure> {
    let mut options = Table::new();
    for setting in settings {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(Failure::Usage(format!(
                "--set {setting}: write KEY=VALUE, as in preset=ViT-B/32"
            )));
        };
        let parsed = format!("v = {value}").parse::<Table>().ok();
        let value = parsed
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| value.into());
        options.insert(key.trim().into(), value);
    }
    Ok(options)
}

/// The pictures in a folder and the folders in it, in the order of their paths.
pub fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut folders, mut found) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let unreadable = |source| Failure::Io {
            what: folder.display().to_string(),
            source,
        };
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // A link to a folder may lead in a circle.
            let is_folder = entry.file_type().map_err(unreadable)?.is_dir();
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.');
            let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
            match is_folder {
                _ if hidden => {}
                true => folders.push(path),
                false if ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Failure::Sdk(Error::plugin(format!(
            "{} holds no pictures (*.{})",
            folder.display(),
            ENDINGS.join(", *.")
        )))),
        false => Ok(found),
    }
}

/// The pictures at `paths`.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<RgbImage>, Failure> {
    let opened = paths.iter().map(|path| Ok(picture::open(path)?));
    opened.collect()
}
