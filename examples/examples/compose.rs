//! Three adapters at once, in code and in one line: the same plan, and trained, the same bits.
//!
//! `cargo run -p twinspan-examples --example compose`

use candle_core::Tensor;
use twinspan::adapters::{bridger::Bridger, lora::Lora, unfreeze::Group, unfreeze::Unfreeze};
use twinspan::sdk::expression;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plan::plan;
use twinspan::sdk::prelude::*;
use twinspan::sdk::registry::Configured;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::weights;
use twinspan_examples::squares;

const REST: &str = r#"
    backbone = { use = "pocket" }
    task = { use = "referring-segmentation", width = 32, layers = 1, heads = 2, ffn = 32 }
    train = { rate = 3e-3 }"#;
const LINE: &str = "lora[rank=4]@text.query,value + bridger[dim=16, heads=2] + unfreeze[roles=[\"norm\"]]@vision.blocks=0..1";

fn in_code() -> Result<Vec<Configured<dyn Adapter>>> {
    let lora = Lora {
        rank: 4,
        sites: Sites {
            towers: vec![Tower::Text],
            projections: vec![Projection::Query, Projection::Value],
            ..Sites::default()
        },
        ..Lora::default()
    };
    let bridger = Bridger {
        dim: 16,
        heads: 2,
        ..Bridger::default()
    };
    let norms = Unfreeze {
        roles: vec![Group::Norm],
        sites: Sites {
            towers: vec![Tower::Vision],
            blocks: vec![0, 1],
            ..Sites::default()
        },
    };
    Ok(vec![
        Configured::<dyn Adapter>::of(lora)?,
        Configured::<dyn Adapter>::of(bridger)?,
        Configured::<dyn Adapter>::of(norms)?,
    ])
}

fn recipe(adapters: Vec<Configured<dyn Adapter>>) -> Result<Recipe> {
    let rest = Recipe::parse(REST, "compose")?;
    Ok(Recipe { adapters, ..rest })
}

/// Logits after a few steps.
fn trained(recipe: &Recipe) -> Result<Vec<f32>> {
    let size = recipe.backbone.plugin.preparation().size;
    let batch = squares(size, recipe.task.plugin.words())?;
    let mut tuned = Tuned::new(recipe, weights::open(recipe)?, Compute::default())?;
    let mut trainer = Trainer::new(&mut tuned, &recipe.train, 3)?;
    for _ in 0..3 {
        trainer.step(std::slice::from_ref(&batch))?;
    }
    let logits: Tensor = tuned.logits(&batch, &mut Pass::predict())?;
    Ok(logits.flatten_all()?.to_vec1()?)
}

fn main() -> Result<()> {
    let code = recipe(in_code()?)?;
    let line = recipe(expression::parse(LINE)?)?;
    println!(
        "in code, written in one line: {}",
        expression::write(&code.adapters)
    );

    let (planned, read) = (plan(&code)?, plan(&line)?);
    for adapter in &planned.adapters {
        let sites = adapter.sites.len();
        println!(
            "{}: {} parameters at {sites} sites",
            adapter.label, adapter.parameters
        );
    }
    if planned != read || expression::write(&code.adapters) != expression::write(&line.adapters) {
        return Err(Error::plugin("code and line make two plans"));
    }
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    match bits(trained(&code)?) == bits(trained(&line)?) {
        true => println!("trained for three steps, both give the same bits"),
        false => return Err(Error::plugin("code and line train to other bits")),
    }
    Ok(())
}
