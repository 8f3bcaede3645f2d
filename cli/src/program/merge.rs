//! `twinspan merge`: a model's weights with its adapters in them, as a file for other software.
//!
//! Owns what is printed, the check that the merged weights give what the model gives, and which
//! files are not replaced. Folding is the SDK's ([`Tuned::merge`](twinspan::sdk::tuned::Tuned)).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use twinspan::sdk::artifact::TUNED;
use twinspan::sdk::key_map::KeyMap;
use twinspan::sdk::parameter::Init;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::source::Source;
use twinspan::sdk::stream::Stream;
use twinspan::sdk::task::Batch;
use twinspan::sdk::tuned::{HEAD, Merged, Tuned};
use twinspan::sdk::weights::{layout_named, layout_of, write};
use twinspan::sdk::{Error, pass::Pass};

use super::failure::{Failure, print};
use super::model::{Model, has_folder};
use super::plan::grouped;
use super::{Element, MergeArgs};

/// What the extension of the file says to other software.
const EXTENSION: &str = "safetensors";
/// Of the largest feature: sums of f32 in another order, enlarged by norms between the blocks, stay
/// well below; a fold that is wrong does not.
const SAME: f64 = 1e-3;
/// What the check looks at.
const SENTENCES: [&str; 2] = ["a red disc on the left", "it"];

pub fn run(args: &MergeArgs) -> Result<(), Failure> {
    may_write(args)?;
    let mut model = Model::open(&args.model)?;
    spares_own(args, &model)?;
    for label in &args.without {
        model.tuned.disable(label)?;
    }
    let backbone = model.recipe.backbone.plugin.clone();
    let layout = match &args.layout {
        Some(name) => layout_named(backbone.as_ref(), name)?,
        None => layout_of(backbone.as_ref(), &model.tuned.base)?,
    };
    let merged = model.tuned.merge().map_err(advised)?;
    let stored = merged.stored(args.dtype.map(Element::dtype));
    let stored = stored.map_err(advised)?;
    let off = checked(&model, &merged, &stored)?;
    warn_of_sizes(&model.tuned, &stored);
    let count = stored.len();
    let types = types(&stored);
    let bytes = write(&args.out, backbone.as_ref(), &layout, stored)?;
    print(&format!(
        "{}: {count} tensors of {types}, {:.1} MB, layout `{}`",
        args.out.display(),
        bytes as f64 / 1e6,
        layout.name
    ))?;
    print(&told(args, &model, &merged).join("\n"))?;
    print(&format!(
        "checked\n  features of drawn inputs differ from the model's by {off:.1e} of the largest"
    ))?;
    print(&format!("to load it\n{}", loading(&layout, &args.out)))
}

/// Refuses a file that cannot be written or would be replaced unasked, before the work.
fn may_write(args: &MergeArgs) -> Result<(), Failure> {
    let out = args.out.display();
    let wrong = |problem: String| Err(Failure::Usage(format!("--out {out} {problem}")));
    if args.out.extension().is_none_or(|e| e != EXTENSION) {
        return wrong(format!(
            "does not end in .{EXTENSION}, by which other software knows what it is"
        ));
    }
    has_folder("--out", &args.out)?;
    match (args.out.is_dir(), args.out.exists() && !args.overwrite) {
        (true, _) => wrong("is a folder: name a file".into()),
        (_, true) => {
            wrong("is there already: name another file, or replace it with --overwrite".into())
        }
        _ => Ok(()),
    }
}

/// Refuses to replace what the model is made of, or a part of any other model folder.
fn spares_own(args: &MergeArgs, model: &Model) -> Result<(), Failure> {
    let Ok(out) = args.out.canonicalize() else {
        return Ok(());
    };
    let mut own: Vec<PathBuf> = model
        .tuned
        .base
        .file()
        .map(PathBuf::from)
        .into_iter()
        .collect();
    for source in model.recipe.weights.sources()? {
        if let Source::Path(path) = source {
            own.push(path);
        }
    }
    let inside = |own: &PathBuf| own.canonicalize().is_ok_and(|own| out.starts_with(own));
    let of_a_model = out
        .parent()
        .is_some_and(|folder| folder.join(TUNED).is_file());
    match of_a_model || own.iter().any(inside) {
        false => Ok(()),
        true => Err(Failure::Usage(format!(
            "--out {} is a file that a model is made of: name another",
            args.out.display()
        ))),
    }
}

/// The same error, with the options that leave out what does not fold.
fn advised(error: Error) -> Failure {
    let Error::CannotMerge { refusals } = &error else {
        return error.into();
    };
    let options: Vec<String> = refusals
        .iter()
        .map(|refusal| format!("--without {}", refusal.adapter))
        .collect();
    Failure::Usage(format!(
        "{error}\n  to merge the others: {}",
        options.join(" ")
    ))
}

/// By how much, of the largest, features over the merged weights differ from the model's. What
/// folding alone makes must be next to nothing; rounding to fewer digits may add to it.
fn checked(
    model: &Model,
    merged: &Merged,
    stored: &BTreeMap<String, Tensor>,
) -> Result<f64, Failure> {
    let batch = drawn(model)?;
    let recipe = Recipe {
        adapters: Vec::new(),
        ..model.recipe.clone()
    };
    let wanted = features(&model.tuned, &batch)?;
    let off = |tuned: Tuned| difference(&features(&tuned, &batch)?, &wanted);
    let compute = model.tuned.compute();
    let folded = off(merged.model(&recipe, compute.clone())?)?;
    // Also where it is no number.
    if folded.is_nan() || folded > SAME {
        return Err(Failure::Sdk(Error::plugin(format!(
            "features over the merged weights differ from the model's by {folded:.1e} of the largest: an adapter says of itself other weights than it acts by; nothing was written"
        ))));
    }
    match types(stored) == types(&merged.weights) {
        true => Ok(folded),
        false => off(merged.model_over(stored, &recipe, compute)?),
    }
}

/// Two pictures and two sentences, each pair.
fn drawn(model: &Model) -> Result<Batch, Failure> {
    let Model { recipe, tuned, kit } = model;
    let compute = tuned.compute();
    let side = kit.preparation.size;
    let words = match recipe.task.plugin.words() {
        0 => kit.context,
        words => words.min(kit.context),
    };
    let count = SENTENCES.len();
    let ids = SENTENCES
        .iter()
        .flat_map(|sentence| kit.tokenizer.encode(sentence, words).ids);
    let ids: Vec<u32> = ids.collect();
    let shape = [count, 3, side, side];
    let pairs: Vec<(u32, u32)> = (0..count as u32)
        .flat_map(|picture| (0..count as u32).map(move |sentence| (picture, sentence)))
        .collect();
    Ok(Batch {
        images: Init::Normal(1.0).tensor(0, "pictures", &shape, compute.dtype, &compute.device)?,
        tokens: Tensor::from_vec(ids, (count, words), &compute.device)?,
        examples: (0..pairs.len()).collect(),
        pairs,
        target: None,
    })
}

fn features(tuned: &Tuned, batch: &Batch) -> Result<Vec<f64>, Failure> {
    let streams: Vec<Stream> = tuned.forward(batch, &mut Pass::predict())?;
    let mut values = Vec::new();
    for stream in streams {
        let flat = stream.data.to_dtype(DType::F64)?.flatten_all()?;
        values.extend(flat.to_vec1::<f64>()?);
    }
    Ok(values)
}

fn difference(found: &[f64], wanted: &[f64]) -> Result<f64, Failure> {
    let largest = wanted
        .iter()
        .fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    // A maximum that keeps what is no number.
    let off = off.fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most });
    match found.len() == wanted.len() {
        true => Ok(off / largest),
        false => Ok(f64::NAN),
    }
}

/// Says which tensors other software would not expect in this size: positions that trained on
/// pictures of another.
fn warn_of_sizes(tuned: &Tuned, stored: &BTreeMap<String, Tensor>) {
    for (name, tensor) in stored {
        let own = tuned.base.get(name).map(|own| own.shape().dims());
        if let Some(own) = own.filter(|own| *own != tensor.dims()) {
            eprintln!(
                "warning: `{name}` was trained in another size than the base's: {:?}, not {own:?}; say so in the configuration of what loads it",
                tensor.dims()
            );
        }
    }
}

/// What was folded and what was left out, a line each below a heading.
fn told(args: &MergeArgs, model: &Model, merged: &Merged) -> Vec<String> {
    let mut folded = Vec::new();
    for (label, names) in &merged.folded {
        folded.push((label.as_str(), span("tensor", names)));
    }
    if !merged.statistics.is_empty() {
        let names = span("running statistic", &merged.statistics);
        folded.push(("batch norms", names));
    }
    if folded.is_empty() {
        folded.push((
            "nothing",
            "these are the weights the model was made on".into(),
        ));
    }
    let mut left = Vec::new();
    for label in &args.without {
        left.push((label.as_str(), "by --without".to_string()));
    }
    let task = &model.recipe.task.name;
    let head = match model.tuned.overlay.count(HEAD) {
        0 => format!("task `{task}`; it has no parameters"),
        count => format!("{} parameters of task `{task}`", grouped(count)),
    };
    left.push((HEAD, head));
    if !merged.fresh.is_empty() {
        let names: Vec<String> = merged.fresh.keys().cloned().collect();
        left.push((
            "backbone",
            format!("{}, which no weight file holds", span("tensor", &names)),
        ));
    }
    let mut lines = Vec::new();
    for (heading, rows) in [("folded in", folded), ("left out", left)] {
        lines.push(heading.to_string());
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let rows = rows
            .iter()
            .map(|(name, what)| format!("  {name:width$}  {what}"));
        lines.extend(rows);
    }
    lines
}

/// How many, and from which to which.
fn span(what: &str, names: &[String]) -> String {
    match names {
        [] => format!("no {what}: at this start it changes none"),
        [one] => format!("1 {what}: {one}"),
        [first, .., last] => format!("{} {what}s: {first} to {last}", names.len()),
    }
}

fn types(stored: &BTreeMap<String, Tensor>) -> String {
    let mut types: Vec<&str> = stored.values().map(|t| t.dtype().as_str()).collect();
    types.sort_unstable();
    types.dedup();
    types.join(" and ")
}

/// How other software and this one load a file of a layout.
fn loading(layout: &KeyMap, out: &Path) -> String {
    let file = out.display();
    let mut ways = Vec::new();
    if layout.is_called("hf") {
        ways.push(
            "  transformers  copy it as model.safetensors beside the base's config.json: AutoModel.from_pretrained(FOLDER)".into(),
        );
    }
    if layout.name.starts_with("open_clip") || layout.is_called("open_clip") {
        ways.push(format!(
            "  open_clip     open_clip.create_model(NAME, pretrained=\"{file}\")"
        ));
    }
    ways.push(format!(
        "  twinspan      --weights {file}, or weights = \"{file}\" in a recipe"
    ));
    ways.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_or_of_another_length_differs() {
        let wanted = [1.0, -4.0, 2.0];
        let off = |found: &[f64]| difference(found, &wanted).unwrap();
        assert_eq!(off(&[1.0, -4.0, 1.0]), 0.25);
        assert!(off(&[f64::NAN, -4.0, 2.0]).is_nan());
        assert!(off(&[1.0, f64::NAN, 0.0]).is_nan());
        assert!(off(&[1.0, -4.0]).is_nan());
    }
}
