//! CLIP's vocabulary files.
//!
//! Owns where a vocabulary is looked for, its three forms, and the checks that a merge can rely
//! on. All forms end as ids by token and merges in order.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use super::{END, START, TokenizerError};

/// What a token at the end of a word ends with.
pub(super) const WORD_END: &str = "</w>";

/// Merges that CLIP uses of its larger file: OpenAI's code subtracts 256 bytes and the two
/// special tokens from 49152, and not the bytes at a word's end.
const CLIP_MERGES: usize = 49152 - 256 - 2;

/// The most that a packed vocabulary may unpack to, in its own size: CLIP's is 2.4 times as large,
/// and words do not repeat more than ten times as much.
const LARGEST: u64 = 24;

/// Where a vocabulary is in a folder, in order of preference: any one is enough.
const IN_FOLDER: [&str; 3] = [
    "vocab.json",
    "tokenizer.json",
    "bpe_simple_vocab_16e6.txt.gz",
];

/// Tokens and what they are merged from.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) ids: HashMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
}

/// The vocabulary at `path`, and the file that an error in it should name.
pub(super) fn open(path: &Path) -> Result<(Vocabulary, PathBuf), TokenizerError> {
    let none = |found: &str| TokenizerError::NoVocabulary {
        path: path.into(),
        found: found.into(),
    };
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    let file = if metadata.is_dir() {
        IN_FOLDER
            .iter()
            .map(|name| path.join(name))
            .find(|file| {
                let pair = file.ends_with("vocab.json");
                file.is_file() && (!pair || path.join("merges.txt").is_file())
            })
            .ok_or_else(|| none("holds no vocabulary"))?
    } else {
        path.into()
    };
    let bytes = read(&file)?;
    let damaged = |file: &Path, problem: String| TokenizerError::Damaged {
        path: file.into(),
        problem,
    };
    if bytes.starts_with(b"\x1f\x8b") {
        let text = unpack(&bytes).map_err(|problem| damaged(&file, problem))?;
        let mut merges = merges(&text).map_err(|problem| damaged(&file, problem))?;
        merges.truncate(CLIP_MERGES);
        return Ok((Vocabulary::of_merges(merges), file));
    }
    let text = String::from_utf8(bytes).map_err(|_| none("is neither gzip nor text"))?;
    if !text.trim_start().starts_with('{') {
        // The merges of a pair, if the other is there.
        merges(&text).map_err(|_| none("is no list of merges"))?;
        let (ids, merges) = (sibling(&file, "vocab.json")?, text);
        return pair(&ids, &to_text(&ids, read(&ids)?)?, &file, &merges);
    }
    let json: Value =
        serde_json::from_str(&text).map_err(|e| damaged(&file, format!("it is not JSON: {e}")))?;
    // In vocab.json "model" may be a token, with a number.
    if json.get("model").is_some_and(Value::is_object) {
        let vocabulary = Tokenizer::deserialize(json)
            .map_err(|e| e.to_string())
            .and_then(Tokenizer::vocabulary)
            .map_err(|problem| damaged(&file, problem))?;
        return Ok((vocabulary, file));
    }
    let merges = sibling(&file, "merges.txt")?;
    pair(&file, &text, &merges, &to_text(&merges, read(&merges)?)?)
}

/// The text in a gzip file, which says nothing of its size that could be trusted.
fn unpack(bytes: &[u8]) -> Result<String, String> {
    let most = LARGEST * bytes.len() as u64;
    let mut text = String::new();
    GzDecoder::new(bytes)
        .take(most + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("it does not unpack: {e}"))?;
    match text.len() as u64 > most {
        true => Err(format!("it unpacks to more than {LARGEST} times its size")),
        false => Ok(text),
    }
}

/// tokenizer.json, as far as it is used.
#[derive(Deserialize)]
struct Tokenizer {
    model: Bpe,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

/// `model` in tokenizer.json.
#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// Written as one string until tokenizers 0.20, as two since.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Two(String, String),
    One(String),
}

impl Tokenizer {
    fn vocabulary(self) -> Result<Vocabulary, String> {
        let Self {
            model,
            added_tokens,
        } = self;
        if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
            return Err(format!(
                "its model is {}, not BPE",
                model.kind.unwrap_or_default()
            ));
        }
        if model.end_of_word_suffix.as_deref() != Some(WORD_END) {
            return Err(format!("its words do not end with {WORD_END}"));
        }
        let mut ids: HashMap<String, u32> = serde_json::from_value(model.vocab)
            .map_err(|e| format!("its tokens are not numbered: {e}"))?;
        ids.extend(
            added_tokens
                .into_iter()
                .map(|token| (token.content, token.id)),
        );
        let merges = model.merges.into_iter().map(|merge| match merge {
            Merge::Two(left, right) => Ok((left, right)),
            Merge::One(line) => two(&line).ok_or_else(|| no_merge(&line)),
        });
        Ok(Vocabulary {
            ids,
            merges: merges.collect::<Result<_, _>>()?,
        })
    }
}

impl Vocabulary {
    /// The vocabulary that follows from its merges, in OpenAI's order: bytes, bytes at a word's
    /// end, merged tokens, start, end.
    pub(super) fn of_merges(merges: Vec<(String, String)>) -> Self {
        let bytes = || (0..=u8::MAX).map(character);
        // Printable bytes come first: that is the order of the code points.
        let mut characters: Vec<char> = bytes().collect();
        characters.sort_unstable();
        let ids = characters
            .iter()
            .map(char::to_string)
            .chain(characters.iter().map(|c| format!("{c}{WORD_END}")))
            .chain(merges.iter().map(|(left, right)| format!("{left}{right}")))
            .chain([START, END].map(String::from))
            .zip(0..)
            .collect();
        Self { ids, merges }
    }

    /// Each merge must join two tokens to a third, and no two tokens share an id.
    pub(super) fn check(&self) -> Result<(), String> {
        for (left, right) in &self.merges {
            for token in [left, right, &format!("{left}{right}")] {
                if !self.ids.contains_key(token) {
                    return Err(format!(
                        "`{left}` and `{right}` are merged, but `{token}` is not a token"
                    ));
                }
            }
        }
        let mut tokens = BTreeMap::new();
        for (token, id) in &self.ids {
            if let Some(other) = tokens.insert(id, token) {
                let (first, second) = (other.min(token), other.max(token));
                return Err(format!("`{first}` and `{second}` are both number {id}"));
            }
        }
        Ok(())
    }
}

/// The printable character that stands for a byte in vocabulary files: itself where it is
/// printable, else one of those from U+0100 on.
pub(super) fn character(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count();
    // At most 68 bytes are not printable.
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The pair of `vocab.json` and `merges.txt`.
fn pair(
    ids_file: &Path,
    ids: &str,
    merges_file: &Path,
    merges_text: &str,
) -> Result<(Vocabulary, PathBuf), TokenizerError> {
    let damaged = |path: &Path, problem: String| TokenizerError::Damaged {
        path: path.into(),
        problem,
    };
    let ids = serde_json::from_str(ids)
        .map_err(|e| damaged(ids_file, format!("its tokens are not numbered: {e}")))?;
    let merges = merges(merges_text).map_err(|problem| damaged(merges_file, problem))?;
    Ok((Vocabulary { ids, merges }, ids_file.into()))
}

/// The other file of a pair.
fn sibling(file: &Path, name: &str) -> Result<PathBuf, TokenizerError> {
    let other = file.with_file_name(name);
    match other.is_file() {
        true => Ok(other),
        false => Err(TokenizerError::NoVocabulary {
            path: file.into(),
            found: format!("has no {name} beside it"),
        }),
    }
}

/// A line per merge; a first line with the version is not one.
pub(super) fn merges(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut lines = text.lines().peekable();
    lines.next_if(|line| line.contains("#version"));
    lines
        .filter(|line| !line.is_empty())
        .map(|line| two(line).ok_or_else(|| no_merge(line)))
        .collect()
}

fn two(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    let whole = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
    (whole(left) && whole(right)).then(|| (left.into(), right.into()))
}

fn no_merge(line: &str) -> String {
    let line: String = line.chars().take(40).flat_map(char::escape_debug).collect();
    format!("`{line}` is not a merge of two tokens")
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    fs::read(path).map_err(|source| unreadable(path, source))
}

fn to_text(path: &Path, bytes: Vec<u8>) -> Result<String, TokenizerError> {
    String::from_utf8(bytes).map_err(|_| TokenizerError::Damaged {
        path: path.into(),
        problem: "it is not text".into(),
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> TokenizerError {
    TokenizerError::Io {
        path: path.into(),
        source,
    }
}
