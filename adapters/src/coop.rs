//! CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134): learned context in front of a sentence's
//! words.
//!
//! ```text
//! sentence = [start, v_1 … v_n, words, end]      v_i [T] in place of word embeddings
//! ```
//!
//! All sentences share the context. It starts N(0, .02), or as the embeddings of `words`, which
//! must be n tokens long: "a photo of a" is 4. Site: the text tower's stream before positions, so
//! words and end move up by n and padding is pushed out. It is not the identity at the start. The
//! paper's default is 16 vectors; for classes, a task's template is best the bare name, `{}`. Owns
//! options; context and its place are [`prompt`](crate::prompt)'s.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::{Result, register};

use crate::prompt::{Prompts, TOKENS, WORDS, context, context_wants};

/// Learned context of sentences.
///
/// ```
/// use twinspan_adapters::coop::Coop;
/// use twinspan_sdk::adapter::Adapter;
///
/// let spoken = Coop { tokens: 4, words: "a photo of a".into() };
/// // The words' embeddings come from the table, so it is wished for too.
/// assert_eq!(spoken.wants().len(), Coop::default().wants().len() + 1);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coop {
    /// Context vectors n.
    pub tokens: usize,
    /// What the context starts as; empty for N(0, .02).
    pub words: String,
}

impl Default for Coop {
    fn default() -> Self {
        Self {
            tokens: 16,
            words: String::new(),
        }
    }
}

impl Plugin for Coop {
    const NAME: &'static str = "coop";
    const ABOUT: &'static str =
        "learned context in front of a sentence's words (CoOp, Zhou et al., 2022)";
    const OPTIONS: &'static [Opt] = &[TOKENS, WORDS];
}

impl Adapter for Coop {
    fn wants(&self) -> Vec<Want> {
        context_wants(&self.words)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let Some(slot) = slots.iter().find_map(Slot::stream) else {
            return Ok(Box::new(Idle));
        };
        let width = slot.stream.width;
        let (tokens, start) = context(params, self.tokens, width, &self.words, slots)?;
        let prompts = Prompts {
            tokens,
            owner: params.owner().to_string(),
            dropout: 0.0,
        };
        hooks.stream(slot, prompts);
        Ok(start)
    }
}

register!(adapter: Coop);
