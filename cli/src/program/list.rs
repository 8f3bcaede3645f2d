//! `twinspan list`: the plugins that are linked, for reading, as JSON, or as the tables in which
//! the README and the documentation show them.

use clap::ValueEnum;
use serde::Serialize;
use twinspan::sdk::adapter::Want;
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, TaskEntry};

use super::Kind;
use super::failure::{Failure, print, print_json};

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    name: &'static str,
    about: &'static str,
}

pub fn run(kind: Option<Kind>, json: bool, markdown: bool) -> Result<(), Failure> {
    let kinds = match &kind {
        Some(kind) => std::slice::from_ref(kind),
        None => Kind::value_variants(),
    };
    if markdown {
        let tables: Result<Vec<String>, Failure> = kinds.iter().map(table).collect();
        return print(&tables?.join("\n\n"));
    }
    let mut rows = Vec::new();
    for kind in kinds {
        rows.extend(rows_of(kind)?);
    }
    if json {
        return print_json(&rows);
    }
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let mut last = "";
    for row in &rows {
        if row.kind != last {
            if !last.is_empty() {
                print("")?;
            }
            print(&format!("{}s", row.kind))?;
            last = row.kind;
        }
        print(&format!("  {:width$}  {}", row.name, row.about))?;
    }
    Ok(())
}

fn rows_of(kind: &Kind) -> Result<Vec<Row>, Failure> {
    fn rows<K: registry::Kind>() -> Result<Vec<Row>, Failure> {
        let entries = registry::entries::<K>()?.into_iter();
        let row = |e: &registry::Entry<K::Plugin>| Row {
            kind: K::KIND,
            name: e.name,
            about: e.about,
        };
        Ok(entries.map(row).collect())
    }
    match kind {
        Kind::Backbones => rows::<BackboneEntry>(),
        Kind::Adapters => rows::<AdapterEntry>(),
        Kind::Tasks => rows::<TaskEntry>(),
    }
}

/// A table in Markdown; of adapters with what they declare by default.
fn table(kind: &Kind) -> Result<String, Failure> {
    let rows = rows_of(kind)?;
    let (head, rule) = match kind {
        Kind::Backbones => ("| backbone | what |", "|---|---|"),
        Kind::Tasks => ("| task | what |", "|---|---|"),
        Kind::Adapters => (
            "| adapter | what | acts on | at the start | folds |",
            "|---|---|---|---|---|",
        ),
    };
    let mut lines = vec![head.to_string(), rule.to_string()];
    for row in rows {
        let declared = match kind {
            Kind::Adapters => declared(row.name)?,
            Kind::Backbones | Kind::Tasks => String::new(),
        };
        lines.push(format!("| `{}` | {} |{declared}", row.name, row.about));
    }
    Ok(lines.join("\n"))
}

fn declared(name: &str) -> Result<String, Failure> {
    let adapter = registry::configured::<AdapterEntry>(name, toml::Table::new())?.plugin;
    let promises = adapter.capabilities();
    let wants = adapter.wants();
    let acting = wants.iter().filter(|want| !matches!(want, Want::Look(_)));
    let mut places: Vec<String> = acting.map(Want::to_string).collect();
    places.dedup();
    let start = match promises.identity_at_start {
        true => "identity",
        false => "",
    };
    let folds = match promises.mergeable {
        true => "yes",
        false => "",
    };
    Ok(format!(" {} | {start} | {folds} |", places.join("; ")))
}
