//! The TextAdapter of DETRIS (Huang et al., AAAI 2025, arXiv 2501.08580): beside the MLP of a text
//! block, convolutions over neighbouring words.
//!
//! With x the block's stream behind its attention, not normed, `[B, N, D]`, and x0' all but the
//! first of its words:
//!
//! ```text
//! x0  = ReLU(x·downᵀ)                                  D to d
//! out = ([first word of x0, branches(x0')] + x0)·upᵀ   d to D, see the file `dense`
//! mlp'(x) = mlp(x) + s·out
//! ```
//!
//! The first word is the start token; it passes the branches by and counts twice. Batch norms run
//! over all positions behind it, padding included, as released. Prompts of other adapters are
//! neither read nor changed.
//!
//! Default sites: the MLP of every text block; the published models take every second one. It is
//! not the identity at the start, which is PyTorch's for every layer. Owns what is done with the
//! words; the branches are the file `dense`'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Hooks};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Sites, Tower};
use twinspan_sdk::stream::SpanKind;
use twinspan_sdk::{Error, Result, ops, register};

use crate::dense::{self, Dense, Over, Start};
use crate::setting::{integer, number};

/// Convolutions over neighbouring words.
///
/// ```
/// use twinspan_adapters::text_adapter::TextAdapter;
/// use twinspan_sdk::site::Sites;
///
/// let adapter = TextAdapter {
///     sites: Sites { blocks: vec![1, 3, 5, 7, 9, 11], ..Default::default() },
///     ..Default::default()
/// };
/// assert_eq!((adapter.dim, adapter.factor), (64, 0.2));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextAdapter {
    /// Channels of the branches, d: a multiple of 16.
    pub dim: usize,
    /// How much of the output is added, s.
    pub factor: f64,
    /// Where, within the text tower.
    pub sites: Sites,
}

impl Default for TextAdapter {
    fn default() -> Self {
        Self {
            dim: 64,
            factor: 0.2,
            sites: Sites::default(),
        }
    }
}

impl Plugin for TextAdapter {
    const NAME: &'static str = "text-adapter";
    const ABOUT: &'static str = "convolutions over neighbouring words (DETRIS, Huang et al., 2025)";
    const OPTIONS: &'static [Opt] = &[
        integer("dim", "channels of the branches; divided by 16"),
        number("factor", "how much of the output is added"),
        Opt::sites("text tower, MLP"),
    ];
}

impl Adapter for TextAdapter {
    fn wants(&self) -> Vec<Want> {
        dense::wants(Tower::Text, &self.sites)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        dense::check(params.owner(), self.dim, self.factor)?;
        dense::check_towers(params.owner(), Tower::Text, &self.sites)?;
        for (slot, branch) in slots.iter().filter_map(|s| Some((s, s.branch()?))) {
            let (ends, here) = ((branch.width, self.dim), &mut params.within(slot));
            let dense = Dense::make(here, Over::Line, ends, Start::Uniform, self.factor)?;
            hooks.branch(branch, Neighbours(dense));
        }
        Ok(Box::new(Idle))
    }
}

/// The adapter beside one MLP.
struct Neighbours(Dense);

impl BranchHook for Neighbours {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let words = view.stream.with(view.input.clone()).content()?;
        let narrow = self.0.narrow(&words, pass)?;
        let (_, n, _) = narrow.dims3()?;
        // Not every backbone starts its sentences with a token of their own.
        let started = view.stream.span(|kind| *kind == SpanKind::Start).is_some();
        let first = usize::from(started);
        if n <= first {
            return Err(Error::plugin("a sentence has no words behind its start"));
        }
        let line = narrow.narrow(1, first, n - first)?;
        let line = line.transpose(1, 2)?.unsqueeze(2)?;
        let line = self.0.branches.forward(&line, pass)?;
        let line = line.squeeze(2)?.transpose(1, 2)?;
        let y = match started {
            true => ops::concat(&narrow.narrow(1, 0, 1)?, &line, 1)?,
            false => line,
        };
        let y = ops::add(&y, &narrow)?;
        let out = self.0.widen(&y, pass)?;
        let changed = view.stream.with(output.clone()).add_to_content(&out)?;
        Ok(changed.data)
    }
}

register!(adapter: TextAdapter);
