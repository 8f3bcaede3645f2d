//! `twinspan list`: the plugins that are linked.

use serde::Serialize;
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, TaskEntry};

use super::Kind;
use super::failure::{Failure, print, print_json};

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    name: &'static str,
    about: &'static str,
}

pub fn run(kind: Option<Kind>, json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    if matches!(kind, None | Some(Kind::Backbones)) {
        rows.extend(rows_of::<BackboneEntry>()?);
    }
    if matches!(kind, None | Some(Kind::Adapters)) {
        rows.extend(rows_of::<AdapterEntry>()?);
    }
    if matches!(kind, None | Some(Kind::Tasks)) {
        rows.extend(rows_of::<TaskEntry>()?);
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

fn rows_of<K: registry::Kind>() -> Result<Vec<Row>, Failure> {
    let entries = registry::entries::<K>()?;
    Ok(entries
        .into_iter()
        .map(|e| Row {
            kind: K::KIND,
            name: e.name,
            about: e.about,
        })
        .collect())
}
