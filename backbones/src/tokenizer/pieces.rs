//! SigLIP's tokenizers: the pieces of a `tokenizer.json`, and the cleaning in front of it.
//!
//! Owns what is done to a sentence before and behind the `tokenizers` crate: SigLIP's
//! canonical form, the end, the padding. SigLIP's pieces are SentencePiece's (a unigram model),
//! SigLIP 2's are Gemma's (byte pairs); each has its own cleaning.
//!
//! Sources: big_vision's `pp_tok` and the tokenizers of transformers.

use std::path::{Path, PathBuf};

use tokenizers::models::ModelWrapper;
use tokenizers::tokenizer::Tokenizer as Pipeline;
use twinspan_sdk::tokenizer::{Encoded, Tokenizer};
use twinspan_sdk::{Error, Result};

use crate::text::{Reading, Text};

/// The most that a `tokenizer.json` may have, in bytes; Gemma's has 34 million.
const LARGEST: u64 = 1 << 27;

/// A tokenizer whose ids a text tower has rows for.
#[derive(Debug)]
pub(crate) struct Pieces {
    source: Source,
    /// Ids are below this.
    size: usize,
    padding: u32,
    end: u32,
}

#[derive(Debug)]
enum Source {
    /// A `tokenizer.json`.
    File {
        pipeline: Box<Pipeline>,
        cleaning: Cleaning,
    },
    /// No file: the bytes of a sentence, behind the special ids. For models without weights.
    Bytes,
}

/// What is done to a sentence before it is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleaning {
    /// SigLIP: lower case, no ASCII punctuation, single spaces.
    Canonical,
    /// SigLIP 2: lower case.
    Lower,
}

/// The first id of a byte where there is no vocabulary: 0 to 2 are padding, end and unknown.
const FIRST_BYTE: u32 = 3;

impl Pieces {
    /// The tokenizer in a `tokenizer.json`, or a folder with one, for a text tower; the bytes of
    /// a sentence where none is named and the tower's table has room for them.
    ///
    /// # Errors
    /// The file is not a tokenizer of this kind, has other ids than the tower has rows for, or ends
    /// sentences with another one.
    pub fn open(path: Option<&Path>, text: &Text) -> Result<Self> {
        let (padding, end) = match text.reading {
            Reading::Last { padding, end } => (padding, end),
            _ => {
                return Err(Error::plugin(
                    "a text tower that is not read at its last place",
                ));
            }
        };
        let (source, size) = match path {
            Some(path) => {
                let file = file(path);
                let pipeline = read(&file)?;
                let size = rows(&pipeline);
                // What it cannot cut would silently be no words at all.
                if let Err(error) = pipeline.encode_fast(STRANGE, false) {
                    return Err(Error::wrong_use(format!(
                        "{}: cuts not every sentence: {error}",
                        file.display()
                    )));
                }
                let cleaning = match pipeline.get_model() {
                    ModelWrapper::Unigram(_) => Cleaning::Canonical,
                    _ => Cleaning::Lower,
                };
                if let Some(ends) = pipeline.id_to_token(end)
                    && !["</s>", "<eos>"].contains(&ends.as_str())
                {
                    return Err(Error::wrong_use(format!(
                        "{}: id {end}, with which the backbone ends sentences, is `{ends}`: it is another model's vocabulary",
                        file.display()
                    )));
                }
                let pipeline = Box::new(pipeline);
                (Source::File { pipeline, cleaning }, size)
            }
            None => (Source::Bytes, FIRST_BYTE as usize + 256),
        };
        match path {
            // Tables of words are padded a little; a vocabulary of less than half is another's.
            Some(_) if 2 * size < text.vocabulary => Err(misfit(path, size, text.vocabulary)),
            _ if size <= text.vocabulary => Ok(Self {
                source,
                size,
                padding,
                end,
            }),
            Some(_) => Err(misfit(path, size, text.vocabulary)),
            None => Err(Error::wrong_use(format!(
                "no vocabulary is named, and the backbone's {} words are fewer than the {size} of bytes alone: name a tokenizer.json or a folder with one",
                text.vocabulary
            ))),
        }
    }

    /// The ids of a sentence without end and padding.
    fn pieces(&self, sentence: &str) -> Vec<u32> {
        match &self.source {
            Source::Bytes => {
                let bytes = Cleaning::Canonical.clean(sentence);
                bytes
                    .bytes()
                    .map(|byte| FIRST_BYTE + u32::from(byte))
                    .collect()
            }
            Source::File { pipeline, cleaning } => {
                let clean = cleaning.clean(sentence);
                match pipeline.encode_fast(clean, false) {
                    Ok(encoding) => encoding.get_ids().to_vec(),
                    // It cut what is in no vocabulary when it was opened; no words are better
                    // than a panic.
                    Err(_) => Vec::new(),
                }
            }
        }
    }
}

impl Tokenizer for Pieces {
    /// The sentence's pieces, the end, and padding; of a sentence that is too long the first
    /// pieces and the end.
    fn encode(&self, sentence: &str, len: usize) -> Encoded {
        let mut ids = self.pieces(sentence);
        let room = len.saturating_sub(1);
        let cut = ids.len() > room;
        ids.truncate(room);
        let end = ids.len() as u32;
        ids.push(self.end);
        ids.resize(len, self.padding);
        Encoded { ids, end, cut }
    }

    fn vocabulary(&self) -> usize {
        self.size
    }

    fn padding(&self) -> u32 {
        self.padding
    }
}

impl Cleaning {
    fn clean(self, sentence: &str) -> String {
        let lower = sentence.to_lowercase();
        match self {
            Cleaning::Lower => lower,
            Cleaning::Canonical => {
                let words: String = lower
                    .chars()
                    .filter(|c| !c.is_ascii_punctuation())
                    .collect();
                words.split_whitespace().collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// A character that no vocabulary has as a piece: one of the private use area.
const STRANGE: &str = "\u{e000}";

/// Rows that a table for its ids needs: the highest id and one.
fn rows(pipeline: &Pipeline) -> usize {
    let vocabulary = pipeline.get_vocab(true);
    vocabulary.values().max().map_or(0, |id| *id as usize + 1)
}

fn misfit(path: Option<&Path>, size: usize, rows: usize) -> Error {
    Error::wrong_use(format!(
        "{} has {size} tokens, the backbone's table of words {rows} rows: it is another model's vocabulary",
        path.unwrap_or(Path::new("the vocabulary")).display()
    ))
}

/// The file itself, or the one in a folder.
fn file(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.join("tokenizer.json"),
        false => path.into(),
    }
}

fn read(file: &Path) -> Result<Pipeline> {
    let wrong = |message: String| Error::wrong_use(format!("{}: {message}", file.display()));
    let length = std::fs::metadata(file)
        .map_err(|e| {
            wrong(format!(
                "cannot be read: {e}; name a tokenizer.json or a folder with one"
            ))
        })?
        .len();
    if length > LARGEST {
        return Err(wrong(format!(
            "has {length} bytes; a tokenizer.json has at most {LARGEST}"
        )));
    }
    let bytes = std::fs::read(file).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let mut pipeline =
        Pipeline::from_bytes(bytes).map_err(|e| wrong(format!("is not a tokenizer.json: {e}")))?;
    // The end and the padding are put in here.
    pipeline.with_padding(None);
    pipeline
        .with_truncation(None)
        .map_err(|e| wrong(e.to_string()))?;
    Ok(pipeline)
}

#[cfg(test)]
mod tests {
    use super::Cleaning;

    #[test]
    fn a_sentence_is_brought_to_its_canonical_form() {
        let clean = Cleaning::Canonical.clean("  A cat's  hat,\tNOT-a_hat! ");
        assert_eq!(clean, "a cats hat notahat");
        assert_eq!(Cleaning::Lower.clean("A cat, Zürich"), "a cat, zürich");
    }
}
