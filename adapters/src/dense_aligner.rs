//! The DenseAligner of DETRIS (Huang et al., AAAI 2025, arXiv 2501.08580): beside the MLP of a
//! vision block, convolutions over the patches, which then look at the final words of the
//! sentence.
//!
//! With x the block's normed stream `[B, N, D]`, m the patches of x0 on their grid, and w the
//! words as the text tower's last norm leaves them:
//!
//! ```text
//! x0  = ReLU(x·downᵀ)                                  D to d
//! y   = branches(m) + m                                see the file `dense`
//! y   = attention(y·imageᵀ, w·textᵀ)·backᵀ             d to e, all words, no padding mask
//! out = ([special tokens of x0, y] + x0)·upᵀ           d to D
//! mlp'(x) = mlp(x) + s·out                             before the layer scale
//! ```
//!
//! What the attention gives replaces y, so a patch goes on as what it saw of the sentence. Special
//! tokens (class, registers) pass the branches by and count twice. Prompts of other adapters are
//! neither read nor changed.
//!
//! Default sites: the MLP of every vision block; the published models take every second block (B)
//! or every fourth (L). It is not the identity at the start: Kaiming-normal weights over the
//! fan-in, zero biases, and torch's start of the attention's in-projections. It reads the whole
//! text tower, so nothing in the text tower may wait for the vision tower beside it. The
//! attention is `look`'s, the branches are the file `dense`'s.

mod look;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Hooks};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Sites, Tap, Tower};
use twinspan_sdk::{Result, ops, register};

use crate::dense::{self, Dense, Over, Start};
use crate::prompt::without_prompts;
use crate::setting::{check_dropout, integer, number, wrong};
use look::Look;

/// Convolutions over patches that look at the sentence.
///
/// ```
/// use twinspan_adapters::dense_aligner::DenseAligner;
/// use twinspan_sdk::site::Sites;
///
/// let sites = Sites { blocks: vec![1, 3, 5, 7, 9, 11], ..Default::default() };
/// let aligner = DenseAligner { sites, ..Default::default() };
/// assert_eq!((aligner.dim, aligner.attention_dim, aligner.heads), (128, 128, 8));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenseAligner {
    /// Channels of the branches, d: a multiple of 16.
    pub dim: usize,
    /// Width of the attention to the words, e.
    pub attention_dim: usize,
    /// Its heads.
    pub heads: usize,
    /// Dropout on its probabilities.
    pub dropout: f64,
    /// How much of the output is added, s.
    pub factor: f64,
    /// Where, within the vision tower.
    pub sites: Sites,
}

impl Default for DenseAligner {
    fn default() -> Self {
        Self {
            dim: 128,
            attention_dim: 128,
            heads: 8,
            dropout: 0.1,
            factor: 0.2,
            sites: Sites::default(),
        }
    }
}

impl Plugin for DenseAligner {
    const NAME: &'static str = "dense-aligner";
    const ABOUT: &'static str =
        "convolutions over patches that look at the final words (DETRIS, Huang et al., 2025)";
    const OPTIONS: &'static [Opt] = &[
        integer("dim", "channels of the branches; divided by 16"),
        integer("attention_dim", "width of the attention to the words"),
        integer("heads", "its heads; they divide its width"),
        number("dropout", "on its probabilities, while training"),
        number("factor", "how much of the output is added"),
        Opt::sites("vision tower, MLP"),
    ];
}

impl Adapter for DenseAligner {
    fn wants(&self) -> Vec<Want> {
        dense::wants(Tower::Vision, &self.sites)
    }

    fn reads(&self, _slot: &Slot) -> Vec<Tap> {
        vec![look::words()]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        for (slot, branch) in slots.iter().filter_map(|s| Some((s, s.branch()?))) {
            if branch.stream.map || branch.stream.grid.is_none() {
                let why =
                    "has no patches; branches may be [\"attention\", \"mlp\"] of a transformer";
                let message = format!("block {} of the vision tower {why}", branch.block);
                return Err(wrong(params.owner(), message));
            }
            let (ends, here) = ((branch.width, self.dim), &mut params.within(slot));
            let dense = Dense::make(here, Over::Map, ends, Start::Kaiming, self.factor)?;
            let look = Look::make(self, slot, hooks, here)?;
            hooks.branch(branch, Aligner { dense, look });
        }
        Ok(Box::new(Idle))
    }
}

impl DenseAligner {
    fn check(&self, owner: &str) -> Result<()> {
        dense::check(owner, self.dim, self.factor)?;
        dense::check_towers(owner, Tower::Vision, &self.sites)?;
        let (heads, width) = (self.heads, self.attention_dim);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            let message = format!("heads = {heads} must divide attention_dim = {width}");
            return Err(wrong(owner, message));
        }
        check_dropout(owner, self.dropout)
    }
}

/// The aligner beside one MLP.
struct Aligner {
    dense: Dense,
    look: Look,
}

impl BranchHook for Aligner {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let narrow = view.stream.with(self.dense.narrow(view.normed, pass)?);
        let m = narrow.grid()?;
        let y = ops::add(&self.dense.branches.forward(&m, pass)?, &m)?;
        let seen = self.look.forward(&y, pass)?;
        // What they see takes the patches' place, and what is no patch keeps its own.
        let replaced = ops::add(&seen, &narrow.content()?.neg()?)?;
        let y = narrow.add_to_content(&replaced)?;
        let y = ops::add(&y.data, &narrow.data)?;
        let out = self.dense.widen(&y, pass)?;
        Ok(ops::add(output, &without_prompts(view.stream, out)?)?)
    }
}

register!(adapter: DenseAligner);
