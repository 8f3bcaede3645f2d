//! Plans: what a recipe would make, before any weight is read.
//!
//! Owns the summary that `twinspan plan` prints. The numbers come from the same assembly that
//! builds the model.

use serde::Serialize;

use crate::adapter::Slot;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::order::Step;
use crate::recipe::Recipe;
use crate::site::{At, Tower};
use crate::slots;
use crate::topology::Topology;
use crate::tuned::{Assembly, Compute, HEAD, assemble};

/// What a recipe would make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The backbone.
    pub backbone: String,
    /// Its parameters, buffers left out.
    pub backbone_parameters: usize,
    /// The adapters, in order.
    pub adapters: Vec<AdapterPlan>,
    /// The task.
    pub task: String,
    /// Parameters of its head.
    pub head_parameters: usize,
    /// Parameters that adapters train.
    pub adapter_parameters: usize,
    /// Those over the backbone's, in per cent.
    pub adapter_share: f64,
    /// Values kept in the overlay that do not train.
    pub constants: usize,
    /// The order of the towers.
    pub order: Vec<String>,
    /// The first depth of each tower at which something trains: gradients stop there.
    pub first_trainable: FirstTrainable,
    /// Existing parameters that would train, and projections at the ends of towers that would be
    /// acted on, but that the task cannot reach.
    pub left_out: Vec<String>,
}

/// One adapter's part of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterPlan {
    /// Its label: its name, numbered where a recipe has it twice.
    pub label: String,
    /// Where it acts.
    pub sites: Vec<String>,
    /// Parameters it trains.
    pub parameters: usize,
}

/// The first depth of each tower at which something trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FirstTrainable {
    /// In the vision tower; none where it is frozen throughout.
    pub vision: Option<String>,
    /// In the text tower.
    pub text: Option<String>,
}

/// The plan of a recipe. Reads no weights.
///
/// # Errors
/// The recipe does not fit its backbone.
pub fn plan(recipe: &Recipe) -> Result<Plan> {
    let assembly = assemble(recipe, None, &Compute::default())?;
    let topology = &assembly.topology;
    let found = recipe.adapters.iter().zip(&assembly.slots);
    let adapters = recipe.labels().into_iter().zip(found);
    let adapters: Vec<AdapterPlan> = adapters
        .map(|(label, (adapter, slots))| {
            let looked = slots::looked_at(topology, &label, &adapter.plugin.wants())?;
            let sites = slots.iter().map(Slot::to_string);
            Ok(AdapterPlan {
                parameters: assembly.overlay.count(&label),
                sites: sites.filter(|site| !looked.contains(site)).collect(),
                label,
            })
        })
        .collect::<Result<_>>()?;
    let backbone_parameters = topology.parameter_count();
    let adapter_parameters = adapters.iter().map(|a| a.parameters).sum();
    Ok(Plan {
        backbone: recipe.backbone.name.to_string(),
        backbone_parameters,
        task: recipe.task.name.to_string(),
        head_parameters: assembly.overlay.count(HEAD),
        adapter_parameters,
        adapter_share: 100.0 * adapter_parameters as f64 / backbone_parameters.max(1) as f64,
        constants: assembly
            .overlay
            .constants
            .values()
            .map(|b| b.tensor().elem_count())
            .sum(),
        order: order_names(&assembly.order.steps, &assembly.hooks),
        first_trainable: FirstTrainable {
            vision: first_trainable(&assembly, Tower::Vision),
            text: first_trainable(&assembly, Tower::Text),
        },
        left_out: assembly.left_out.clone(),
        adapters,
    })
}

/// The steps in words, runs of blocks of one tower together.
fn order_names(steps: &[Step], hooks: &Hooks) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut run: Option<(Tower, usize, usize)> = None;
    let flush = |run: &mut Option<(Tower, usize, usize)>, out: &mut Vec<String>| {
        if let Some((tower, a, b)) = run.take() {
            out.push(match a == b {
                true => format!("{tower}.blocks.{a}"),
                false => format!("{tower}.blocks.{a}-{b}"),
            });
        }
    };
    for step in steps {
        match (*step, &mut run) {
            (Step::Block(t, i), Some((tower, _, last))) if *tower == t && *last + 1 == i => {
                *last = i;
                continue;
            }
            (Step::Block(t, i), _) => {
                flush(&mut run, &mut out);
                run = Some((t, i, i));
                continue;
            }
            _ => flush(&mut run, &mut out),
        }
        out.push(match *step {
            Step::Embed(t) => format!("{t}.embed"),
            Step::Expand(t) => format!("{t} becomes pairs"),
            Step::Block(t, i) => format!("{t}.blocks.{i}"),
            Step::Bridge(k) => format!("bridge {} ({})", k + 1, hooks.bridges[k].owner),
            Step::Features(t) => format!("{t}.final"),
            Step::Pooled(t) => format!("{t}.pooled"),
            Step::Logits => "logits".into(),
        });
    }
    flush(&mut run, &mut out);
    out
}

fn first_trainable(assembly: &Assembly, tower: Tower) -> Option<String> {
    let trained = &assembly.overlay.trained;
    let owns = |owner: &str| trained.values().any(|t| t.owner == owner);
    let acting = assembly
        .hooks
        .acts
        .iter()
        .filter(|(owner, _)| owns(owner))
        .filter_map(|(_, place)| *place);
    let existing = in_overlay(&assembly.topology, tower, |name| trained.contains_key(name));
    acting
        .chain(existing)
        .filter(|(t, _)| *t == tower)
        .map(|(_, at)| at)
        .min()
        .map(|at| at.to_string())
}

fn in_overlay(
    topology: &Topology,
    tower: Tower,
    trained: impl Fn(&str) -> bool,
) -> Vec<(Tower, At)> {
    topology
        .parameters()
        .filter(|p| p.tower == Some(tower) && trained(&p.name))
        .flat_map(|p| p.used.iter().map(move |at| (tower, *at)))
        .collect()
}
