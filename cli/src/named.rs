//! A dual encoder by one name: that of a backbone with built-in weights, or of weights.
//!
//! Owns the way from such a name to a recipe. Where weights are found is
//! [`sdk::source`](crate::sdk::source)'s, what is read off the files beside them the backbones'.

use std::path::Path;

use toml::Table;

use crate::sdk::hub::{Hub, Progress};
use crate::sdk::plugin::Plugin;
use crate::sdk::recipe::Recipe;
use crate::sdk::registry::{self, BackboneEntry};
use crate::sdk::source::{Source, SourceError};
use crate::sdk::{Error, Result, weights};
use crate::tasks::referring_segmentation::ReferringSegmentation;

/// The recipe of what `what` names, without adapters: a backbone's name, or weights (a model of
/// the hub, a folder, a file). `options` are the backbone's, among them perhaps `use`. Its task is
/// to be put in the place of the one it has.
///
/// # Errors
/// There is no such backbone and there are no such weights; nothing says what the weights are of;
/// an option is unknown.
pub fn recipe(what: &str, mut options: Table, progress: &dyn Progress) -> Result<Recipe> {
    let built_in = built_in()?;
    if built_in.contains(&what) && !Path::new(what).exists() {
        options.insert("use".into(), what.into());
        return of_backbone(options);
    }
    let source = Source::parse(what, Path::new("")).map_err(|error| nowhere(error, &built_in))?;
    if !options.contains_key("use") {
        let description = source.description(Hub::of_process(), progress)?;
        let found = weights::backbones(&description)?;
        let Some(backbone) = found.first() else {
            return Err(unknown(what, &registry::names::<BackboneEntry>()?));
        };
        options.insert("use".into(), backbone.name.into());
    }
    options.insert("weights".into(), source.marked().into());
    weights::described(&of_backbone(options)?, progress)
}

/// The recipe of a `[backbone]` table alone.
pub(crate) fn of_backbone(backbone: Table) -> Result<Recipe> {
    // A recipe has a task; its options do not touch the backbone.
    let task = Table::from_iter([("use".into(), ReferringSegmentation::NAME.into())]);
    let table = [("backbone", backbone), ("task", task)];
    let table = table.map(|(name, section)| (name.to_string(), section.into()));
    Recipe::from_table(Table::from_iter(table), "[backbone]")
}

/// The backbones whose weights are part of the program.
fn built_in() -> Result<Vec<&'static str>> {
    let mut built_in = Vec::new();
    for name in registry::names::<BackboneEntry>()? {
        let backbone = registry::configured::<BackboneEntry>(name, Table::new())?;
        if backbone.plugin.embedded().is_some() {
            built_in.push(name);
        }
    }
    Ok(built_in)
}

/// What else a name that names nothing could have been.
fn nowhere(error: SourceError, built_in: &[&str]) -> Error {
    Error::wrong_use(format!(
        "{error}; or, for weights that are built in, {}",
        built_in.join(", ")
    ))
}

fn unknown(what: &str, known: &[&str]) -> Error {
    Error::wrong_use(format!(
        "no file beside `{what}` says what it is of: name the backbone ({}) and its preset, as in use = \"clip\", preset = \"ViT-B/32\"",
        known.join(", ")
    ))
}
