//! `twinspan eval`: scores of a model on a split.

use serde_json::{Map, json};
use twinspan::sdk::evaluate::evaluate;

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
        .open(&args.data, model.kit.clone())?;
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
        let scores: Map<_, _> = report
            .scores
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        return print_json(&json!({
            "split": args.split,
            "count": report.count,
            "scores": scores,
        }));
    }
    print(&format!("{}: {} sentences", args.split, report.count))?;
    for (name, value) in &report.scores {
        print(&format!("{name:8} {value:6.2}"))?;
    }
    Ok(())
}
