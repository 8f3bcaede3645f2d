//! IA3 (Liu et al., 2022, arXiv 2205.05638): learned scales on keys, values and the inner
//! activations of MLPs.
//!
//! ```text
//! K' = l_k ⊙ (K x)      V' = l_v ⊙ (V x)      MLP' = down(l ⊙ act(up x))
//! ```
//!
//! Default sites: key, value and down of both towers. `down` is scaled by input channel; whatever
//! else a recipe names, convolutions and embeddings too, by output channel. Starts at ones. Owns
//! the choice of side; a scale folds into rows or columns of its weight.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, ProjectionSlot, Slot, Want};
use twinspan_sdk::hooks::{Affine, Hooks};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::plugin::{Capabilities, Opt, Plugin};
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::{Result, register};

use crate::setting::FOLDS;

/// Scales of projections.
///
/// ```
/// use twinspan_adapters::ia3::Ia3;
/// use twinspan_sdk::site::{Projection, Sites};
///
/// let values = Ia3 {
///     sites: Sites { projections: vec![Projection::Value], ..Default::default() },
/// };
/// assert_ne!(values, Ia3::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ia3 {
    /// Where.
    pub sites: Sites,
}

impl Plugin for Ia3 {
    const NAME: &'static str = "ia3";
    const ABOUT: &'static str =
        "learned scales on keys, values and inner activations (IA3, Liu et al., 2022)";
    const OPTIONS: &'static [Opt] = &[Opt::sites("both towers, key, value and down")];
}

impl Adapter for Ia3 {
    fn capabilities(&self) -> Capabilities {
        FOLDS
    }

    fn wants(&self) -> Vec<Want> {
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Projection::Key, Projection::Value, Projection::Down],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots.iter().filter_map(Slot::projection) {
            let params = &mut params.within(&slot.name);
            match slot.projection {
                Projection::Down => hooks.input(slot, scale(slot, slot.input, params)?),
                _ => hooks.output(slot, scale(slot, slot.output, params)?),
            }
        }
        Ok(Box::new(Idle))
    }
}

fn scale(slot: &ProjectionSlot, width: usize, params: &mut Params) -> Result<Affine> {
    Ok(Affine {
        scale: Some(params.trained("scale", &[width], Init::Ones)?),
        shift: None,
        channels: slot.channels(),
    })
}

register!(adapter: Ia3);
