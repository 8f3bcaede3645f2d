//! `twinspan classify`: pictures and labels to probabilities.

use serde::Serialize;
use twinspan::named;
use twinspan::sdk::plugin::Plugin;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::registry::Configured;
use twinspan::sdk::task::Task;
use twinspan::sdk::tuned::Tuned;
use twinspan::sdk::{Error, weights};
use twinspan::tasks::classification::predict::classify;
use twinspan::tasks::classification::{Classification, HeadChoice};

use super::failure::{Failure, print, print_json};
use super::model::{self, Model};
use super::progress::DownloadProgress;
use super::{ClassifyArgs, ModelArgs, look};

#[derive(Serialize)]
struct Row {
    image: String,
    /// The likeliest first.
    labels: Vec<Label>,
}

#[derive(Serialize)]
struct Label {
    label: String,
    probability: f32,
}

pub fn run(args: &ClassifyArgs) -> Result<(), Failure> {
    if let Some(bad) = args.template.iter().find(|t| !t.contains("{}")) {
        return Err(Failure::Usage(format!(
            "--template `{bad}`: write {{}} where the label stands"
        )));
    }
    let labels: Vec<String> = args.labels.iter().map(|l| l.trim().to_string()).collect();
    if labels.iter().any(String::is_empty) {
        return Err(Failure::Usage("--labels: a label is empty".into()));
    }
    let pictures = look::open_all(&args.image)?;
    let (model, task) = match &args.look.model {
        Some(folder) => trained(args, folder, labels)?,
        None => untrained(args, labels)?,
    };
    let found = classify(&model.tuned, &task, &model.kit, &pictures)?;
    let rows: Vec<Row> = args
        .image
        .iter()
        .zip(found)
        .map(|(image, probabilities)| {
            let labels = task.classes.iter().cloned().zip(probabilities);
            let mut labels: Vec<Label> = labels
                .map(|(label, probability)| Label { label, probability })
                .collect();
            labels.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            Row {
                image: image.display().to_string(),
                labels,
            }
        })
        .collect();
    if args.json {
        return print_json(&rows);
    }
    for row in rows {
        if args.image.len() > 1 {
            print(&row.image)?;
        }
        for Label { label, probability } in row.labels {
            print(&format!("{:6.2}%  {label}", 100.0 * probability))?;
        }
    }
    Ok(())
}

/// The frozen encoder, told what to look for by its prompts alone.
fn untrained(args: &ClassifyArgs, labels: Vec<String>) -> Result<(Model, Classification), Failure> {
    let named = args.look.weights.as_deref().unwrap_or_default();
    let downloads = DownloadProgress::default();
    let recipe = named::recipe(named, look::options(&args.look.set)?, &downloads)?;
    let context = recipe.backbone.plugin.topology()?.text.context;
    let task = Classification {
        classes: labels,
        templates: args.template.clone(),
        words: context,
        ..Classification::default()
    };
    let recipe = Recipe {
        task: Configured::<dyn Task>::of(task.clone())?,
        ..recipe
    };
    let compute = model::compute(&args.look.device)?;
    let kit = model::kit(&recipe, &compute)?;
    let base = weights::open_telling(&recipe, &downloads)?;
    let tuned = Tuned::new(&recipe, base, compute)?;
    Ok((Model { recipe, tuned, kit }, task))
}

/// A model that was trained to classify; where it compares with prompts, other labels too.
fn trained(
    args: &ClassifyArgs,
    folder: &std::path::Path,
    labels: Vec<String>,
) -> Result<(Model, Classification), Failure> {
    let model = Model::open(&ModelArgs {
        model: folder.into(),
        weights: None,
        tokenizer: None,
        device: args.look.device.clone(),
    })?;
    if model.recipe.task.name != Classification::NAME {
        return Err(Failure::Usage(format!(
            "this model's task is `{}`; classify needs `{}`, or --weights",
            model.recipe.task.name,
            Classification::NAME
        )));
    }
    let mut task = Classification::from_options(&model.recipe.task.options)?;
    if !labels.is_empty() {
        if task.head == HeadChoice::Linear {
            return Err(Failure::Sdk(Error::wrong_use(format!(
                "this model learned its own classes, without --labels: {}",
                task.classes.join(", ")
            ))));
        }
        task.classes = labels;
    }
    Ok((model, task))
}
