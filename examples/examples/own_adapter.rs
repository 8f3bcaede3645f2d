//! An adapter of one's own: SSF (Lian et al., 2022), y ⊙ γ + β behind every projection chosen.
//!
//! `cargo run -p twinspan-examples --example own_adapter`

use serde::{Deserialize, Serialize};
use twinspan::sdk::plan::plan;
use twinspan::sdk::prelude::*;
use twinspan_examples::overfit;

/// Scale and shift: γ starts at 1, β at 0, so that the model starts as it was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ssf {
    sites: Sites,
}

impl Plugin for Ssf {
    const NAME: &'static str = "ssf";
    const ABOUT: &'static str = "scale and shift behind projections (Lian et al., 2022)";
    const OPTIONS: &'static [Opt] = &[Opt::sites("both towers, both layers of the MLP")];
}

impl Adapter for Ssf {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity_at_start: true,
            mergeable: true,
            ..Capabilities::default()
        }
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Projection::Up, Projection::Down],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots.iter().filter_map(Slot::projection) {
            let mut here = params.within(&slot.name);
            let affine = Affine {
                scale: Some(here.trained("scale", &[slot.output], Init::Ones)?),
                shift: Some(here.trained("shift", &[slot.output], Init::Zeros)?),
                channels: slot.channels(),
            };
            hooks.output(slot, affine);
        }
        Ok(Box::new(Idle))
    }
}

register!(adapter: Ssf);

const RECIPE: &str = r#"
    [backbone]
    use = "clip"
    weights = "random:1"
    [backbone.model]
    embed_dim = 16
    vision = { kind = "vit", layers = 3, width = 32, heads = 2, patch = 8, image_size = 64 }
    text = { layers = 3, width = 32, heads = 2, context = 24, vocabulary = 514 }

    [[adapter]]
    use = "ssf"

    [task]
    use = "referring-segmentation"
    width = 32
    layers = 1
    heads = 2
    ffn = 32

    [train]
    rate = 3e-3
"#;

fn main() -> Result<()> {
    let recipe = Recipe::parse(RECIPE, "own_adapter")?;
    let plan = plan(&recipe)?;
    println!(
        "ssf trains {} parameters, {:.2}% of the backbone",
        plan.adapter_parameters, plan.adapter_share
    );
    overfit(&recipe, 20)
}
