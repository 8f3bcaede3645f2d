//! The plugins that are linked, by name.
//!
//! Owns registration and lookup. Strings become types here and nowhere else. Code that names its
//! plugins directly (`Lora { rank: 8, ..Default::default() }`) needs none of it.

use std::sync::Arc;

use crate::adapter::{Adapter, Training};
use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::plugin::{Opt, Plugin};
use crate::task::{DataSource, Task};

/// A registered plugin of kind `T`.
pub struct Entry<T: ?Sized> {
    /// Its name.
    pub name: &'static str,
    /// One line on what it is.
    pub about: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    parse: fn(toml::Table) -> std::result::Result<Configured<T>, toml::de::Error>,
}

/// A plugin with its options. A clone is the same plugin.
pub struct Configured<T: ?Sized> {
    /// Its name.
    pub name: &'static str,
    /// The plugin.
    pub plugin: Arc<T>,
    /// Its options with every default filled in.
    pub options: toml::Table,
}

impl<T: ?Sized> Clone for Configured<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            plugin: self.plugin.clone(),
            options: self.options.clone(),
        }
    }
}

/// A kind of plugin, for lookup.
pub trait Kind: inventory::Collect + 'static {
    /// The plugin trait.
    type Plugin: ?Sized;
    /// Its name in messages.
    const KIND: &'static str;
    /// The entry inside.
    fn entry(&self) -> &Entry<Self::Plugin>;
}

macro_rules! kind {
    ($(#[$doc:meta])* $entry:ident, $trait:ident, $name:literal) => {
        $(#[$doc])*
        pub struct $entry(Entry<dyn $trait>);

        impl $entry {
            /// The entry of plugin `P`.
            pub const fn new<P: Plugin + $trait>() -> Self {
                Self(Entry {
                    name: P::NAME,
                    about: P::ABOUT,
                    options: P::OPTIONS,
                    parse: |table| configure::<P>(table).map(|(plugin, options)| Configured {
                        name: P::NAME,
                        plugin: Arc::new(plugin) as Arc<dyn $trait>,
                        options,
                    }),
                })
            }
        }

        impl Kind for $entry {
            type Plugin = dyn $trait;
            const KIND: &'static str = $name;
            fn entry(&self) -> &Entry<dyn $trait> {
                &self.0
            }
        }

        inventory::collect!($entry);

        impl Configured<dyn $trait> {
            /// A plugin made in code.
            ///
            /// # Errors
            /// Its options cannot be written as TOML.
            pub fn of<P: Plugin + $trait>(plugin: P) -> Result<Self> {
                let options = toml::Table::try_from(&plugin)
                    .map_err(|e| options_error($name, P::NAME, &e.to_string()))?;
                Ok(Self { name: P::NAME, plugin: Arc::new(plugin), options })
            }
        }
    };
}

kind!(
    /// A registered backbone.
    BackboneEntry, Backbone, "backbone"
);
kind!(
    /// A registered adapter.
    AdapterEntry, Adapter, "adapter"
);
kind!(
    /// A registered task.
    TaskEntry, Task, "task"
);

impl Configured<dyn Task> {
    /// The task with what its options leave open filled in from data ([`Task::fitted`]).
    ///
    /// # Errors
    /// There is no data of this task, or the plugin is not linked.
    pub fn fitted(self, source: &DataSource) -> Result<Self> {
        match self.plugin.fitted(source)? {
            Some(options) => configured::<TaskEntry>(self.name, options),
            None => Ok(self),
        }
    }
}

impl Configured<dyn Adapter> {
    /// The adapter with what its options leave open filled in from the data it will train on
    /// ([`Adapter::fitted`]).
    ///
    /// # Errors
    /// The data is not what the adapter is for, or the plugin is not linked.
    pub fn fitted(self, training: Training) -> Result<Self> {
        match self.plugin.fitted(training)? {
            Some(options) => configured::<AdapterEntry>(self.name, options),
            None => Ok(self),
        }
    }
}

fn configure<P: Plugin>(
    table: toml::Table,
) -> std::result::Result<(P, toml::Table), toml::de::Error> {
    let plugin: P = table.try_into()?;
    let full = toml::Table::try_from(&plugin).map_err(serde::de::Error::custom)?;
    Ok((plugin, full))
}

fn options_error(kind: &'static str, name: &str, message: &str) -> Error {
    Error::Options {
        kind,
        name: name.to_string(),
        message: message
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Every linked plugin of a kind, sorted by name.
///
/// # Errors
/// None is linked, or two share a name.
pub fn entries<K: Kind>() -> Result<Vec<&'static Entry<K::Plugin>>> {
    let mut found: Vec<_> = inventory::iter::<K>.into_iter().map(K::entry).collect();
    if found.is_empty() {
        return Err(Error::NoPlugins { kind: K::KIND });
    }
    found.sort_by_key(|e| e.name);
    match found.windows(2).find(|w| w[0].name == w[1].name) {
        Some(twice) => Err(Error::DuplicatePlugin {
            kind: K::KIND,
            name: twice[0].name.to_string(),
        }),
        None => Ok(found),
    }
}

/// The names of every linked plugin of a kind, sorted.
///
/// # Errors
/// As [`entries`].
pub fn names<K: Kind>() -> Result<Vec<&'static str>> {
    Ok(entries::<K>()?.iter().map(|e| e.name).collect())
}

/// The plugin `name` with the options in `table`.
///
/// # Errors
/// The name or an option is unknown, or an option has the wrong type.
pub fn configured<K: Kind>(name: &str, table: toml::Table) -> Result<Configured<K::Plugin>> {
    let entries = entries::<K>()?;
    let Some(entry) = entries.iter().find(|e| e.name == name) else {
        return Err(Error::UnknownPlugin {
            kind: K::KIND,
            name: name.to_string(),
            known: entries.iter().map(|e| e.name.to_string()).collect(),
        });
    };
    (entry.parse)(table).map_err(|e| options_error(K::KIND, name, &e.to_string()))
}

/// Registers a plugin: `register!(adapter: Lora);`. Expands to a static and nothing else.
#[macro_export]
macro_rules! register {
    (backbone: $plugin:ty) => {
        $crate::inventory::submit! { $crate::registry::BackboneEntry::new::<$plugin>() }
    };
    (adapter: $plugin:ty) => {
        $crate::inventory::submit! { $crate::registry::AdapterEntry::new::<$plugin>() }
    };
    (task: $plugin:ty) => {
        $crate::inventory::submit! { $crate::registry::TaskEntry::new::<$plugin>() }
    };
}
