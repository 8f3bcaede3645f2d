//! References as the pickle has them: a list of dicts. Owns which of their
//! fields are read; how a pickle is read is [`twinspan_sdk::pickle`]'s.

use std::cell::Cell;
use std::path::Path;

use twinspan_sdk::pickle::{Id, Pickle, Value};

use super::RefcocoError;
use crate::record::Sentence;

/// What a dict counts for beside its entries and texts, in bytes: about what it takes in memory.
const DICT: usize = 32;

/// A pickle's values may be shared, and all of a reference is copied. What is copied may be so many
/// times the file's size, beside a little: shared words are few, and a file of nothing else could
/// ask for any memory and time.
const SHARED: usize = 4;

/// What may be copied whatever the file's size, in bytes.
const LITTLE: usize = 1 << 12;

/// What is needed of a reference.
pub(super) struct Reference {
    pub ref_id: Option<i64>,
    pub ann_id: i64,
    pub image_id: i64,
    pub split: String,
    /// Not one may say anything.
    pub sentences: Vec<Sentence>,
}

/// Reads a file of references.
pub(super) fn read(file: &Path) -> Result<Vec<Reference>, RefcocoError> {
    let bytes = std::fs::read(file).map_err(|reason| RefcocoError::Unreadable {
        path: file.into(),
        reason,
    })?;
    let form = |reason: String| RefcocoError::Form {
        file: file.into(),
        reason,
    };
    let pickle = Pickle::read(&bytes).map_err(|error| form(error.to_string()))?;
    let (Value::List(list) | Value::Tuple(list)) = pickle.root() else {
        return Err(form("is a pickle, but not of a list of references".into()));
    };
    if list.is_empty() {
        return Err(form("is a list without a reference".into()));
    }
    let left = Cell::new(bytes.len().saturating_mul(SHARED).saturating_add(LITTLE));
    let references = list.iter().enumerate().map(|(index, &id)| {
        let dict = Dict::of(&pickle, id, &left);
        let ref_id = dict
            .as_ref()
            .ok()
            .and_then(|dict| dict.number("ref_id").ok());
        dict.and_then(reference)
            .map_err(|reason| RefcocoError::Reference {
                file: file.into(),
                number: index + 1,
                ref_id,
                reason,
            })
    });
    references.collect()
}

/// The error is the end of a sentence that begins with the reference.
fn reference(dict: Dict) -> Result<Reference, String> {
    let (Value::List(list) | Value::Tuple(list)) = dict.field("sentences")? else {
        return Err("has `sentences` that are no list".into());
    };
    let mut sentences = Vec::with_capacity(list.len());
    for (index, &id) in list.iter().enumerate() {
        let sentence = Dict::of(dict.pickle, id, dict.left).and_then(sentence);
        sentences.push(sentence.map_err(|said| format!("has a sentence {}: {said}", index + 1))?);
    }
    let split = dict.text("split")?;
    if split.is_empty() {
        return Err("has an empty `split`".into());
    }
    Ok(Reference {
        ref_id: dict.number("ref_id").ok(),
        ann_id: dict.number("ann_id")?,
        image_id: dict.number("image_id")?,
        split: split.into(),
        sentences,
    })
}

fn sentence(dict: Dict) -> Result<Sentence, String> {
    let mut text = dict.text("sent");
    if !text.as_ref().is_ok_and(|text| !text.trim().is_empty())
        && let Ok(raw) = dict.text("raw")
    {
        text = Ok(raw);
    }
    let kind = match dict.find("kind") {
        None => None,
        Some(_) => Some(dict.text("kind")?.to_string()),
    };
    Ok(Sentence {
        text: text?.to_string(),
        kind: kind.filter(|kind| !kind.trim().is_empty()),
    })
}

/// A dict of a pickle.
#[derive(Clone, Copy)]
struct Dict<'a> {
    pickle: &'a Pickle<'a>,
    entries: &'a [(Id, Id)],
    /// What may still be looked at and copied, in bytes.
    left: &'a Cell<usize>,
}

impl<'a> Dict<'a> {
    fn of(pickle: &'a Pickle<'a>, id: Id, left: &'a Cell<usize>) -> Result<Self, String> {
        let Value::Dict(entries) = pickle.get(id) else {
            return Err("is no dict".into());
        };
        let dict = Self {
            pickle,
            entries,
            left,
        };
        dict.count(DICT + entries.len())?;
        Ok(dict)
    }

    fn count(&self, bytes: usize) -> Result<(), String> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| {
            format!("shares so much with others that it would be more than {SHARED} times its file")
        })?);
        Ok(())
    }

    /// Of several entries of one name Python keeps the last.
    fn find(&self, name: &str) -> Option<&'a Value<'a>> {
        let named = |key: Id| matches!(self.pickle.get(key), Value::Text(text) if text == name);
        let mut entries = self.entries.iter().rev();
        let (_, value) = entries.find(|(key, _)| named(*key))?;
        Some(self.pickle.get(*value))
    }

    fn field(&self, name: &str) -> Result<&'a Value<'a>, String> {
        self.find(name).ok_or_else(|| format!("has no `{name}`"))
    }

    fn number(&self, name: &str) -> Result<i64, String> {
        match self.field(name)? {
            Value::Int(number) => Ok(*number),
            _ => Err(format!("has a `{name}` that is no whole number")),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        match self.field(name)? {
            Value::Text(text) => self.count(text.len()).map(|()| text.as_ref()),
            _ => Err(format!("has a `{name}` that is no text")),
        }
    }
}
