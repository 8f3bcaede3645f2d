//! `twinspan eval`: scores of a model on a split.

use serde_json::{Map, Value, json};
use twinspan::sdk::evaluate::evaluate;
use twinspan::sdk::task::{Group, Report};

use super::EvalArgs;
use super::failure::{Failure, print, print_json};
use super::model::Model;
use super::progress::Progress;

pub fn run(args: &EvalArgs) -> Result<(), Failure> {
    if args.batch == 0 {
        return Err(Failure::Usage("--batch must be above 0".into()));
    }
    let model = Model::open(&args.model)?;
    let data = model
        .recipe
        .task
        .plugin
        .open(&args.data.source(), model.kit.clone())?;
    let mut progress = Progress::new("eval", data.len(&args.split)?);
    let report = evaluate(
        &model.tuned,
        data.as_ref(),
        &args.split,
        args.batch,
        &mut |done, _| {
            progress.at(done, String::new());
        },
    )?;
    progress.finish();
    for warning in data.warnings() {
        eprintln!("warning: {warning}");
    }
    if args.json {
        let mut object = json!({
            "split": args.split,
            "count": report.count,
            "scores": by_name(&report.scores),
        });
        if !report.groups.is_empty() {
            object["kinds"] = report.groups.iter().map(group).collect();
        }
        return print_json(&object);
    }
    print(&format!("{}: {} sentences", args.split, report.count))?;
    for (name, value) in &report.scores {
        print(&format!("{name:8} {value:6.2}"))?;
    }
    kinds(&report)
}

fn by_name(scores: &[(String, f64)]) -> Map<String, Value> {
    let scores = scores.iter();
    scores.map(|(n, value)| (n.clone(), json!(value))).collect()
}

fn group(group: &Group) -> Value {
    json!({
        "kind": group.name,
        "count": group.count,
        "scores": by_name(&group.scores),
    })
}

/// The first scores of each kind of sentences, a line each; nothing without kinds.
fn kinds(report: &Report) -> Result<(), Failure> {
    const SHOWN: usize = 3;
    let Some(first) = report.groups.first() else {
        return Ok(());
    };
    let names = report.groups.iter().map(|g| g.name.chars().count());
    let width = names.max().unwrap_or(0).max("kind".len());
    let heads: Vec<_> = first.scores.iter().take(SHOWN).collect();
    let heads: String = heads.iter().map(|(n, _)| format!("  {n:>7}")).collect();
    print(&format!("\n{:width$}  sentences{heads}", "kind"))?;
    for group in &report.groups {
        let values = group.scores.iter().take(SHOWN);
        let values: String = values.map(|(_, v)| format!("  {v:7.2}")).collect();
        print(&format!("{:width$}  {:9}{values}", group.name, group.count))?;
    }
    Ok(())
}
