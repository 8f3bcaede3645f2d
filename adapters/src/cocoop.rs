//! CoCoOp (Zhou et al., CVPR 2022, arXiv 2203.05557): context of a sentence that depends on the
//! picture it is compared with.
//!
//! ```text
//! v_i(x) = v_i + π(x)        π(x) = W₂ relu(W₁ f(x)/|f(x)| + b₁) + b₂
//! ```
//!
//! f(x) `[E]` is the picture's pooled vector, W₁ `[E/16, E]`, W₂ `[T, E/16]`, so one π(x) moves all
//! n context vectors. They start as CoOp's, the meta-net as in PyTorch; the paper has n = 4 and
//! starts them as "a photo of a". Site: the text tower's stream before positions. It reads
//! `vision.pooled`, so the vision tower runs first and the text tower on pairs: as many sentences
//! as there are pictures times classes. It is not the identity at the start. Owns the meta-net;
//! context and its place are [`prompt`](crate::prompt)'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Hooks, StreamHook};
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Parameter, Params};
use twinspan_sdk::pass::{Pass, TapKey};
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{At, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::{Result, ops, register};

use crate::prompt::{Place, TOKENS, WORDS, context, context_wants, each, prompted};
use crate::setting::{check_count, integer};

/// Context of sentences that depends on the picture.
///
/// ```
/// use twinspan_adapters::cocoop::Cocoop;
/// use twinspan_sdk::adapter::{Adapter, Want};
/// use twinspan_sdk::site::Tower;
///
/// let spoken = Cocoop { words: "a photo of a".into(), ..Default::default() };
/// // The width of a picture's vector is asked for beside the place and the table of words.
/// let vectors = Want::Pooled { towers: vec![Tower::Vision] };
/// assert_eq!(spoken.wants().last(), Some(&Want::Look(Box::new(vectors))));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cocoop {
    /// Context vectors n.
    pub tokens: usize,
    /// What the context starts as; empty for N(0, .02).
    pub words: String,
    /// Width of a picture's vector over that of the meta-net.
    pub reduction: usize,
}

impl Default for Cocoop {
    fn default() -> Self {
        Self {
            tokens: 4,
            words: String::new(),
            reduction: 16,
        }
    }
}

impl Plugin for Cocoop {
    const NAME: &'static str = "cocoop";
    const ABOUT: &'static str =
        "context of a sentence that depends on the picture (CoCoOp, Zhou et al., 2022)";
    const OPTIONS: &'static [Opt] = &[
        TOKENS,
        WORDS,
        integer(
            "reduction",
            "width of a picture's vector over that of the meta-net",
        ),
    ];
}

impl Adapter for Cocoop {
    fn wants(&self) -> Vec<Want> {
        let mut wants = context_wants(&self.words);
        wants.push(Want::Look(Box::new(Want::Pooled {
            towers: vec![Tower::Vision],
        })));
        wants
    }

    fn reads(&self, slot: &Slot) -> Vec<Tap> {
        match slot {
            Slot::Stream(_) => vec![PICTURE],
            _ => Vec::new(),
        }
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        check_count(params.owner(), "reduction", self.reduction)?;
        let place = slots.iter().find(|s| s.stream().is_some());
        let picture = slots.iter().find_map(Slot::pooled);
        let (Some(place), Some(picture)) = (place, picture) else {
            return Ok(Box::new(Idle));
        };
        let Some(stream) = place.stream() else {
            return Ok(Box::new(Idle));
        };
        let width = stream.stream.width;
        let narrow = (picture.width / self.reduction).max(1);
        let (context, start) = context(params, self.tokens, width, &self.words, slots)?;
        let shifted = Shifted {
            context,
            narrow: Linear::make_uniform(&mut params.within("meta.0"), picture.width, narrow)?,
            wide: Linear::make_uniform(&mut params.within("meta.1"), narrow, width)?,
            picture: hooks.tap(place, PICTURE)?,
            owner: params.owner().to_string(),
        };
        hooks.stream(stream, shifted);
        Ok(start)
    }
}

/// What the context depends on.
const PICTURE: Tap = Tap {
    tower: Tower::Vision,
    at: At::Pooled,
};

/// v + π(x) in front of words.
struct Shifted {
    /// `[1, n, T]`.
    context: Parameter,
    narrow: Linear,
    wide: Linear,
    picture: TapKey,
    owner: String,
}

impl StreamHook for Shifted {
    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let shift = self.shift(pass)?;
        let context = each(&self.context.tensor(pass)?, stream.batch()?)?;
        let tokens = ops::add(&context, &shift.unsqueeze(1)?)?;
        prompted(stream, &tokens, &self.owner, Place::Front)
    }
}

impl Shifted {
    /// π(x), `[B, T]`.
    fn shift(&self, pass: &Pass) -> Result<Tensor> {
        let picture = ops::unit(&pass.read(self.picture)?.data)?;
        let narrow = ops::relu(&self.narrow.forward(&picture, pass)?)?;
        self.wide.forward(&narrow, pass)
    }
}

register!(adapter: Cocoop);
