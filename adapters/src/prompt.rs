//! Learned tokens in a stream: what prompts of every kind share.
//!
//! ```text
//! [front, P, x]      P [1, n, D] or [B, n, D], in place of the prompts that the owner put in before
//! ```
//!
//! Owns where prompts go in and come out, whose they are, and context that starts as words. What
//! the tokens are made of is each method's; masks, positions and ends of sentences shift in the
//! stream itself.

use candle_core::Tensor;
use twinspan_sdk::adapter::{
    Idle, Installed, Life, ProjectionSlot, Slot, Source, StreamSlot, Want,
};
use twinspan_sdk::hooks::StreamHook;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Opt;
use twinspan_sdk::site::{EmbedStep, Moment, Projection, Sites, Tower};
use twinspan_sdk::stream::{Form, Span, SpanKind, Stream};
use twinspan_sdk::{Error, Result};

use crate::setting::{check_count, choice, integer, wrong};

/// The option of how much context there is.
pub const TOKENS: Opt = integer("tokens", "context vectors");

/// The option of words that context starts as.
pub const WORDS: Opt = choice(
    "words",
    "what the context starts as, as many tokens as there are vectors (\"a photo of a\": 4); \
     empty draws it",
);

/// The start of context without words.
pub const START: Init = Init::Normal(0.02);

/// Where prompts lie among the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind class, register and start tokens.
    Front,
    /// Behind everything.
    End,
}

/// `stream` with `tokens`, `[1, n, D]` or `[B, n, D]`, as the prompts of `owner`, in place of
/// those that it had there before.
///
/// # Errors
/// The stream is a map, or the widths differ.
pub fn prompted(stream: Stream, tokens: &Tensor, owner: &str, place: Place) -> Result<Stream> {
    let bare = stream.without(owner)?;
    let position = match place {
        Place::Front => bare.front(),
        Place::End => bare.data.dim(1)?,
    };
    Ok(bare.insert(position, tokens, owner)?)
}

/// `stream` without anyone's prompts.
///
/// # Errors
/// An operation failed.
pub fn bare(stream: &Stream) -> Result<Stream> {
    let mut bare = stream.clone();
    for (_, _, owner) in all_prompts(stream) {
        bare = bare.without(owner)?;
    }
    Ok(bare)
}

/// `bare` with the prompts that `full` has, where it has them.
///
/// # Errors
/// `bare` is shorter than `full` without its prompts.
pub fn with_prompts_of(full: &Stream, mut bare: Stream) -> Result<Stream> {
    for (at, len, owner) in all_prompts(full) {
        bare = bare.insert(at, &full.data.narrow(1, at, len)?, owner)?;
    }
    Ok(bare)
}

/// `x` `[B, N, D]` with zeros where the stream has anyone's prompts.
///
/// # Errors
/// An operation failed.
pub fn without_prompts(stream: &Stream, x: Tensor) -> Result<Tensor> {
    let prompts = all_prompts(stream);
    if prompts.is_empty() {
        return Ok(x);
    }
    let tokens = x.dim(1)?;
    let of_prompt = |i| {
        prompts
            .iter()
            .any(|(at, len, _)| (*at..at + len).contains(&i))
    };
    let kept = (0..tokens).map(|i| if of_prompt(i) { 0.0 } else { 1.0 });
    let kept = Tensor::from_vec(kept.collect::<Vec<f64>>(), (tokens, 1), x.device())?;
    Ok(ops::mul(&x, &kept.to_dtype(x.dtype())?)?)
}

/// First token, length and owner of each span of prompts.
fn all_prompts(stream: &Stream) -> Vec<(usize, usize, &str)> {
    let spans: &[Span] = match &stream.form {
        Form::Tokens { spans, .. } => spans,
        Form::Map | Form::Pooled => &[],
    };
    let mut at = 0;
    let mut found = Vec::new();
    for Span { kind, len } in spans {
        if let SpanKind::Prompt(owner) = kind {
            found.push((at, *len, owner.as_str()));
        }
        at += len;
    }
    found
}

/// Prompts that are parameters, behind what stands in front.
pub struct Prompts {
    /// `[1, n, D]`.
    pub tokens: Parameter,
    /// The label of the adapter.
    pub owner: String,
    /// Dropout on the tokens.
    pub dropout: f64,
}

impl StreamHook for Prompts {
    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let tokens = each(&self.tokens.tensor(pass)?, stream.batch()?)?;
        let tokens = ops::dropout(&tokens, pass.dropout(self.dropout))?;
        prompted(stream, &tokens, &self.owner, Place::Front)
    }
}

/// Tokens `[1, n, D]` for each of `batch` items, `[B, n, D]`.
///
/// # Errors
/// There are tokens of more than one item.
pub fn each(tokens: &Tensor, batch: usize) -> Result<Tensor> {
    let (_, n, width) = tokens.dims3()?;
    Ok(tokens.broadcast_as((batch, n, width))?.contiguous()?)
}

/// Refuses a stream that has no tokens.
///
/// # Errors
/// The stream in `slot` is a map.
pub fn of_tokens(slot: &StreamSlot, owner: &str) -> Result<()> {
    match slot.stream.map {
        true => Err(Error::NoSuchSite {
            adapter: owner.to_string(),
            asked: format!("tokens of the {} stream {}", slot.tower, slot.moment),
            offered: format!("a map of {} channels", slot.stream.width),
        }),
        false => Ok(()),
    }
}

/// The wishes of context in front of words: the stream before positions, and the table of words
/// where the context starts as some.
pub fn context_wants(words: &str) -> Vec<Want> {
    let mut wants = vec![Want::Streams {
        tower: Tower::Text,
        moments: vec![Moment::Embed(EmbedStep::Tokens)],
    }];
    if !words.is_empty() {
        wants.push(Want::Look(Box::new(Want::Projections {
            sites: Sites {
                towers: vec![Tower::Text],
                ..Default::default()
            },
            default: &[Projection::Token],
        })));
    }
    wants
}

/// Context `[1, n, D]` of a stream of width D, N(0, .02), and the life that starts it as `words`
/// where there are some.
///
/// # Errors
/// `n` is 0, or the name is taken.
pub fn context(
    params: &mut Params,
    n: usize,
    width: usize,
    words: &str,
    slots: &[Slot],
) -> Result<(Parameter, Installed)> {
    check_count(params.owner(), "tokens", n)?;
    let tokens = params.trained("context", &[1, n, width], START)?;
    let life: Installed = match slots.iter().find_map(Slot::projection) {
        Some(table) => Box::new(Spoken {
            tokens: tokens.clone(),
            words: words.to_string(),
            table: table.clone(),
            owner: params.owner().to_string(),
        }),
        None => Box::new(Idle),
    };
    Ok((tokens, life))
}

/// Starts context as the rows of its words in the backbone's table.
struct Spoken {
    tokens: Parameter,
    words: String,
    table: ProjectionSlot,
    owner: String,
}

impl Life for Spoken {
    fn prepare(&mut self, source: &Source) -> Result<()> {
        let ids = self.ids(source)?;
        let table = source.weight(&self.table)?.t()?;
        let rows = ops::select(&table, &ids)?.unsqueeze(0)?;
        self.tokens.set(&rows)
    }
}

impl Spoken {
    /// The ids of the words, without start and end: as many as the context has vectors.
    fn ids(&self, source: &Source) -> Result<Vec<u32>> {
        let (owner, words) = (&self.owner, &self.words);
        let tokenizer = source
            .tokenizer
            .ok_or_else(|| wrong(owner, format!("words = {words:?} ask for a tokenizer")))?;
        // A token has a byte at least, so nothing is cut; what ends an empty sentence stands
        // behind what starts every one.
        let len = words.len() + 8;
        let start = tokenizer.encode("", len).end as usize;
        let spoken = tokenizer.encode(words, len);
        let ids = spoken.ids.get(start..spoken.end as usize).unwrap_or(&[]);
        let n = self.tokens.dims().get(1).copied().unwrap_or(0);
        match ids.len() == n {
            true => Ok(ids.to_vec()),
            false => Err(wrong(
                owner,
                format!(
                    "words = {words:?} are {} tokens, and tokens = {n}",
                    ids.len()
                ),
            )),
        }
    }
}
