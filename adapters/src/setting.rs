//! What methods say alike of themselves: kinds of options, numbers among them and what they may
//! be, `"auto"`, which stands for what another option implies, and promises.
//!
//! Owns how these are written, read and refused. What is implied is each method's own. No plugin.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twinspan_sdk::plugin::{Capabilities, Opt};
use twinspan_sdk::site::{Sites, Tower};
use twinspan_sdk::{Error, Result};

/// The promise to change nothing before training.
pub const IDENTITY: Capabilities = Capabilities {
    identity_at_start: true,
    mergeable: false,
    trainable: true,
    by_class: false,
    interchange: &[],
};

/// The promise to change nothing before training, and to fold into the weights behind it.
pub const FOLDS: Capabilities = Capabilities {
    mergeable: true,
    ..IDENTITY
};

/// An option that is a whole number.
pub const fn integer(name: &'static str, about: &'static str) -> Opt {
    Opt::new(name, "integer", about)
}

/// An option that is a number.
pub const fn number(name: &'static str, about: &'static str) -> Opt {
    Opt::new(name, "number", about)
}

/// An option that is a whole number or left open, a [`Setting`].
pub const fn integer_or_auto(name: &'static str, about: &'static str) -> Opt {
    Opt::new(name, "integer or auto", about)
}

/// An option that is a number or left open, a [`Setting`].
pub const fn number_or_auto(name: &'static str, about: &'static str) -> Opt {
    Opt::new(name, "number or auto", about)
}

/// An option that is one of a few words; `about` names them.
pub const fn choice(name: &'static str, about: &'static str) -> Opt {
    Opt::new(name, "string", about)
}

/// An option that is true or false.
pub const fn flag(name: &'static str, about: &'static str) -> Opt {
    Opt::new(name, "boolean", about)
}

/// The choice of sites, in `tower` where it names no tower.
pub fn sites_or(sites: &Sites, tower: Tower) -> Sites {
    let mut sites = sites.clone();
    if sites.towers.is_empty() {
        sites.towers.push(tower);
    }
    sites
}

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

/// Refuses what is no number.
///
/// # Errors
/// It is infinite or not a number.
pub fn check_number(owner: &str, name: &str, number: f64) -> Result<()> {
    check(owner, name, number, number.is_finite(), "must be a number")
}

/// Refuses what is not above 0.
///
/// # Errors
/// It is 0 or below, infinite or not a number.
pub fn check_above_zero(owner: &str, name: &str, number: f64) -> Result<()> {
    let fits = number.is_finite() && number > 0.0;
    check(owner, name, number, fits, "must be above 0")
}

/// Refuses what is below 0.
///
/// # Errors
/// It is below 0, infinite or not a number.
pub fn check_zero_or_above(owner: &str, name: &str, number: f64) -> Result<()> {
    let fits = number.is_finite() && number >= 0.0;
    check(owner, name, number, fits, "must be 0 or above")
}

/// Refuses a factor of 0, and one that is no number.
///
/// # Errors
/// It is either.
pub fn check_factor(owner: &str, name: &str, factor: f64) -> Result<()> {
    let fits = factor.is_finite() && factor != 0.0;
    check(owner, name, factor, fits, "must be a number other than 0")
}

/// Refuses a dropout outside of [0, 1).
///
/// # Errors
/// It is outside.
pub fn check_dropout(owner: &str, dropout: f64) -> Result<()> {
    let fits = (0.0..1.0).contains(&dropout);
    check(owner, "dropout", dropout, fits, "must lie in [0, 1)")
}

fn check(owner: &str, name: &str, number: f64, fits: bool, rule: &str) -> Result<()> {
    match fits {
        true => Ok(()),
        false => Err(wrong(owner, format!("{name} = {number} {rule}"))),
    }
}
