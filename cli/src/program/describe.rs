//! `twinspan describe`: a plugin's options and where it acts.

use serde::Serialize;
use twinspan::sdk::Error;
use twinspan::sdk::adapter::Want;
use twinspan::sdk::plugin::Opt;
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, Entry, TaskEntry};

use super::failure::{Failure, print, print_json};

#[derive(Serialize)]
struct Description {
    kind: &'static str,
    name: &'static str,
    about: &'static str,
    options: Vec<OptionRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sites: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<twinspan::sdk::plugin::Capabilities>,
}

#[derive(Serialize)]
struct OptionRow {
    #[serde(flatten)]
    option: &'static Opt,
    default: Option<toml::Value>,
}

pub fn run(name: &str, json: bool) -> Result<(), Failure> {
    let description = describe(name)?;
    if json {
        return print_json(&description);
    }
    print(&format!(
        "{} `{}`: {}",
        description.kind, description.name, description.about
    ))?;
    print(match description.options.is_empty() {
        true => "\noptions: none",
        false => "\noptions",
    })?;
    for row in &description.options {
        let default = match &row.default {
            Some(value) => one_line(value),
            None => "none".into(),
        };
        print(&format!(
            "  {} ({}, default {default})",
            row.option.name, row.option.kind
        ))?;
        print(&format!("      {}", row.option.about))?;
    }
    if !description.sites.is_empty() {
        print("\nacts on")?;
        for site in &description.sites {
            print(&format!("  {site}"))?;
        }
    }
    if let Some(promises) = &description.capabilities {
        print(&format!(
            "\nidentity at the start: {}; folds into the weights: {}; trainable: {}",
            yes(promises.identity_at_start),
            yes(promises.mergeable),
            yes(promises.trainable)
        ))?;
    }
    Ok(())
}

fn describe(name: &str) -> Result<Description, Failure> {
    let backbones = registry::entries::<BackboneEntry>()?;
    let adapters = registry::entries::<AdapterEntry>()?;
    let tasks = registry::entries::<TaskEntry>()?;
    if let Some(entry) = backbones.iter().find(|e| e.name == name) {
        let options = registry::configured::<BackboneEntry>(name, toml::Table::new())?.options;
        return Ok(describe_entry("backbone", entry, &options));
    }
    if let Some(entry) = tasks.iter().find(|e| e.name == name) {
        let options = registry::configured::<TaskEntry>(name, toml::Table::new())?.options;
        return Ok(describe_entry("task", entry, &options));
    }
    if let Some(entry) = adapters.iter().find(|e| e.name == name) {
        let plugin = registry::configured::<AdapterEntry>(name, toml::Table::new())?;
        let mut description = describe_entry("adapter", entry, &plugin.options);
        description.sites = plugin.plugin.wants().iter().map(Want::to_string).collect();
        description.capabilities = Some(plugin.plugin.capabilities());
        return Ok(description);
    }
    let known = backbones.iter().map(|e| e.name);
    let known = known
        .chain(adapters.iter().map(|e| e.name))
        .chain(tasks.iter().map(|e| e.name));
    Err(Error::UnknownPlugin {
        kind: "plugin",
        name: name.to_string(),
        known: known.map(str::to_string).collect(),
    }
    .into())
}

fn describe_entry<T: ?Sized>(
    kind: &'static str,
    entry: &Entry<T>,
    defaults: &toml::Table,
) -> Description {
    Description {
        kind,
        name: entry.name,
        about: entry.about,
        options: entry
            .options
            .iter()
            .map(|option| OptionRow {
                option,
                default: defaults.get(option.name).cloned(),
            })
            .collect(),
        sites: Vec::new(),
        capabilities: None,
    }
}

fn one_line(value: &toml::Value) -> String {
    value
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
