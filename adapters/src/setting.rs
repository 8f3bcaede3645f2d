//! Numbers among the options of several methods: what they may be, and `"auto"`, which stands for
//! what another option implies.
//!
//! Owns how they are written, read and refused. What is implied is each method's own. No plugin.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twinspan_sdk::{Error, Result};

/// A number, or what another option implies.
///
/// ```
/// use twinspan_adapters::setting::Setting;
///
/// assert_eq!(Setting::Auto.or(16), 16);
/// assert_eq!(Setting::Is(4).or(16), 4);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting<T> {
    /// `"auto"`.
    #[default]
    Auto,
    /// The number.
    Is(T),
}

impl<T> Setting<T> {
    /// The number, or `implied` where it is left open.
    pub fn or(self, implied: T) -> T {
        match self {
            Setting::Auto => implied,
            Setting::Is(value) => value,
        }
    }
}

/// Both as they are written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or `auto`")]
enum Written<T> {
    Word(Word),
    Number(T),
}

#[derive(Serialize, Deserialize)]
enum Word {
    #[serde(rename = "auto")]
    Auto,
}

impl<T: Serialize + Copy> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match *self {
            Setting::Auto => Written::Word(Word::Auto),
            Setting::Is(value) => Written::Number(value),
        }
        .serialize(to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Word(Word::Auto) => Setting::Auto,
            Written::Number(value) => Setting::Is(value),
        })
    }
}

/// An error about the options of `owner`.
pub fn wrong(owner: &str, message: impl std::fmt::Display) -> Error {
    Error::wrong_use(format!("{owner}: {message}"))
}

/// Refuses a count of 0.
///
/// # Errors
/// It is 0.
pub fn check_count(owner: &str, name: &str, count: usize) -> Result<()> {
    match count {
        0 => Err(wrong(owner, format!("{name} must be above 0"))),
        _ => Ok(()),
    }
}

/// Refuses a factor of 0, and one that is no number.
///
/// # Errors
/// It is either.
pub fn check_factor(owner: &str, name: &str, factor: f64) -> Result<()> {
    match factor.is_finite() && factor != 0.0 {
        true => Ok(()),
        false => Err(wrong(
            owner,
            format!("{name} = {factor} must be a number other than 0"),
        )),
    }
}

/// Refuses a dropout outside of [0, 1).
///
/// # Errors
/// It is outside.
pub fn check_dropout(owner: &str, dropout: f64) -> Result<()> {
    match (0.0..1.0).contains(&dropout) {
        true => Ok(()),
        false => Err(wrong(
            owner,
            format!("dropout = {dropout} must lie in [0, 1)"),
        )),
    }
}
