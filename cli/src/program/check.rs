//! `twinspan check`: published values, computed anew with a user's weights.
//!
//! Owns how a value is computed and compared. The values themselves, and where they were
//! published, are in `check/published.rs`.

mod published;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::Serialize;
use twinspan::Encoder;
use twinspan::sdk::Error;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::site::{At, Tap};
use twinspan::sdk::tuned::Inputs;
use twinspan::tasks::classification::predict::probabilities;
use twinspan::tasks::picture;

use super::CheckArgs;
use super::failure::{Failure, print, print_json};
use super::look::Looker;
use published::{Picture, Published, Value, of};

#[derive(Serialize)]
struct Row {
    what: String,
    source: &'static str,
    wanted: Vec<f64>,
    /// None where the picture is not at hand.
    got: Option<Vec<f64>>,
    tolerance: f64,
}

impl Row {
    /// The largest difference, where there is one.
    fn far(&self) -> Option<f64> {
        let got = self.got.as_ref()?;
        let differences = self.wanted.iter().zip(got).map(|(w, g)| (w - g).abs());
        // A comparison with what is no number must not agree.
        Some(differences.fold(
            0.0,
            |most: f64, d| if d > most || d.is_nan() { d } else { most },
        ))
    }

    fn agrees(&self) -> Option<bool> {
        self.far().map(|far| far <= self.tolerance)
    }
}

pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let looker = Looker::open(&args.look)?;
    let Some((model, published)) = of(looker.topology())? else {
        return Err(Failure::Sdk(Error::plugin(format!(
            "no values are known for a model of this size; they are for {}",
            published::MODELS.join(", ")
        ))));
    };
    eprintln!("values published for {model}; other weights of its size give others");
    let rows: Vec<Row> = published
        .iter()
        .map(|value| check(value, &looker, args.pictures.as_deref()))
        .collect::<Result<_, Failure>>()?;
    if args.json {
        print_json(&rows)?;
    } else {
        show(&rows)?;
    }
    let count = |wanted| rows.iter().filter(|row| row.agrees() == wanted).count();
    match (count(Some(false)), count(Some(true))) {
        (0, 0) => Err(Failure::Usage(
            "nothing was compared: say with --pictures where the pictures are".into(),
        )),
        (0, agree) => {
            eprintln!("{agree} agree, {} skipped", count(None));
            Ok(())
        }
        (differ, agree) => Err(Failure::Sdk(Error::plugin(format!(
            "{differ} of {} values published for {model} differ",
            differ + agree
        )))),
    }
}

fn check(published: &Published, looker: &Looker, folder: Option<&Path>) -> Result<Row, Failure> {
    let got = match published.picture {
        None => Some(compute(published, looker, None)?),
        Some(wanted) => match find(folder, wanted) {
            Some(path) => Some(compute(published, looker, Some(picture::open(path)?))?),
            None => None,
        },
    };
    let got = got.map(|values| values.into_iter().skip(published.skip));
    Ok(Row {
        what: published.to_string(),
        source: published.source,
        wanted: published.wanted.to_vec(),
        got: got.map(|values| values.take(published.wanted.len()).collect()),
        tolerance: published.tolerance,
    })
}

fn find(folder: Option<&Path>, picture: Picture) -> Option<PathBuf> {
    let folder = folder?;
    let mut paths = picture.names().iter().map(|name| folder.join(name));
    paths.find(|path| path.is_file())
}

/// The numbers that were published, and those behind them.
fn compute(
    published: &Published,
    encoder: &Encoder,
    picture: Option<RgbImage>,
) -> Result<Vec<f64>, Failure> {
    let pictures = picture.as_slice();
    let found = match published.value {
        Value::Image => encoder.encode_image(pictures)?,
        Value::Text => encoder.encode_text(published.texts)?,
        Value::Logits => encoder.similarities(pictures, published.texts)?,
        Value::Probabilities => {
            let logits = encoder.similarities(pictures, published.texts)?;
            probabilities(&logits, encoder.topology().contrast)?
        }
        Value::Grey(values) => grey(encoder, values, published.texts)?,
    };
    let found = found.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    Ok(found.flatten_all()?.to_vec1()?)
}

/// Prepared inputs of one value each: their vectors, or with sentences the similarities
/// `[sentences, pictures]`.
fn grey(encoder: &Encoder, values: &[f32], texts: &[&str]) -> Result<Tensor, Failure> {
    let side = encoder.preparation().size;
    let planes = values
        .iter()
        .map(|value| Tensor::full(*value, (1, 3, side, side), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let tap = match texts.is_empty() {
        true => Tap::vision(At::Pooled),
        false => Tap::vision(At::Logits),
    };
    let tuned = encoder.tuned();
    let inputs = Inputs {
        images: Some(Tensor::cat(&planes, 0)?.to_device(&tuned.compute().device)?),
        tokens: match texts.is_empty() {
            true => None,
            false => Some(encoder.tokens(texts)?),
        },
        pairs: Vec::new(),
    };
    let found = tuned.route(&[tap])?.walk(&inputs, &mut Pass::predict())?;
    let found = found.into_iter().next().map(|stream| stream.data);
    let found = found.ok_or_else(|| Error::plugin("the encoder gave nothing"))?;
    match texts.is_empty() {
        true => Ok(found),
        false => Ok(found.t()?.contiguous()?),
    }
}

fn show(rows: &[Row]) -> Result<(), Failure> {
    for row in rows {
        let verdict = match row.agrees() {
            Some(true) => "agrees",
            Some(false) => "DIFFERS",
            None => "skipped",
        };
        print(&format!("{verdict:8} {}", row.what))?;
        print(&format!("         published  {}", numbers(&row.wanted)))?;
        if let (Some(got), Some(far)) = (&row.got, row.far()) {
            let far = format!(
                "largest difference {far:.1e}, allowed {:.0e}",
                row.tolerance
            );
            print(&format!("         computed   {}  ({far})", numbers(got)))?;
        }
        print(&format!("         {}", row.source))?;
    }
    Ok(())
}

fn numbers(values: &[f64]) -> String {
    let shown = values.iter().map(|value| format!("{value:.4}"));
    shown.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(got: Option<Vec<f64>>) -> Row {
        Row {
            what: String::new(),
            source: "",
            wanted: vec![1.0, -2.0],
            got,
            tolerance: 1e-3,
        }
    }

    #[test]
    fn only_what_is_near_agrees() {
        assert_eq!(row(Some(vec![1.0005, -2.0])).agrees(), Some(true));
        assert_eq!(row(Some(vec![1.0, -2.002])).agrees(), Some(false));
        assert_eq!(row(Some(vec![f64::NAN, -2.0])).agrees(), Some(false));
        assert_eq!(row(None).agrees(), None);
    }
}
