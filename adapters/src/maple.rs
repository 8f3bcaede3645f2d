//! MaPLe (Khattak et al., CVPR 2023, arXiv 2210.03117): learned tokens in both towers, those of
//! the vision tower made from those of the text tower.
//!
//! ```text
//! text, block i      [start, P_i, words]            i = 0 … J-1
//! vision, block i    [class, patches, P_i F_iᵀ + b_i]
//! ```
//!
//! P_0 comes in with the word embeddings, as in CoOp, and P_0 F_0ᵀ behind the positions of the
//! patches; before blocks 1 to J-1, P_i and P_i F_iᵀ take the place of what those before became.
//! P_i `[1, n, T]` starts N(0, .02), P_0 as `words` where there are some, and F_i `[D, T]`, b_i as
//! in PyTorch. As in the paper, n = 2, J = 9, and the tokens of a picture lie behind its patches. It
//! is not the identity at the start, and refuses towers of fewer blocks than J. Owns depths and
//! coupling; tokens and their places are [`prompt`](crate::prompt)'s.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, StreamSlot, Want};
use twinspan_sdk::hooks::{Hooks, StreamHook};
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{EmbedStep, Moment, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::{Error, Result, register};

use crate::prompt::{Place, Prompts, START, context, context_wants, of_tokens, prompted};

/// No tower is deeper.
const MOST_BLOCKS: usize = 1 << 12;

/// Coupled tokens of both towers.
///
/// ```
/// use twinspan_adapters::maple::Maple;
/// use twinspan_sdk::adapter::Adapter;
///
/// let shallow = Maple { depth: 1, ..Default::default() };
/// // One place in each tower; deeper, the blocks of the text tower are asked for too.
/// assert_eq!((shallow.wants().len(), Maple::default().wants().len()), (2, 3));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maple {
    /// Tokens n in each tower.
    pub tokens: usize,
    /// Blocks J with tokens of their own, from the first.
    pub depth: usize,
    /// What the first tokens start as; empty for N(0, .02).
    pub words: String,
}

impl Default for Maple {
    fn default() -> Self {
        Self {
            tokens: 2,
            depth: 9,
            words: String::new(),
        }
    }
}

impl Plugin for Maple {
    const NAME: &'static str = "maple";
    const ABOUT: &'static str =
        "learned tokens in both towers, coupled by linear maps (MaPLe, Khattak et al., 2023)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("tokens", "integer", "learned tokens in each tower"),
        Opt::new(
            "depth",
            "integer",
            "blocks with tokens of their own, from the first; both towers must have as many",
        ),
        Opt::new(
            "words",
            "string",
            "what the first block's tokens start as, of as many (\"a photo\": 2); empty draws them",
        ),
    ];
}

impl Adapter for Maple {
    fn wants(&self) -> Vec<Want> {
        // From the deepest, so that a tower without it is told how deep it would have to be.
        let blocks = (1..self.depth.min(MOST_BLOCKS)).rev().map(Moment::Before);
        let in_text: Vec<Moment> = blocks.clone().collect();
        let mut wants = context_wants(&self.words);
        if !in_text.is_empty() {
            wants.push(Want::Streams {
                tower: Tower::Text,
                moments: in_text,
            });
        }
        let behind_positions = Moment::Embed(EmbedStep::Positions);
        wants.push(Want::Streams {
            tower: Tower::Vision,
            moments: [behind_positions].into_iter().chain(blocks).collect(),
        });
        wants
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let owner = params.owner().to_string();
        if self.depth == 0 {
            let message = format!("{owner}: depth must be above 0");
            return Err(Error::wrong_use(message));
        }
        let of = |tower| {
            let streams = slots.iter().filter_map(Slot::stream);
            streams.filter(move |s: &&StreamSlot| s.tower == tower)
        };
        let mut life: Installed = Box::new(Idle);
        for (text, vision) in of(Tower::Text).zip(of(Tower::Vision)) {
            of_tokens(vision, &owner)?;
            let ends = (text.stream.width, vision.stream.width);
            let mut params = params.within(text.moment.at());
            let tokens = match text.moment {
                Moment::Embed(_) => {
                    let (tokens, start) =
                        context(&mut params, self.tokens, ends.0, &self.words, slots)?;
                    life = start;
                    tokens
                }
                _ => params.trained("context", &[1, self.tokens, ends.0], START)?,
            };
            let coupled = Coupled {
                tokens: tokens.clone(),
                map: Linear::make_uniform(&mut params.within("vision"), ends.0, ends.1)?,
                owner: owner.clone(),
            };
            let prompts = Prompts {
                tokens,
                owner: owner.clone(),
                dropout: 0.0,
            };
            hooks.stream(text, prompts);
            hooks.stream(vision, coupled);
        }
        Ok(life)
    }
}

/// P Fᵀ + b behind the patches.
struct Coupled {
    /// Those of the text tower, `[1, n, T]`.
    tokens: Parameter,
    map: Linear,
    owner: String,
}

impl StreamHook for Coupled {
    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let tokens = self.map.forward(&self.tokens.tensor(pass)?, pass)?;
        prompted(stream, &tokens, &self.owner, Place::End)
    }
}

register!(adapter: Maple);
