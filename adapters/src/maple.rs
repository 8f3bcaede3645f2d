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
//! is not the identity at the start. Where a tower has fewer blocks than J, all of them get tokens.
//! Owns depths and coupling; tokens and their places are [`prompt`](crate::prompt)'s.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, StreamSlot, Want};
use twinspan_sdk::hooks::{Hooks, StreamHook};
use twinspan_sdk::layers::Linear;
use twinspan_sdk::parameter::{Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Edge, EmbedStep, Moment, Sites, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::{Result, register};

use crate::prompt::{Place, Prompts, START, context, context_wants, of_tokens, prompted};
use crate::setting::{check_count, integer};

/// Coupled tokens of both towers.
///
/// ```
/// use twinspan_adapters::maple::Maple;
/// use twinspan_sdk::adapter::Adapter;
///
/// let shallow = Maple { depth: 1, ..Default::default() };
/// // One place in each tower; deeper, the blocks of both are asked for too.
/// assert_eq!((shallow.wants().len(), Maple::default().wants().len()), (2, 3));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maple {
    /// Tokens n in each tower.
    pub tokens: usize,
    /// Blocks J with tokens of their own, from the first; all, where there are fewer.
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
        integer("tokens", "learned tokens in each tower"),
        integer(
            "depth",
            "blocks with tokens of their own, from the first, or as many as both towers have",
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
        let mut wants = context_wants(&self.words);
        wants.push(Want::Streams {
            tower: Tower::Vision,
            moments: vec![Moment::Embed(EmbedStep::Positions)],
        });
        if self.depth > 1 {
            wants.push(Want::Between {
                sites: Sites::default(),
                default: 1..self.depth,
                edge: Edge::Before,
            });
        }
        wants
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        let owner = params.owner().to_string();
        check_count(&owner, "depth", self.depth)?;
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
