//! The attention of patches to the final words of the sentence.
//!
//! ```text
//! look(y) = attention(y·imageᵀ, w·textᵀ)·backᵀ        d to e to d, all words, no padding mask
//! ```
//!
//! Owns these layers; where y comes from and goes to is [`super`]'s.

use candle_core::Tensor;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::Slot;
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::layers::{Attention, Linear};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::{Pass, TapKey};
use twinspan_sdk::site::{At, Tap};

use super::DenseAligner;
use crate::dense::Start;
use crate::pixels::pixels;

/// The final words.
pub(super) fn words() -> Tap {
    Tap::text(At::Final)
}

/// What patches see of the words.
pub(super) struct Look {
    image: Linear,
    text: Linear,
    attention: Attention,
    back: Linear,
    words: TapKey,
}

impl Look {
    /// Of the hook in `slot`.
    pub fn make(
        options: &DenseAligner,
        slot: &Slot,
        hooks: &mut Hooks,
        params: &mut Params,
    ) -> Result<Self> {
        let width = hooks.stream_at(words())?.width;
        let (d, e) = (options.dim, options.attention_dim);
        let (heads, dropout) = (options.heads, options.dropout);
        let start = Init::KaimingNormal { fan: e };
        let mut linear =
            |name: &str, from, to| Start::Kaiming.linear(&mut params.within(name), from, to);
        Ok(Self {
            image: linear("image", d, e)?,
            text: linear("text", width, e)?,
            back: linear("back", e, d)?,
            attention: {
                let here = &mut params.within("attention");
                Attention::make(here, e, e, heads, dropout, start)?
            },
            words: hooks.tap(slot, words())?,
        })
    }

    /// Of patches `[B, d, H, W]`, `[B, H·W, d]`.
    pub fn forward(&self, y: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let words = pass.read(self.words)?.content()?;
        let query = self.image.forward(&pixels(y)?, pass)?;
        let memory = self.text.forward(&words, pass)?;
        let seen = self
            .attention
            .forward(&query, &memory, &memory, None, pass)?;
        self.back.forward(&seen, pass)
    }
}
