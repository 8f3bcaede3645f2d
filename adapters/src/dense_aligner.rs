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
//! text tower, so nothing in the text tower may wait for the vision tower beside it. Owns what is
//! done with patches and words; the branches are the file `dense`'s.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, BranchSlot, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Hooks};
use twinspan_sdk::layers::{Attention, Linear};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::{Pass, TapKey};
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{At, Branch, Sites, Tap, Tower};
use twinspan_sdk::stream::{Form, SpanKind, Stream};
use twinspan_sdk::{Error, Result, ops, register};

use crate::dense::{self, Branches, Over, Start};

/// Convolutions over patches that look at the sentence.
///
/// ```
/// use twinspan_adapters::dense_aligner::DenseAligner;
/// use twinspan_sdk::site::Sites;
///
/// let aligner = DenseAligner {
///     sites: Sites { blocks: vec![1, 3, 5, 7, 9, 11], ..Default::default() },
///     ..Default::default()
/// };
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
        Opt::new("dim", "integer", "channels of the branches; divided by 16"),
        Opt::new(
            "attention_dim",
            "integer",
            "width of the attention to the words",
        ),
        Opt::new("heads", "integer", "its heads; they divide its width"),
        Opt::new("dropout", "number", "on its probabilities, while training"),
        Opt::new("factor", "number", "how much of the output is added"),
        Opt::sites("vision tower, MLP"),
    ];
}

impl Adapter for DenseAligner {
    fn wants(&self) -> Vec<Want> {
        vec![Want::Branches {
            sites: dense::within(Tower::Vision, &self.sites),
            default: &[Branch::Mlp],
        }]
    }

    fn reads(&self, _slot: &Slot) -> Vec<Tap> {
        vec![WORDS]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        self.check(params.owner())?;
        for slot in slots {
            let Some(branch) = slot.branch() else {
                continue;
            };
            let aligner = self.aligner(slot, branch, params, hooks)?;
            hooks.branch(branch, aligner);
        }
        Ok(Box::new(Idle))
    }
}

/// The final words.
const WORDS: Tap = Tap {
    tower: Tower::Text,
    at: At::Final,
};

impl DenseAligner {
    fn check(&self, owner: &str) -> Result<()> {
        let wrong = |message: String| Err(Error::wrong_use(format!("{owner}: {message}")));
        dense::check(owner, self.dim, self.factor)?;
        dense::check_towers(owner, Tower::Vision, &self.sites)?;
        let (heads, width) = (self.heads, self.attention_dim);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return wrong(format!(
                "heads = {heads} must divide attention_dim = {width}"
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout = {} must lie in [0, 1)", self.dropout));
        }
        Ok(())
    }

    fn aligner(
        &self,
        slot: &Slot,
        branch: &BranchSlot,
        params: &mut Params,
        hooks: &mut Hooks,
    ) -> Result<Aligner> {
        if branch.stream.map || branch.stream.grid.is_none() {
            return Err(Error::wrong_use(format!(
                "{}: block {} of the vision tower has no patches; branches may be [\"attention\", \
                 \"mlp\"] of a transformer",
                params.owner(),
                branch.block
            )));
        }
        let (width, d, e) = (branch.width, self.dim, self.attention_dim);
        let words = hooks.stream_at(WORDS)?.width;
        let place = format!("{}.blocks.{}.{}", branch.tower, branch.block, branch.branch);
        let here = &mut params.within(place);
        let linear = |here: &mut Params, name: &str, from, to| {
            Start::Kaiming.linear(&mut here.within(name), from, to)
        };
        Ok(Aligner {
            down: linear(here, "down", width, d)?,
            branches: Branches::make(here, Over::Map, d, Start::Kaiming)?,
            image: linear(here, "image", d, e)?,
            text: linear(here, "text", words, e)?,
            attention: Attention::make(
                &mut here.within("attention"),
                e,
                e,
                self.heads,
                self.dropout,
                Init::KaimingNormal { fan: e },
            )?,
            back: linear(here, "back", e, d)?,
            up: linear(here, "up", d, width)?,
            factor: self.factor,
            words: hooks.tap(slot, WORDS)?,
        })
    }
}

/// The aligner beside one MLP.
struct Aligner {
    down: Linear,
    branches: Branches,
    image: Linear,
    text: Linear,
    attention: Attention,
    back: Linear,
    up: Linear,
    factor: f64,
    words: TapKey,
}

impl BranchHook for Aligner {
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let narrow = ops::relu(&self.down.forward(view.normed, pass)?)?;
        let narrow = view.stream.with(narrow);
        let seen = self.seen(&narrow.grid()?, pass)?;
        // y takes the patches' place, and what is no patch keeps its own.
        let replaced = ops::add(&seen, &narrow.content()?.neg()?)?;
        let y = narrow.add_to_content(&replaced)?;
        let y = ops::add(&y.data, &narrow.data)?;
        let out = (self.up.forward(&y, pass)? * self.factor)?;
        Ok(ops::add(output, &without_prompts(view.stream, out)?)?)
    }
}

impl Aligner {
    /// What the patches `[B, d, H, W]` see of the words, `[B, H·W, d]`.
    fn seen(&self, m: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let y = ops::add(&self.branches.forward(m, pass)?, m)?;
        let y = y.flatten_from(2)?.transpose(1, 2)?;
        let words = pass.read(self.words)?.content()?;
        let query = self.image.forward(&y, pass)?;
        let memory = self.text.forward(&words, pass)?;
        let y = self
            .attention
            .forward(&query, &memory, &memory, None, pass)?;
        self.back.forward(&y, pass)
    }
}

/// `x` `[B, N, D]` with zeros where the stream has prompts of other adapters.
fn without_prompts(stream: &Stream, x: Tensor) -> Result<Tensor> {
    let Form::Tokens { spans, .. } = &stream.form else {
        return Ok(x);
    };
    let is_prompt = |kind: &SpanKind| matches!(kind, SpanKind::Prompt(_));
    if !spans.iter().any(|span| is_prompt(&span.kind)) {
        return Ok(x);
    }
    let kept = spans.iter().flat_map(|span| {
        let kept = if is_prompt(&span.kind) { 0.0 } else { 1.0 };
        std::iter::repeat_n(kept, span.len)
    });
    let kept: Vec<f64> = kept.collect();
    let tokens = kept.len();
    let kept = Tensor::from_vec(kept, (tokens, 1), x.device())?.to_dtype(x.dtype())?;
    Ok(ops::mul(&x, &kept)?)
}

register!(adapter: DenseAligner);
