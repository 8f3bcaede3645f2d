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
    let source = args.data.source();
    let model = match (args.model(), &args.recipe) {
        (Some(model), _) => Model::open(&model)?,
        (None, Some(recipe)) => Model::start(recipe, &args.set, &source, &args.device)?,
        (None, None) => return Err(Failure::Usage("name a --model or a --recipe".into())),
    };
    let data = model.recipe.task.plugin.open(&source, model.kit.clone())?;
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
            let groups = report.groups.iter().map(|g| group(report.part, g));
            object[plural(report.part)] = groups.collect();
        }
        return print_json(&object);
    }
    print(&format!("{}: {} {}", args.split, report.count, report.unit))?;
    let width = report.scores.iter().map(|(name, _)| name.chars().count());
    let width = width.max().unwrap_or(0).max(8);
    for (name, value) in &report.scores {
        print(&format!("{name:width$} {value:6.2}"))?;
    }
    parts(&report)
}

fn by_name(scores: &[(String, f64)]) -> Map<String, Value> {
    let scores = scores.iter();
    scores.map(|(n, value)| (n.clone(), json!(value))).collect()
}

fn group(part: &str, group: &Group) -> Value {
    json!({
        part: group.name,
        "count": group.count,
        "scores": by_name(&group.scores),
    })
}

fn plural(part: &str) -> String {
    match part.ends_with('s') {
        true => format!("{part}es"),
        false => format!("{part}s"),
    }
}

/// The first scores of each part, a line each; nothing without parts.
fn parts(report: &Report) -> Result<(), Failure> {
    const SHOWN: usize = 3;
    let Some(first) = report.groups.first() else {
        return Ok(());
    };
    let names = report.groups.iter().map(|g| g.name.chars().count());
    let width = names.max().unwrap_or(0).max(report.part.len());
    let heads: Vec<_> = first.scores.iter().take(SHOWN).collect();
    let heads: String = heads.iter().map(|(n, _)| format!("  {n:>7}")).collect();
    let unit = report.unit;
    print(&format!("\n{:width$}  {unit:>9}{heads}", report.part))?;
    for group in &report.groups {
        let values = group.scores.iter().take(SHOWN);
        let values: String = values.map(|(_, v)| format!("  {v:7.2}")).collect();
        print(&format!("{:width$}  {:9}{values}", group.name, group.count))?;
    }
    Ok(())
}
