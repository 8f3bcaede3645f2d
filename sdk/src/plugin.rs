//! What every plugin says of itself: name, options, promises.
//!
//! Owns [`Plugin`]; the three kinds of plugin are in [`crate::backbone`], [`crate::adapter`] and
//! [`crate::task`], the list of the linked ones in [`crate::registry`].

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A plugin is a serde struct of its options, with a default for each.
pub trait Plugin: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// Its name in recipes, file names and messages.
    const NAME: &'static str;
    /// One line on what it is, with its source.
    const ABOUT: &'static str;
    /// Its options, one entry per field; a test compares them with the struct.
    const OPTIONS: &'static [Opt];

    /// The plugin with the options of a configured one.
    ///
    /// # Errors
    /// The options are another plugin's.
    fn from_options(options: &toml::Table) -> crate::Result<Self> {
        options.clone().try_into().map_err(crate::Error::plugin)
    }
}

/// One option of a plugin, as `describe` shows it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Opt {
    /// The field's name.
    pub name: &'static str,
    /// Its type, in words of TOML.
    pub kind: &'static str,
    /// What it does, with units and choices.
    pub about: &'static str,
}

impl Opt {
    /// An option of any type.
    pub const fn new(name: &'static str, kind: &'static str, about: &'static str) -> Self {
        Self { name, kind, about }
    }

    /// The option `sites`; `about` says the default.
    pub const fn sites(about: &'static str) -> Self {
        Self::new(
            "sites",
            "table {towers, blocks, last, projections, branches}",
            about,
        )
    }
}

/// What an adapter promises; laws are chosen by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Before training, the model gives what it gives without the adapter.
    pub identity_at_start: bool,
    /// It folds into the frozen weights.
    pub mergeable: bool,
    /// It has parameters that train by gradient.
    pub trainable: bool,
    /// It knows the sentences of a batch by their places, as those of classes: in another order
    /// they are others to it.
    pub by_class: bool,
    /// Foreign formats it reads and writes, by name.
    pub interchange: &'static [&'static str],
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            identity_at_start: false,
            mergeable: false,
            trainable: true,
            by_class: false,
            interchange: &[],
        }
    }
}
