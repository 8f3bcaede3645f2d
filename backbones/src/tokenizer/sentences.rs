//! CLIP's tokenizer as the contracts have it, for a text tower of a given size.
//!
//! Owns the choice of vocabulary and whether it fits. Turning text into ids is
//! [`crate::tokenizer`]'s.

use std::path::Path;

use twinspan_sdk::tokenizer::{Encoded, Tokenizer};
use twinspan_sdk::{Error, Result};

use super::ClipTokenizer;

/// What a vocabulary is read from.
const FILES: &str = "bpe_simple_vocab_16e6.txt.gz, vocab.json beside merges.txt, tokenizer.json, \
                     or a folder with one of these";

/// A tokenizer whose ids a table of words has rows for.
pub(crate) struct Sentences(ClipTokenizer);

impl Sentences {
    /// The vocabulary at `path`; bytes without merges where none is named and `rows` of words
    /// are those of a model that was made for them.
    ///
    /// # Errors
    /// The file is not a vocabulary, or it has more ids than the model has rows.
    pub fn open(path: Option<&Path>, rows: usize) -> Result<Self> {
        let tokenizer = match path {
            Some(path) => ClipTokenizer::open(path).map_err(Error::wrong_use)?,
            None => ClipTokenizer::bytes(),
        };
        let size = tokenizer.vocab_size();
        match path {
            _ if size <= rows => Ok(Self(tokenizer)),
            Some(path) => Err(Error::wrong_use(format!(
                "{} has {size} tokens, the backbone's table of words {rows} rows: it is another model's vocabulary",
                path.display()
            ))),
            None => Err(Error::wrong_use(format!(
                "no vocabulary is named, and the backbone's {rows} words are fewer than the {size} of bytes without merges: name {FILES}"
            ))),
        }
    }
}

impl From<ClipTokenizer> for Sentences {
    fn from(tokenizer: ClipTokenizer) -> Self {
        Self(tokenizer)
    }
}

impl Tokenizer for Sentences {
    fn encode(&self, sentence: &str, len: usize) -> Encoded {
        let encoded = self.0.encode(sentence, len);
        let end = encoded.ids.iter().position(|id| *id == self.0.end());
        Encoded {
            end: end.and_then(|at| u32::try_from(at).ok()).unwrap_or(0),
            ids: encoded.ids,
            cut: encoded.cut,
        }
    }

    fn vocabulary(&self) -> usize {
        self.0.vocab_size()
    }
}
