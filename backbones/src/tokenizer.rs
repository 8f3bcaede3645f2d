//! CLIP's tokenizer: byte-level BPE with the cleaning of OpenAI's code.
//!
//! Owns the way from a sentence to CLIP's token ids. Merging is the `tokenizers` crate's;
//! vocabulary files are read in `vocabulary.rs`, sentences cleaned in `clean.rs`. SigLIP's
//! tokenizers are in `pieces.rs`.
//!
//! Source: `simple_tokenizer.py` of <https://github.com/openai/CLIP>.

mod clean;
mod entities;
pub(crate) mod pieces;
pub(crate) mod sentences;
mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::Model;
use tokenizers::models::bpe::BPE;
use tokenizers::utils::SysRegex;

use vocabulary::Vocabulary;

/// The token in front of every sentence.
const START: &str = "<|startoftext|>";
/// The token behind every sentence, at which CLIP reads the sentence's feature.
const END: &str = "<|endoftext|>";
/// The id behind the end: CLIP pads with zeros.
const PADDING: u32 = 0;

/// What the cleaned sentence is split into before merging: the special tokens, English
/// contractions, runs of letters, single digits, runs of anything else.
const PIECES: &str =
    r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

/// Turns sentences into the token ids that CLIP was trained on. Clones share the vocabulary.
#[derive(Clone, Debug)]
pub struct ClipTokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bpe: BPE,
    pieces: SysRegex,
    /// For each byte its character, and its ids inside a word and at a word's end.
    bytes: Vec<(char, [u32; 2])>,
    start: u32,
    end: u32,
    size: usize,
}

/// A sentence as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// As many ids as were asked for: start, the sentence, end, and zeros.
    pub ids: Vec<u32>,
    /// Whether the sentence was too long and its last tokens are not in `ids`.
    pub cut: bool,
}

/// Why a vocabulary was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// There is no vocabulary where one was looked for.
    #[error(
        "{} {found}; accepted are bpe_simple_vocab_16e6.txt.gz, vocab.json beside merges.txt, \
         tokenizer.json, or a folder with one of these", path.display()
    )]
    NoVocabulary {
        /// The file or folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The vocabulary is not one of CLIP's kind.
    #[error("{} is not a vocabulary of CLIP's kind: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
}

impl ClipTokenizer {
    /// Opens `bpe_simple_vocab_16e6.txt.gz`, `vocab.json` or `merges.txt` beside the other,
    /// `tokenizer.json`, or a folder with one of these. A file is recognised by its content. The
    /// same vocabulary gives the same ids from each of them: of `tokenizer.json` only the
    /// vocabulary is used.
    ///
    /// # Errors
    /// Those of [`TokenizerError`]; each names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let (vocabulary, path) = vocabulary::open(path.as_ref())?;
        Self::new(vocabulary).map_err(|problem| TokenizerError::Damaged { path, problem })
    }

    /// A vocabulary without merges: 256 bytes, 256 bytes at a word's end, start and end, 514
    /// ids. For models trained from scratch where no vocabulary file is at hand.
    pub fn bytes() -> Self {
        // Not an error a caller could do anything about: the tests build it.
        #[expect(clippy::expect_used, reason = "the input is fixed")]
        Self::new(Vocabulary::of_merges(Vec::new())).expect("bytes alone are a vocabulary")
    }

    /// The vocabulary of `merges`, in the form of merges.txt: a pair a line, the most frequent
    /// first, `#version` lines left out; its ids are 514 and one for each merge.
    ///
    /// # Errors
    /// A line is no pair, or joins what is not there; the error says which.
    pub fn of_merges(merges: &str) -> Result<Self, String> {
        Self::new(Vocabulary::of_merges(vocabulary::merges(merges)?))
    }

    fn new(vocabulary: Vocabulary) -> Result<Self, String> {
        vocabulary.check()?;
        let id = |token: &str| vocabulary.ids.get(token).copied();
        let special = |token: &str| id(token).ok_or_else(|| format!("it has no {token}"));
        let (start, end) = (special(START)?, special(END)?);
        let bytes = (0..=u8::MAX)
            .map(|byte| {
                let character = vocabulary::character(byte);
                let inside = id(&character.to_string());
                let last = id(&format!("{character}{}", vocabulary::WORD_END));
                inside
                    .zip(last)
                    .map(|(inside, last)| (character, [inside, last]))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or("it does not have every byte, inside a word and at its end")?;
        let size = vocabulary
            .ids
            .values()
            .max()
            .map_or(0, |&last| last as usize + 1);
        let bpe = BPE::builder()
            .vocab_and_merges(
                vocabulary
                    .ids
                    .into_iter()
                    .collect::<tokenizers::models::bpe::Vocab>(),
                vocabulary.merges,
            )
            .end_of_word_suffix(vocabulary::WORD_END.into())
            .build()
            .map_err(|e| e.to_string())?;
        let pieces = SysRegex::new(PIECES).map_err(|e| e.to_string())?;
        Ok(Self(Arc::new(Inner {
            bpe,
            pieces,
            bytes,
            start,
            end,
            size,
        })))
    }

    /// The ids of `sentence` in `len` places: start, tokens, end, padding. A sentence that is
    /// too long keeps its first tokens, and the end token comes last; with `len` 1 only that is
    /// left.
    ///
    /// A sentence of white space is start and end. As in OpenAI's code, `<|startoftext|>` and
    /// `<|endoftext|>` written out in a sentence are these tokens.
    pub fn encode(&self, sentence: &str, len: usize) -> Encoded {
        let mut ids = self.ids(sentence);
        let cut = ids.len() > len;
        ids.resize(len, PADDING);
        if cut && let Some(last) = ids.last_mut() {
            *last = self.0.end;
        }
        Encoded { ids, cut }
    }

    /// The ids of `sentence`: start, tokens, end.
    pub fn ids(&self, sentence: &str) -> Vec<u32> {
        let mut ids = vec![self.0.start];
        let text = clean::clean(sentence);
        for (start, end) in self.0.pieces.find_iter(&text) {
            self.piece(&text[start..end], &mut ids);
        }
        ids.push(self.0.end);
        ids
    }

    /// Appends the ids of one piece.
    fn piece(&self, piece: &str, ids: &mut Vec<u32>) {
        match piece {
            START => return ids.push(self.0.start),
            END => return ids.push(self.0.end),
            _ => {}
        }
        let bytes = || piece.bytes().map(|byte| self.0.bytes[usize::from(byte)]);
        let characters: String = bytes().map(|(character, _)| character).collect();
        match self.0.bpe.tokenize(&characters) {
            Ok(tokens) => ids.extend(tokens.into_iter().map(|token| token.id)),
            // Cannot happen, every byte is in the vocabulary; unmerged is better than nothing.
            Err(_) => {
                let last = piece.len().saturating_sub(1);
                ids.extend(
                    bytes()
                        .enumerate()
                        .map(|(i, (_, id))| id[usize::from(i == last)]),
                );
            }
        }
    }

    /// Rows that an embedding table for these ids needs: the highest id and one.
    pub fn vocab_size(&self) -> usize {
        self.0.size
    }

    /// The id of the token in front of every sentence.
    pub fn start(&self) -> u32 {
        self.0.start
    }

    /// The id of the token behind every sentence.
    pub fn end(&self) -> u32 {
        self.0.end
    }
}
