//! What stands beside a model's weights.

use std::collections::BTreeMap;

use serde_json::Value;

/// The JSON files beside a model's weights, parsed, by file name: `config.json`,
/// `open_clip_config.json`, `preprocessor_config.json`, `tokenizer_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description(pub BTreeMap<String, Value>);

impl Description {
    /// The file called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Puts a file in.
    pub fn insert(&mut self, name: &str, content: Value) {
        self.0.insert(name.to_string(), content);
    }

    /// Whether there is no such file.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
