//! Option values by site: `ranks = { value = 16, "vision.blocks.3" = 4 }`. No plugin.
//!
//! A key is a run of parts of a projection's canonical name (`vision.blocks.3.value`): a tower, a
//! block, a projection, or several of them together. Of two keys that fit a projection the one of
//! more parts counts. Owns the matching and its errors; what the values mean is the methods'.

use std::collections::{BTreeMap, BTreeSet};

use twinspan_sdk::Result;
use twinspan_sdk::adapter::{ProjectionSlot, Slot};

use crate::setting::wrong;

/// The value for `slot`; none where no key fits.
///
/// # Errors
/// Two keys of as many parts fit.
pub(crate) fn value<T: Copy>(
    option: &str,
    values: &BTreeMap<String, T>,
    slot: &ProjectionSlot,
    owner: &str,
) -> Result<Option<T>> {
    let parts = |key: &str| key.split('.').count();
    let mut best: Option<(&str, T)> = None;
    for (key, value) in values.iter().filter(|(key, _)| fits(key, &slot.name)) {
        best = match best {
            Some((other, _)) if parts(other) == parts(key) => {
                let name = &slot.name;
                let message =
                    format!("{option}: `{other}` and `{key}` both fit {name}; name more of it");
                return Err(wrong(owner, message));
            }
            Some(longer) if parts(longer.0) > parts(key) => Some(longer),
            _ => Some((key, *value)),
        };
    }
    Ok(best.map(|(_, value)| value))
}

/// Refuses keys that fit none of the slots.
pub(crate) fn all_fit<T>(
    option: &str,
    values: &BTreeMap<String, T>,
    slots: &[Slot],
    owner: &str,
) -> Result<()> {
    let slots: Vec<&ProjectionSlot> = slots.iter().filter_map(Slot::projection).collect();
    let idle = |key: &&String| !slots.iter().any(|slot| fits(key, &slot.name));
    let Some(key) = values.keys().find(idle) else {
        return Ok(());
    };
    let projections: BTreeSet<&str> = slots.iter().map(|s| s.projection.name()).collect();
    let projections: Vec<&str> = projections.into_iter().collect();
    let first = slots.first();
    let example = first.map_or("vision.blocks.0.value", |slot| slot.name.as_str());
    let message = format!(
        "{option}: `{key}` fits no site; a key is part of a site's name, as {example}; its \
         projections are: {}",
        projections.join(", ")
    );
    Err(wrong(owner, message))
}

/// Whether the parts of `key` stand in `name`, one behind the other.
fn fits(key: &str, name: &str) -> bool {
    format!(".{name}.").contains(&format!(".{key}."))
}
