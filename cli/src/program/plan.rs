//! `twinspan plan`: what a recipe would make.

use std::path::Path;

use twinspan::sdk::plan::{Plan, plan};
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::weights;

use super::failure::{Failure, print, print_json};
use super::progress::DownloadProgress;

pub fn run(path: &Path, adapters: Option<&str>, set: &[String], json: bool) -> Result<(), Failure> {
    let recipe = Recipe::open_adapted(path, adapters, set)?;
    let recipe = weights::described(&recipe, &DownloadProgress::default())?;
    let plan = plan(&recipe)?;
    match json {
        true => print_json(&plan),
        false => print(&table(&plan)),
    }
}

fn table(plan: &Plan) -> String {
    let mut lines = vec![format!(
        "backbone {}: {} parameters, frozen",
        plan.backbone,
        grouped(plan.backbone_parameters)
    )];
    for adapter in &plan.adapters {
        lines.push(format!(
            "adapter {}: {} parameters at {} sites",
            adapter.label,
            grouped(adapter.parameters),
            adapter.sites.len()
        ));
        lines.extend(
            shortened(&adapter.sites)
                .into_iter()
                .map(|s| format!("  {s}")),
        );
    }
    lines.push(format!(
        "task {}: head of {} parameters",
        plan.task,
        grouped(plan.head_parameters)
    ));
    lines.push(format!(
        "trained: {} beside the head, {:.2}% of the backbone; {} with it",
        grouped(plan.adapter_parameters),
        plan.adapter_share,
        grouped(plan.adapter_parameters + plan.head_parameters)
    ));
    if plan.constants > 0 {
        lines.push(format!("kept, not trained: {}", grouped(plan.constants)));
    }
    let or_none = |at: &Option<String>| at.clone().unwrap_or_else(|| "nothing".into());
    lines.push(format!(
        "first to train: vision {}, text {}",
        or_none(&plan.first_trainable.vision),
        or_none(&plan.first_trainable.text)
    ));
    lines.push("order of the towers".into());
    lines.extend(plan.order.iter().map(|step| format!("  {step}")));
    if !plan.left_out.is_empty() {
        lines.push(format!(
            "left out, for the task cannot reach them: {}",
            plan.left_out.join(", ")
        ));
    }
    lines.join("\n")
}

/// Long lists of sites are shown by their ends.
fn shortened(sites: &[String]) -> Vec<String> {
    match sites {
        [first, second, .., last] if sites.len() > 8 => vec![
            first.clone(),
            second.clone(),
            format!("… {} more (--json lists them)", sites.len() - 3),
            last.clone(),
        ],
        all => all.to_vec(),
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
