//! How pictures are prepared, as an option of a backbone and as published files say it.
//!
//! Owns the option `pictures` and the reading of `preprocessor_config.json` (transformers) and of
//! `preprocess_cfg` in `open_clip_config.json`. Moves no pixel.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinspan_sdk::plugin::Opt;
use twinspan_sdk::preparation::{Fit, Preparation, Resampling};
use twinspan_sdk::source::Description;
use twinspan_sdk::{Error, Result};

use crate::sizes::Check;

/// Parts of a preparation in place of a family's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pictures {
    /// Mean of each channel of values in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// How pixels are resampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resampling: Option<Resampling>,
    /// How a picture is brought to the square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
}

/// transformers' file.
const TRANSFORMERS: &str = "preprocessor_config.json";
/// open_clip's file.
const OPEN_CLIP: &str = "open_clip_config.json";

impl Pictures {
    /// The option, as `describe` shows it.
    pub(crate) const OPT: Opt = Opt::new(
        "pictures",
        "table {mean, std, resampling, fit}",
        "how pictures are prepared, where it differs from what the files beside the weights or the family say: mean and std by channel, \
         resampling = \"bicubic\" or \"bilinear\", fit = \"crop\", \"crop-first\" (as transformers round), \"squash\" or \"letterbox\"; \
         segmentation always takes the whole picture, as with \"letterbox\"",
    );

    /// What is said here, and `other` where nothing is.
    pub(crate) fn or(&self, other: Self) -> Self {
        Self {
            mean: self.mean.or(other.mean),
            std: self.std.or(other.std),
            resampling: self.resampling.or(other.resampling),
            fit: self.fit.or(other.fit),
        }
    }

    /// Refuses what no picture can be normalised by.
    pub(crate) fn check(&self, check: Check) -> Result<()> {
        let means = self.mean.iter().flatten().all(|n| n.is_finite());
        let deviations = self.std.iter().flatten().all(|n| n.is_finite() && *n > 0.0);
        match means && deviations {
            true => Ok(()),
            false => Err(check.wrong("pictures: mean and std must be numbers, std above 0")),
        }
    }

    /// `family`'s preparation with what is said here in its place.
    pub(crate) fn over(&self, family: Preparation) -> Preparation {
        Preparation {
            size: family.size,
            mean: self.mean.unwrap_or(family.mean),
            std: self.std.unwrap_or(family.std),
            resampling: self.resampling.unwrap_or(family.resampling),
            fit: self.fit.unwrap_or(family.fit),
        }
    }

    /// What the files beside the weights say; nothing where there are none.
    ///
    /// # Errors
    /// They ask for what is not done here.
    pub(crate) fn described(description: &Description) -> Result<Self> {
        if let Some(file) = description.preprocessor() {
            return transformers(file);
        }
        let open_clip = description.open_clip();
        match open_clip.and_then(|file| file.get("preprocess_cfg")) {
            Some(file) => open_clip_pictures(file),
            None => Ok(Self::default()),
        }
    }
}

/// `preprocessor_config.json` of CLIP's and SigLIP's image processors.
fn transformers(file: &Value) -> Result<Pictures> {
    let off = |name: &str| file.get(name).and_then(Value::as_bool) == Some(false);
    if let Some(step) = ["do_resize", "do_rescale", "do_normalize"]
        .into_iter()
        .find(|step| off(step))
    {
        return Err(refused(
            TRANSFORMERS,
            step,
            "false: that step is always done",
        ));
    }
    let factor = file.get("rescale_factor").and_then(Value::as_f64);
    if factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
        return Err(refused(TRANSFORMERS, "rescale_factor", "must be 1/255"));
    }
    let size = file.get("size");
    let whole = size.filter(|size| size.get("height").is_some());
    if let Some(size) = whole.filter(|size| size.get("height") != size.get("width")) {
        return Err(refused(
            TRANSFORMERS,
            "size",
            format!("{size}: must be a square"),
        ));
    }
    // Where nothing is said, a size of one number is that of CLIP's processor, which cuts.
    let crops = match file.get("do_center_crop") {
        Some(Value::Bool(crops)) => *crops,
        None | Some(Value::Null) => size.is_some() && whole.is_none(),
        Some(other) => {
            return Err(refused(
                TRANSFORMERS,
                "do_center_crop",
                format!("{other}: must be true or false"),
            ));
        }
    };
    if !crops && size.is_some() && whole.is_none() {
        return Err(refused(
            TRANSFORMERS,
            "do_center_crop",
            "false: pictures that are not square are not taken",
        ));
    }
    let side = |name: &str| side(file.get(name)?);
    if let (true, Some(cut), Some(resized)) = (crops, side("crop_size"), side("size"))
        && cut != resized
    {
        return Err(refused(
            TRANSFORMERS,
            "crop_size",
            format!("{cut} after a resize to {resized}: both must be the same"),
        ));
    }
    Ok(Pictures {
        mean: colours(TRANSFORMERS, file, "image_mean")?,
        std: colours(TRANSFORMERS, file, "image_std")?,
        resampling: match file.get("resample") {
            // Pillow's numbers.
            Some(number) if *number == 2 => Some(Resampling::Bilinear),
            Some(number) if *number == 3 => Some(Resampling::Bicubic),
            None => None,
            Some(other) => {
                let known = format!("{other}: only 2 (bilinear) and 3 (bicubic) are known");
                return Err(refused(TRANSFORMERS, "resample", known));
            }
        },
        fit: match (crops, whole) {
            (true, _) => Some(Fit::CropFirst),
            (false, Some(_)) => Some(Fit::Squash),
            (false, None) => None,
        },
    })
}

/// A side in pixels: a number, `shortest_edge`, or `height`.
fn side(value: &Value) -> Option<u64> {
    let named = |name| value.get(name).and_then(Value::as_u64);
    value
        .as_u64()
        .or_else(|| named("shortest_edge"))
        .or_else(|| named("height"))
}

/// `preprocess_cfg` of `open_clip_config.json`.
fn open_clip_pictures(file: &Value) -> Result<Pictures> {
    let text = |name: &str| file.get(name).and_then(Value::as_str);
    Ok(Pictures {
        mean: colours(OPEN_CLIP, file, "mean")?,
        std: colours(OPEN_CLIP, file, "std")?,
        resampling: match text("interpolation") {
            None => None,
            Some("bicubic") => Some(Resampling::Bicubic),
            Some("bilinear") => Some(Resampling::Bilinear),
            Some(other) => {
                let known = format!("`{other}`: only bicubic and bilinear are known");
                return Err(refused(OPEN_CLIP, "interpolation", known));
            }
        },
        fit: match text("resize_mode") {
            None => None,
            Some("shortest") => Some(Fit::Crop),
            Some("squash") => Some(Fit::Squash),
            Some(other) => {
                let known = format!("`{other}`: only shortest and squash are known");
                return Err(refused(OPEN_CLIP, "resize_mode", known));
            }
        },
    })
}

/// Three numbers, one a channel.
fn colours(file: &str, value: &Value, name: &str) -> Result<Option<[f32; 3]>> {
    let Some(value) = value.get(name) else {
        return Ok(None);
    };
    let numbers: Option<Vec<f32>> = value
        .as_array()
        .and_then(|items| items.iter().map(|n| n.as_f64().map(|n| n as f32)).collect());
    let three: Option<[f32; 3]> = numbers.and_then(|n| n.try_into().ok());
    let least = if name.ends_with("std") {
        f32::MIN_POSITIVE
    } else {
        f32::MIN
    };
    match three.filter(|n| n.iter().all(|n| n.is_finite() && *n >= least)) {
        Some(three) => Ok(Some(three)),
        None => Err(refused(
            file,
            name,
            "must be three numbers, above 0 where they divide",
        )),
    }
}

fn refused(file: &str, field: &str, message: impl std::fmt::Display) -> Error {
    Error::wrong_use(format!("{file}: `{field}`: {message}"))
}
