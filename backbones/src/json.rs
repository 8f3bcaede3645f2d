//! Fields of a published configuration, with errors that name file and field.
//!
//! Owns the reading of numbers and switches out of JSON; which fields there are is the families'.

use serde_json::Value;
use twinspan_sdk::{Error, Result};

/// A JSON object of a file.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    /// The file, and the object's place in it, for messages.
    place: &'a str,
    value: &'a Value,
}

impl<'a> Object<'a> {
    pub fn new(place: &'a str, value: &'a Value) -> Self {
        Self { place, value }
    }

    /// The field's value; none where it is absent or null.
    pub fn field(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    /// A whole number, or `default` where the field is absent.
    pub fn size(&self, name: &str, default: Option<usize>) -> Result<usize> {
        match (self.field(name), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.refused(name, "is missing")),
            (Some(value), _) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| self.refused(name, format!("must be a whole number, got {value}"))),
        }
    }

    /// An id of a vocabulary, or `default`.
    pub fn id(&self, name: &str, default: u32) -> Result<u32> {
        let id = self.size(name, Some(default as usize))?;
        u32::try_from(id).map_err(|_| self.refused(name, format!("is too large: {id}")))
    }

    /// A number, or `default`.
    pub fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.field(name) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite())
                .ok_or_else(|| self.refused(name, format!("must be a number, got {value}"))),
        }
    }

    /// A switch, off where the field is absent.
    pub fn switch(&self, name: &str) -> Result<bool> {
        match self.field(name) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.refused(name, format!("must be true or false, got {value}"))),
        }
    }

    /// A text, or `default`.
    pub fn text(&self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.field(name) {
            None => Ok(default),
            Some(value) => value
                .as_str()
                .ok_or_else(|| self.refused(name, format!("must be a text, got {value}"))),
        }
    }

    /// The side of a square: a number, or two that are the same.
    pub fn side(&self, name: &str, default: Option<usize>) -> Result<usize> {
        match self
            .field(name)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
        {
            Some([rows, columns]) if rows == columns => {
                Object::new(self.place, &serde_json::json!({ name: rows })).size(name, None)
            }
            Some(_) => Err(self.refused(name, "must be a square")),
            None => self.size(name, default),
        }
    }

    /// What a field asks for that is not there.
    pub fn refused(&self, name: &str, message: impl std::fmt::Display) -> Error {
        Error::wrong_use(format!("{}: `{name}` {message}", self.place))
    }
}
