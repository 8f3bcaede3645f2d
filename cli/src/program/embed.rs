//! `twinspan embed`: vectors of pictures and sentences as a file.
//!
//! Owns the file: tensors `image` and `text`, and in its metadata the names behind them as JSON
//! (`images`, `texts`) and what the same encoder gives again of one picture (`probe`).

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use twinspan::sdk::file::write_whole;
use twinspan::sdk::{Error, ops};

use super::EmbedArgs;
use super::failure::{Failure, print};
use super::look::{Looker, pictures_in};
use super::model::has_folder;

/// What other machines' rounding may make of a number of a vector of length 1.
const SAME: f32 = 1e-4;

pub fn run(args: &EmbedArgs) -> Result<(), Failure> {
    let mut paths = args.image.clone();
    if let Some(folder) = &args.images {
        paths.extend(pictures_in(folder)?);
    }
    if paths.is_empty() && args.text.is_empty() {
        return Err(Failure::Usage(
            "there is nothing to embed: give --image, --images or --text".into(),
        ));
    }
    if let Some(missing) = args.image.iter().find(|path| !path.exists()) {
        return Err(Failure::Usage(format!(
            "{} is not there",
            missing.display()
        )));
    }
    has_folder("--out", &args.out)?;
    let looker = Looker::open(&args.look)?;
    let mut tensors = Vec::new();
    let mut metadata = HashMap::from([("probe".to_string(), json(&looker.probe()?)?)]);
    if !paths.is_empty() {
        let (vectors, opened) = looker.vectors(&paths)?;
        let names = opened.into_iter().map(|i| paths[i].display().to_string());
        let names: Vec<String> = names.collect();
        metadata.insert("images".into(), json(&names)?);
        tensors.push(("image", written(&vectors, args.unit)?));
    }
    if !args.text.is_empty() {
        let texts: Vec<&str> = args.text.iter().map(String::as_str).collect();
        metadata.insert("texts".into(), json(&texts)?);
        tensors.push(("text", written(&looker.encode_text(&texts)?, args.unit)?));
    }
    let shapes: Vec<String> = tensors
        .iter()
        .map(|(name, tensor)| format!("{name} {:?}", tensor.dims()))
        .collect();
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(Error::plugin)?;
    write_whole(&args.out, |file| file.write_all(&bytes))?;
    print(&format!("{}: {}", args.out.display(), shapes.join(", ")))
}

fn json(names: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(names).map_err(Error::plugin)?)
}

fn written(vectors: &Tensor, to_unit: bool) -> Result<Tensor, Failure> {
    let vectors = vectors.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    match to_unit {
        true => Ok(ops::unit(&vectors)?),
        false => Ok(vectors.contiguous()?),
    }
}

/// The pictures of such a file.
pub struct Embedded {
    /// `[pictures, E]`.
    pub vectors: Tensor,
    /// A name each.
    pub names: Vec<String>,
}

impl Embedded {
    /// Opens a file whose vectors `looker` made.
    pub fn open(path: &Path, looker: &Looker) -> Result<Self, Failure> {
        let wrong =
            |problem: String| Failure::Sdk(Error::plugin(format!("{}: {problem}", path.display())));
        let bytes = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let unlike = "it is no file of `embed --images`";
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|e| wrong(format!("{unlike}: {e}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let names: Vec<String> = metadata
            .get("images")
            .and_then(|names| serde_json::from_str(names).ok())
            .ok_or_else(|| wrong(format!("{unlike}: it names no pictures")))?;
        let probe: Option<Vec<f32>> = metadata
            .get("probe")
            .and_then(|probe| serde_json::from_str(probe).ok());
        let near = |probe: &Vec<f32>, own: &[f32]| {
            probe.len() == own.len() && probe.iter().zip(own).all(|(a, b)| (a - b).abs() < SAME)
        };
        let own = looker.probe()?;
        if !probe.is_some_and(|probe| near(&probe, &own)) {
            return Err(wrong(
                "it was made with other weights or otherwise prepared pictures: embed them again"
                    .into(),
            ));
        }
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        let joint = looker.topology().joint;
        let vectors = tensors
            .remove("image")
            .filter(|t| t.dtype() == DType::F32 && t.dims() == [names.len(), joint])
            .ok_or_else(|| wrong(format!("{unlike}: it has no vectors for its names")))?;
        Ok(Self { vectors, names })
    }
}
