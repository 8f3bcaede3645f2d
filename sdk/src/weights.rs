//! Opening a recipe's weights: from a file in any layout the backbone knows, or random ones.
//!
//! Owns the choice of layout and the random start of a base. Finding files is [`crate::source`]'s,
//! reading them [`crate::checkpoint`]'s, translating names [`crate::key_map`]'s; files for other
//! software are written in `write`.

mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};

use crate::backbone::Backbone;
use crate::base::Base;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::hub::{Hub, Progress};
use crate::key_map::{Entry, Expected, KeyMap};
use crate::parameter::Init;
use crate::recipe::{BYTES, EMBEDDED, Recipe};
use crate::registry::{self, BackboneEntry, Configured};
use crate::site::{Projection, Role};
use crate::source::{Description, Source};
use crate::tokenizer::Tokenizer;
use crate::topology::{LOGIT_BIAS, Origin, ParameterInfo, Topology};

pub use write::{layout_named, write};

/// The base a recipe names; a model of the hub is downloaded where the cache lacks it.
///
/// # Errors
/// The file is not there, is not a weight file, or does not hold the backbone's weights.
pub fn open(recipe: &Recipe) -> Result<Base> {
    open_telling(recipe, &())
}

/// The same, with `progress` told of downloads.
///
/// # Errors
/// As [`open`].
pub fn open_telling(recipe: &Recipe, progress: &dyn Progress) -> Result<Base> {
    let base = stored(recipe, progress)?;
    Ok(base.in_precision(recipe.weights.precision.dtype()))
}

/// The base with the values that are stored.
fn stored(recipe: &Recipe, progress: &dyn Progress) -> Result<Base> {
    let backbone = recipe.backbone.plugin.as_ref();
    let sources = recipe.weights.sources()?;
    if let Some(seed) = recipe.weights.random() {
        return random(&backbone.topology()?, seed);
    }
    if recipe.weights.weights == EMBEDDED {
        return embedded(recipe);
    }
    if recipe.weights.weights.starts_with("random:") {
        return Err(Error::Recipe {
            origin: "[backbone]".into(),
            message: format!(
                "weights = \"{}\": write random:SEED with a whole number",
                recipe.weights.weights
            ),
        });
    }
    let files = sources
        .iter()
        .map(|source| Ok(source.files(Hub::of_process(), progress)?.weights));
    open_files(backbone, &files.collect::<Result<Vec<PathBuf>>>()?)
}

/// Where a recipe's weights are from, if they are there already: a plan is made before that, and
/// opening them says that they are not.
fn present(recipe: &Recipe) -> Result<Option<Source>> {
    Ok(match recipe.weights.source()? {
        Some(Source::Path(path)) if !path.exists() => None,
        source => source,
    })
}

/// What the files beside a recipe's weights say of them; empty where the weights are from none, or
/// from a path that is not there yet. The weights themselves are neither read nor downloaded.
///
/// # Errors
/// The model is not on the hub, or a file is no JSON.
pub fn description(recipe: &Recipe, progress: &dyn Progress) -> Result<Description> {
    match present(recipe)? {
        Some(source) => Ok(source.description(Hub::of_process(), progress)?),
        None => Ok(Description::default()),
    }
}

/// The recipe with what its backbone's options leave open filled in from the files beside its
/// weights: sizes, how pictures are prepared. The same recipe where the weights are from nowhere, or
/// from a path that is not there yet.
///
/// # Errors
/// The model is not on the hub; neither files nor options say which model it is; the files
/// describe one of another family, another than the preset that is named, or one that the
/// backbone cannot be.
pub fn described(recipe: &Recipe, progress: &dyn Progress) -> Result<Recipe> {
    let mut recipe = recipe.clone();
    let Some(source) = present(&recipe)? else {
        return Ok(recipe);
    };
    let description = source.description(Hub::of_process(), progress)?;
    let Configured { name, plugin, .. } = &recipe.backbone;
    match plugin.described(&description)? {
        Some(options) => recipe.backbone = registry::configured::<BackboneEntry>(name, options)?,
        None => {
            let others = match description.is_empty() {
                true => Vec::new(),
                false => backbones(&description)?,
            };
            if others.is_empty() && !plugin.is_said() {
                return Err(Error::Recipe {
                    origin: "[backbone]".into(),
                    message: format!(
                        "no file beside `{}` says which `{name}` it is of: give its preset or its model",
                        recipe.weights.weights
                    ),
                });
            }
            // Of several sources the files beside the first say what one tower is of.
            let alone = recipe.weights.more_weights.is_empty();
            if let Some(other) = others.first().filter(|_| alone) {
                return Err(Error::Recipe {
                    origin: "[backbone]".into(),
                    message: format!(
                        "the files beside `{}` describe no `{name}`: write use = \"{}\"",
                        recipe.weights.weights, other.name
                    ),
                });
            }
        }
    }
    Ok(recipe)
}

/// The linked backbones of which files beside weights describe a model, with the options that
/// make them that model.
///
/// # Errors
/// No backbone is linked; the files describe one that a backbone cannot be.
pub fn backbones(description: &Description) -> Result<Vec<Configured<dyn Backbone>>> {
    let mut found = Vec::new();
    for name in registry::names::<BackboneEntry>()? {
        let plain = registry::configured::<BackboneEntry>(name, toml::Table::new())?;
        if let Some(options) = plain.plugin.described(description)? {
            found.push(registry::configured::<BackboneEntry>(name, options)?);
        }
    }
    Ok(found)
}

/// The tokenizer a recipe names, or else the one beside its weights.
///
/// # Errors
/// The file is not a vocabulary of the backbone; or the weights are from somewhere and there is no
/// vocabulary: they know the ids of one, and another's would be silently wrong.
pub fn tokenizer(recipe: &Recipe) -> Result<Arc<dyn Tokenizer>> {
    tokenizer_telling(recipe, &())
}

/// The same, with `progress` told of downloads.
///
/// # Errors
/// As [`tokenizer`].
pub fn tokenizer_telling(recipe: &Recipe, progress: &dyn Progress) -> Result<Arc<dyn Tokenizer>> {
    let plugin = recipe.backbone.plugin.as_ref();
    match recipe.weights.tokenizer.as_str() {
        BYTES => plugin.tokenizer(None),
        "" => match recipe.weights.sources()?.as_slice() {
            [] => plugin.tokenizer(None),
            sources => plugin.tokenizer(Some(&beside(sources, progress)?)),
        },
        path => plugin.tokenizer(Some(Path::new(path))),
    }
}

/// The vocabulary beside the weights: that of the first source with one.
fn beside(sources: &[Source], progress: &dyn Progress) -> Result<PathBuf> {
    for source in sources {
        if let Some(found) = source.tokenizer(Hub::of_process(), progress)? {
            return Ok(found);
        }
    }
    let names: Vec<String> = sources.iter().map(Source::to_string).collect();
    Err(Error::Recipe {
        origin: "[backbone]".into(),
        message: format!(
            "{} has no vocabulary beside it, and weights from a file need the one they were trained with: tokenizer = \"FILE\", or \"{BYTES}\" for the backbone's own",
            names.join(", ")
        ),
    })
}

/// The base that is part of a recipe's backbone.
fn embedded(recipe: &Recipe) -> Result<Base> {
    let name = recipe.backbone.name;
    let Some(bytes) = recipe.backbone.plugin.embedded() else {
        return Err(Error::Recipe {
            origin: "[backbone]".into(),
            message: format!(
                "weights = \"{EMBEDDED}\": `{name}` has none; name a file, or random:SEED"
            ),
        });
    };
    let stored = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
    let mut tensors = BTreeMap::new();
    for info in expected(&recipe.backbone.plugin.topology()?) {
        let tensor = stored.get(&info.name).ok_or_else(|| Error::WeightMissing {
            name: info.name.clone(),
        })?;
        tensors.insert(info.name, tensor.to_dtype(DType::F32)?);
    }
    Ok(Base::from_tensors(tensors))
}

/// The base in a weight file, in the layout of which the file has the most names.
///
/// # Errors
/// As [`open`].
pub fn open_file(backbone: &dyn Backbone, path: &Path) -> Result<Base> {
    let expected = expected(&backbone.topology()?);
    let layouts = layouts(backbone)?;
    Base::open_with_cache(
        path,
        |checkpoint: &Checkpoint| -> Result<BTreeMap<String, Frozen>> {
            Ok(KeyMap::of(&layouts, checkpoint)?.read(checkpoint, &expected)?)
        },
    )
}

/// The base in several weight files together, each in the layout of which it has the most names.
/// A layout need not name every tensor; the files together must hold each of them once. The
/// digest of such a base is not kept beside a file, but computed when it is asked for.
///
/// # Errors
/// As [`open`]; two files hold the same tensor.
pub fn open_files(backbone: &dyn Backbone, paths: &[PathBuf]) -> Result<Base> {
    if let [path] = paths {
        return open_file(backbone, path);
    }
    let expected = expected(&backbone.topology()?);
    let layouts = layouts(backbone)?;
    let mut tensors: BTreeMap<String, (Frozen, &Path)> = BTreeMap::new();
    for path in paths {
        let checkpoint = Checkpoint::open(path)?;
        let layout = KeyMap::of(&layouts, &checkpoint)?;
        let named: BTreeSet<&str> = layout.entries.iter().map(|e| &*e.canonical).collect();
        let own = expected.iter().filter(|e| named.contains(&*e.name));
        let own: Vec<Expected> = own.cloned().collect();
        for (name, tensor) in layout.read(&checkpoint, &own)? {
            if let Some((_, other)) = tensors.get(&name) {
                return Err(Error::wrong_use(format!(
                    "`{name}` is in {} and in {}: leave one of them out",
                    other.display(),
                    path.display()
                )));
            }
            tensors.insert(name, (tensor, path));
        }
    }
    let missing = expected.iter().filter(|e| !tensors.contains_key(&e.name));
    let missing: Vec<&str> = missing.map(|e| &*e.name).collect();
    if let [first, ..] = missing[..] {
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        return Err(Error::wrong_use(format!(
            "{} tensors of the backbone are in none of {}: `{first}` is the first",
            missing.len(),
            paths.join(", ")
        )));
    }
    let tensors = tensors
        .into_iter()
        .map(|(name, (tensor, _))| (name, tensor));
    Ok(Base::from_frozen(tensors.collect()))
}

/// What the base must hold for a topology.
pub fn expected(topology: &Topology) -> Vec<Expected> {
    topology
        .parameters()
        .filter_map(|p| match p.origin {
            Origin::Base => Some(Expected::exactly(&p.name, p.shape.clone())),
            Origin::Resized { .. } => Some(Expected::any_rows(&p.name, p.shape.clone())),
            Origin::Fresh(_) => None,
        })
        .collect()
}

/// The layouts that weights of a backbone come in: first that of the canonical names, which this
/// crate writes itself, then the backbone's own; of two that fit a file equally the last is taken.
///
/// # Errors
/// The backbone's options do not fit together.
pub fn layouts(backbone: &dyn Backbone) -> Result<Vec<KeyMap>> {
    let expected = expected(&backbone.topology()?);
    let names = expected.iter().map(|e| Entry::whole(&e.name, &e.name));
    let mut layouts = vec![KeyMap {
        name: CANONICAL,
        also: &["canonical"],
        entries: names.collect(),
        ignored: Vec::new(),
    }];
    layouts.extend(backbone.layouts()?);
    Ok(layouts)
}

/// The layout that a base was read in; the canonical one where it was not read from a file.
///
/// # Errors
/// The file is gone, or in none of the backbone's layouts.
pub fn layout_of(backbone: &dyn Backbone, base: &Base) -> Result<KeyMap> {
    match base.file() {
        Some(file) => {
            let layouts = layouts(backbone)?;
            Ok(KeyMap::of(&layouts, &Checkpoint::open(file)?)?.clone())
        }
        None => layout_named(backbone, CANONICAL),
    }
}

/// What the layout of the canonical names is called.
const CANONICAL: &str = "twinspan";

/// A base drawn from a seed: a start for models that are trained from nothing, and for trials
/// without a download.
///
/// # Errors
/// The topology has a parameter without a size.
pub fn random(topology: &Topology, seed: u64) -> Result<Base> {
    let mut tensors = BTreeMap::new();
    for info in topology.parameters() {
        if matches!(info.origin, Origin::Fresh(_)) {
            continue;
        }
        let init = start(topology, info);
        let name = &info.name;
        let tensor = init.tensor(seed, name, &info.shape, DType::F32, &Device::Cpu)?;
        tensors.insert(name.clone(), tensor);
    }
    Ok(Base::from_tensors(tensors))
}

fn start(topology: &Topology, info: &ParameterInfo) -> Init {
    let fan: usize = info.shape.iter().skip(1).product::<usize>().max(1);
    let is_table = topology.projections().any(|p| {
        p.projection == Projection::Token && info.name.strip_suffix(".weight") == Some(&p.name)
    });
    match info.role {
        Role::Weight if is_table => Init::Normal(0.02),
        Role::Weight => Init::Normal((1.0 / fan as f64).sqrt()),
        Role::Position => Init::Normal(0.5 * (fan as f64).powf(-0.5)),
        Role::Class => Init::Normal((info.count().max(1) as f64).powf(-0.5)),
        Role::NormWeight => Init::Ones,
        // SigLIP's start (arXiv 2303.15343, section 3.2): most pairs of a batch are none.
        Role::Scale if info.name == LOGIT_BIAS => Init::Constant(-10.0),
        Role::Scale => Init::Constant((1.0f64 / 0.07).ln()),
        Role::Statistics if info.name.ends_with("running_var") => Init::Ones,
        Role::Bias | Role::NormBias | Role::Statistics => Init::Zeros,
    }
}
