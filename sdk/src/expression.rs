//! Adapters in one line: `lora[rank=8]@text + bridger[dim=64]`.
//!
//! ```text
//! expression = term { "+" term }            nothing at all: no adapter
//! term       = name [ "[" option { "," option } "]" ] [ "@" sites ]
//! option     = key "=" value                a TOML value, or a bare word for a string
//! sites      = part { "." part }
//! part       = tower { "," tower }          vision, text
//!            | "blocks=" range { "," range }    6, or 6..11 for blocks 6 to 11, both counted
//!            | "last=" number                    of each tower its last blocks and what follows
//!            | name { "," name }            projections or branches: query,value or mlp
//! ```
//!
//! Spaces are free between terms, options and signs. `@…` fills the adapter's option `sites`.
//! Owns the grammar, its errors, which name the column, and the way back from adapters to text:
//! what is left at its default is left out, so the text is short enough to name a run. Reports
//! and `--adapters` use it; which adapters there are is [`crate::registry`]'s business.
//!
//! ```
//! use twinspan_sdk::expression::Term;
//!
//! let terms = Term::parse_all("lora[rank=8]@text.blocks=6..8.query + bridger[fusion=gate]")?;
//! assert_eq!(terms[0].options["rank"].as_integer(), Some(8));
//! assert_eq!(terms[1].to_string(), "bridger[fusion=gate]");
//! # Ok::<(), twinspan_sdk::Error>(())
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::adapter::Adapter;
use crate::error::{Error, Result, nearest};
use crate::registry::{self, AdapterEntry, Configured};
use crate::site::{Branch, Projection, Sites, Tower};

/// The option that `@…` fills.
const SITES: &str = "sites";
/// More blocks than any tower has: a longer range is a slip of the pen.
const MOST_BLOCKS: usize = 1 << 10;

/// One adapter of an expression: a name and the options that are given.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// The adapter's name.
    pub name: String,
    /// Its options; `sites` is written behind an `@`.
    pub options: Table,
}

/// The adapters of an expression, looked up and with every default filled in.
///
/// # Errors
/// The text is not an expression, an adapter does not exist or does not take an option; the
/// message says in which column.
pub fn parse(text: &str) -> Result<Vec<Configured<dyn Adapter>>> {
    let placed = Reader::new(text).expression()?;
    let known = registry::names::<AdapterEntry>()?;
    placed
        .into_iter()
        .map(|(column, term)| {
            if !known.contains(&term.name.as_str()) {
                let near = did_you_mean(&term.name, &known);
                let (name, known) = (&term.name, known.join(", "));
                return Err(wrong(
                    text,
                    column,
                    format!("there is no adapter `{name}`{near}; there are: {known}"),
                ));
            }
            let made = registry::configured::<AdapterEntry>(&term.name, term.options);
            made.map_err(|error| wrong(text, column, error.to_string()))
        })
        .collect()
}

/// The shortest expression of adapters: options at their defaults are left out. [`parse`] gives
/// the same adapters again where they are registered.
pub fn write(adapters: &[Configured<dyn Adapter>]) -> String {
    let terms: Vec<String> = adapters.iter().map(|a| Term::of(a).to_string()).collect();
    terms.join(" + ")
}

impl Term {
    /// The terms of an expression, whatever adapters there are.
    ///
    /// # Errors
    /// The text is not an expression; the message says in which column.
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        let placed = Reader::new(text).expression()?;
        Ok(placed.into_iter().map(|(_, term)| term).collect())
    }

    /// An adapter, without the options that are at their defaults; all of them where it is not
    /// registered.
    pub fn of(adapter: &Configured<dyn Adapter>) -> Self {
        let defaults = registry::configured::<AdapterEntry>(adapter.name, Table::new());
        let defaults = defaults.map(|d| d.options).unwrap_or_default();
        let mut options = adapter.options.clone();
        options.retain(|key, value| defaults.get(key) != Some(value));
        Self {
            name: adapter.name.to_string(),
            options,
        }
    }

    /// The table of a recipe's `[[adapter]]`.
    pub fn to_table(&self) -> Table {
        let mut table = Table::new();
        table.insert("use".into(), self.name.as_str().into());
        table.extend(self.options.clone());
        table
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let target = self.options.get(SITES).and_then(target);
        let inside = self
            .options
            .iter()
            .filter(|(key, _)| target.is_none() || *key != SITES)
            .map(|(key, value)| format!("{key}={}", shown(value)))
            .collect::<Vec<_>>();
        if !inside.is_empty() {
            write!(f, "[{}]", inside.join(", "))?;
        }
        match target {
            Some(target) => write!(f, "@{target}"),
            None => Ok(()),
        }
    }
}

/// What of [`Sites`] is written; empty lists are left out.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Chosen {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    towers: Vec<Tower>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<usize>,
    #[serde(skip_serializing_if = "is_zero")]
    last: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    projections: Vec<Projection>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    branches: Vec<Branch>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Sites as they stand behind an `@`; none for what is not sites, or names nothing.
fn target(value: &Value) -> Option<String> {
    let sites: Sites = value.clone().try_into().ok()?;
    let mut parts = Vec::new();
    let list = |items: Vec<String>| items.join(",");
    if !sites.towers.is_empty() {
        parts.push(list(sites.towers.iter().map(Tower::to_string).collect()));
    }
    if !sites.blocks.is_empty() {
        parts.push(format!("blocks={}", ranges(&sites.blocks)));
    }
    if sites.last > 0 {
        parts.push(format!("last={}", sites.last));
    }
    let projections = sites.projections.iter().map(|p| p.name());
    let branches = sites.branches.iter().map(|b| b.name());
    let names: Vec<String> = projections.chain(branches).map(String::from).collect();
    if !names.is_empty() {
        parts.push(list(names));
    }
    (!parts.is_empty()).then(|| parts.join("."))
}

/// Blocks in their order, runs of three or more as ranges.
fn ranges(blocks: &[usize]) -> String {
    let runs = blocks.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let written = runs.map(|run| match run {
        [first, _, .., last] => format!("{first}..{last}"),
        few => few
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(","),
    });
    written.collect::<Vec<_>>().join(",")
}

/// A value in one line; a string is bare where it reads as the same string.
fn shown(value: &Value) -> String {
    match value {
        Value::String(word) if is_bare(word) => word.clone(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inner).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => {
            let entries = table.iter().map(|(key, value)| match is_bare(key) {
                true => format!("{key} = {}", inner(value)),
                false => format!("{} = {}", quoted(key), inner(value)),
            });
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A value within a list or table, where strings are never bare.
fn inner(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => shown(other),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\U{:08X}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

fn is_bare(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && !["true", "false", "inf", "nan"].contains(&word)
}

fn wrong(text: &str, column: usize, message: String) -> Error {
    Error::Expression {
        text: text.to_string(),
        column,
        message,
    }
}

fn did_you_mean(name: &str, known: &[&str]) -> String {
    let near = nearest(name, known.iter().copied());
    near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"))
}

/// Where in a text reading stands.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Columns count characters from 1.
    fn column(&self, at: usize) -> usize {
        1 + self.text[..at].chars().count()
    }

    fn wrong<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(wrong(self.text, self.column(at), message.into()))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
        }
        found
    }

    /// What is next, in words.
    fn next(&self) -> String {
        match self.rest().chars().next() {
            Some(letter) => format!("`{letter}`"),
            None => "the end".into(),
        }
    }

    fn word(&mut self) -> &'a str {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let rest = self.rest();
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn expression(mut self) -> Result<Vec<(usize, Term)>> {
        let mut terms = Vec::new();
        self.spaces();
        if self.rest().is_empty() {
            return Ok(terms);
        }
        loop {
            self.spaces();
            let start = self.column(self.at);
            terms.push((start, self.term()?));
            self.spaces();
            if self.rest().is_empty() {
                return Ok(terms);
            }
            if !self.eat("+") {
                let next = self.next();
                return self.wrong(
                    self.at,
                    format!("expected `[`, `@`, `+` or the end, found {next}"),
                );
            }
        }
    }

    fn term(&mut self) -> Result<Term> {
        let start = self.at;
        let name = self.word();
        if name.is_empty() {
            let next = self.next();
            return self.wrong(
                start,
                format!("expected the name of an adapter, found {next}"),
            );
        }
        let mut options = Table::new();
        self.spaces();
        if self.eat("[") {
            self.options(&mut options)?;
            self.spaces();
        }
        let sign = self.at;
        if self.eat("@") {
            if options.contains_key(SITES) {
                return self.wrong(sign, "`@` names sites, which are given in brackets already");
            }
            let sites = self.sites()?;
            options.insert(SITES.into(), sites.into());
        }
        Ok(Term {
            name: name.to_string(),
            options,
        })
    }

    fn options(&mut self, options: &mut Table) -> Result<()> {
        loop {
            self.spaces();
            if self.eat("]") {
                return Ok(());
            }
            let start = self.at;
            let key = self.word();
            self.spaces();
            if key.is_empty() || !self.eat("=") {
                let next = self.next();
                return self.wrong(
                    self.at,
                    format!("write KEY=VALUE, as in rank=8; found {next}"),
                );
            }
            let value = self.value()?;
            if options.insert(key.into(), value).is_some() {
                return self.wrong(start, format!("`{key}` is given twice"));
            }
            self.spaces();
            if !self.eat(",") && !self.rest().starts_with(']') {
                let next = self.next();
                return self.wrong(self.at, format!("expected `,` or `]`, found {next}"));
            }
        }
    }

    /// A TOML value up to the next `,` or `]` outside of strings and brackets.
    fn value(&mut self) -> Result<Value> {
        self.spaces();
        let start = self.at;
        let (mut depth, mut string, mut escaped) = (0usize, None, false);
        let rest = self.rest();
        let ends = |(_, c): &(usize, char)| match string {
            Some(quote) => {
                let closes = *c == quote && !escaped;
                escaped = quote == '"' && *c == '\\' && !escaped;
                if closes {
                    string = None;
                }
                false
            }
            None => match c {
                '"' | '\'' => {
                    string = Some(*c);
                    false
                }
                '[' | '{' => {
                    depth += 1;
                    false
                }
                ']' | ',' if depth == 0 => true,
                ']' | '}' => {
                    depth = depth.saturating_sub(1);
                    false
                }
                _ => false,
            },
        };
        let Some((len, _)) = rest.char_indices().find(ends) else {
            return self.wrong(start, "a value does not end: a `]` or a quote is missing");
        };
        let text = rest[..len].trim();
        self.at += len;
        let read = format!("v = {text}").parse::<Table>();
        match read
            .ok()
            .filter(|t| t.len() == 1)
            .and_then(|mut t| t.remove("v"))
        {
            Some(value) => Ok(value),
            None if is_bare(text) => Ok(text.into()),
            None if text.is_empty() => self.wrong(start, "a value is missing"),
            None => self.wrong(
                start,
                format!("`{text}` is no TOML value; write text with spaces or signs in quotes"),
            ),
        }
    }

    fn sites(&mut self) -> Result<Table> {
        let mut sites = Chosen::default();
        loop {
            self.part(&mut sites)?;
            if !self.eat(".") {
                break;
            }
        }
        Table::try_from(sites).map_err(Error::plugin)
    }

    fn part(&mut self, sites: &mut Chosen) -> Result<()> {
        if self.eat("blocks=") {
            loop {
                self.blocks(&mut sites.blocks)?;
                if !self.eat(",") {
                    return Ok(());
                }
            }
        }
        let start = self.at;
        if self.eat("last=") {
            sites.last = self.number()?;
            return match sites.last {
                0 => self.wrong(start, "last=0 names no block"),
                _ => Ok(()),
            };
        }
        loop {
            let start = self.at;
            let name = self.word();
            let tower = Tower::BOTH.into_iter().find(|t| t.to_string() == name);
            let projection = Projection::ALL.iter().find(|p| p.name() == name);
            let branch = Branch::ALL.iter().find(|b| b.name() == name);
            match (tower, projection, branch) {
                (Some(tower), ..) => sites.towers.push(tower),
                (_, Some(projection), _) => sites.projections.push(*projection),
                (_, _, Some(branch)) => sites.branches.push(*branch),
                _ => return self.no_site(start, name),
            }
            if !self.eat(",") {
                return Ok(());
            }
        }
    }

    fn no_site(&self, start: usize, name: &str) -> Result<()> {
        let projections = Projection::ALL.iter().map(|p| p.name());
        let known: Vec<&str> = ["vision", "text", "blocks=FIRST..LAST", "last=COUNT"]
            .into_iter()
            .chain(projections)
            .chain(Branch::ALL.iter().map(|b| b.name()))
            .collect();
        let found = match name.is_empty() {
            true => self.next(),
            false => format!("`{name}`{}", did_you_mean(name, &known)),
        };
        self.wrong(
            start,
            format!(
                "expected a site, found {found}; there are: {}",
                known.join(", ")
            ),
        )
    }

    fn blocks(&mut self, blocks: &mut Vec<usize>) -> Result<()> {
        let start = self.at;
        let first = self.number()?;
        let last = match self.eat("..") {
            true => self.number()?,
            false => first,
        };
        if last < first || last - first >= MOST_BLOCKS {
            return self.wrong(
                start,
                format!("{first}..{last} is no range of blocks: write the first and the last"),
            );
        }
        blocks.extend(first..=last);
        Ok(())
    }

    fn number(&mut self) -> Result<usize> {
        let start = self.at;
        let rest = self.rest();
        let len = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        match rest[..len].parse() {
            Ok(number) => {
                self.at += len;
                Ok(number)
            }
            Err(_) => self.wrong(start, "expected a number, as in blocks=6..11 or last=4"),
        }
    }
}
