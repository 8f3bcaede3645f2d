//! The contract of a tokenizer: sentences to ids.
//!
//! The tokenizers themselves belong to the backbones that read their output.

/// A sentence as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `len` ids: start, words, end, padding.
    pub ids: Vec<u32>,
    /// Position of the end token.
    pub end: u32,
    /// Whether words were cut to fit.
    pub cut: bool,
}

/// Turns sentences into ids.
pub trait Tokenizer: Send + Sync {
    /// `len` ids of a sentence: cut with the end token kept last, or padded.
    fn encode(&self, sentence: &str, len: usize) -> Encoded;

    /// Ids are below this.
    fn vocabulary(&self) -> usize;

    /// The id that pads.
    fn padding(&self) -> u32 {
        0
    }
}
