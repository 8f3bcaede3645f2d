//! The values that a pickle names: the entries of a state dict, or the attributes of modules.
//!
//! Owns where the names are. Which values are tensors is `rebuilt.rs`'s.

use std::collections::BTreeMap;

use super::rebuilt::tensor;
use crate::checkpoint::{Refused, damaged, shown};
use crate::pickle::{Id, Pickle, Value};

/// Keys under which training scripts keep the state dict, in order of preference.
const NESTED: [&str; 2] = ["state_dict", "model"];

/// What an attribute that may be a tensor counts for beside its name, in bytes: less than it takes
/// in any archive. Any other counts for one.
const ATTRIBUTE: usize = 16;

/// The places of the named values. Of two with one name the later wins, as in Python.
///
/// `limit` is the file's size, which names do not exceed: modules may share modules, so a few
/// hundred bytes could otherwise ask for any number of names and any time.
pub(super) fn of(pickle: &Pickle<'_>, limit: usize) -> Result<BTreeMap<String, Id>, Refused> {
    match module(pickle, pickle.root_id()) {
        Some(attributes) => modules(pickle, attributes, limit),
        None => {
            let entries = state_dict(pickle)?.iter();
            let named = entries.filter_map(|&(key, value)| match pickle.get(key) {
                Value::Text(name) => Some((name.to_string(), value)),
                _ => None,
            });
            Ok(named.collect())
        }
    }
}

/// The attributes of a TorchScript module and of all modules in it, under dotted names.
fn modules<'p>(
    pickle: &'p Pickle<'_>,
    root: &'p [(Id, Id)],
    limit: usize,
) -> Result<BTreeMap<String, Id>, Refused> {
    let mut named = BTreeMap::new();
    let mut used = 0;
    let mut open = vec![(String::new(), root)];
    while let Some((prefix, attributes)) = open.pop() {
        for &(key, value) in attributes {
            let inner = module(pickle, value);
            let key = match (pickle.get(key), pickle.get(value)) {
                (Value::Text(key), Value::Call { .. } | Value::Int(_)) => Some(key),
                (Value::Text(key), _) if inner.is_some() => Some(key),
                _ => None,
            };
            used += 1 + key.map_or(0, |key| prefix.len() + key.len() + ATTRIBUTE);
            if used > limit {
                return Err(damaged(
                    "its modules hold each other: their names would exceed the file's own size",
                ));
            }
            let Some(key) = key else { continue };
            let name = match &prefix[..] {
                "" => key.to_string(),
                prefix => format!("{prefix}.{key}"),
            };
            match inner {
                Some(attributes) => open.push((name, attributes)),
                None => {
                    named.insert(name, value);
                }
            }
        }
    }
    Ok(named)
}

/// The attributes of a TorchScript module, whose class is one of the archive's own; `None` if
/// the value is something else.
fn module<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<&'p [(Id, Id)]> {
    let Value::Object { class, state } = pickle.get(id) else {
        return None;
    };
    match (pickle.get(*class), pickle.get(*state)) {
        (Value::Class { module, .. }, Value::Dict(attributes))
            if module.split('.').next() == Some("__torch__") =>
        {
            Some(attributes)
        }
        _ => None,
    }
}

/// The dict that holds the tensors: nested under a known key, or the pickled dict itself.
fn state_dict<'p>(pickle: &'p Pickle<'_>) -> Result<&'p [(Id, Id)], Refused> {
    let lacking = |found: String| Err(Refused::NoStateDict(found));
    let root = match pickle.root() {
        Value::Dict(root) => root,
        Value::Object { class, .. } => {
            let class = match pickle.get(*class) {
                Value::Class { module, name } => format!("{module}.{name}"),
                _ => "unknown class".into(),
            };
            return lacking(format!(
                "it is a whole pickled object ({}); torch.save its state_dict() instead",
                shown(&class)
            ));
        }
        Value::List(_) | Value::Tuple(_) => return lacking("it is a list".into()),
        Value::Call { .. } if tensor(pickle, pickle.root_id()).is_some() => {
            return lacking("it is a single tensor".into());
        }
        _ => return lacking("it is a single value".into()),
    };
    let holds_tensors = |dict: &[(Id, Id)]| {
        dict.iter()
            .any(|&(_, value)| tensor(pickle, value).is_some())
    };
    for key in NESTED {
        let nested =
            root.iter()
                .rev()
                .find_map(|&(k, value)| match (pickle.get(k), pickle.get(value)) {
                    (Value::Text(text), Value::Dict(dict)) if text == key => Some(dict),
                    _ => None,
                });
        if let Some(dict) = nested.filter(|dict| holds_tensors(dict)) {
            return Ok(dict);
        }
    }
    if holds_tensors(root) {
        return Ok(root);
    }
    let keys: Vec<String> = root
        .iter()
        .filter_map(|&(key, _)| match pickle.get(key) {
            Value::Text(text) => Some(format!("`{}`", shown(text))),
            _ => None,
        })
        .take(8)
        .collect();
    lacking(match keys[..] {
        [] => "it is an empty dict".into(),
        _ => format!("it is a dict with {}", keys.join(", ")),
    })
}
