//! What flows through a tower: a tensor and what its parts are.
//!
//! Owns spans, masks, end positions and views on the grid, and keeps them true when tokens are
//! inserted or dropped: the one place where positions shift. Knows no tower and no hook.

use candle_core::{Result, Tensor, bail};

use crate::ops;

/// What a span of tokens holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Class or register tokens.
    Special,
    /// Learned tokens, by the label of the adapter that put them in.
    Prompt(String),
    /// Patches of a picture, row by row.
    Patches,
    /// The token before the first word that starts every sentence: one of the words.
    Start,
    /// Words of a sentence, its end included.
    Words,
}

impl SpanKind {
    /// Whether these are patches or words: what the picture or sentence itself became.
    fn is_content(&self) -> bool {
        matches!(self, SpanKind::Patches | SpanKind::Start | SpanKind::Words)
    }
}

/// A run of tokens of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it holds.
    pub kind: SpanKind,
    /// Its length in tokens.
    pub len: usize,
}

/// How a stream's tensor is laid out.
#[derive(Clone, Debug)]
pub enum Form {
    /// Tokens `[B, N, D]`.
    Tokens {
        /// What the N tokens are, in order; their lengths sum to N.
        spans: Vec<Span>,
        /// Rows and columns of the patches.
        grid: Option<(usize, usize)>,
        /// `u8 [B, N]`, 1 where a token is padding.
        padding: Option<Tensor>,
        /// Position of the end-of-text token of each item; empty for pictures.
        end: Vec<u32>,
    },
    /// A map `[B, C, H, W]`.
    Map,
    /// One vector per item, `[B, E]`.
    Pooled,
}

/// A tensor that flows through a tower, with what its parts are.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The values.
    pub data: Tensor,
    /// What they are.
    pub form: Form,
}

impl Stream {
    /// A map `[B, C, H, W]`.
    pub fn map(data: Tensor) -> Self {
        Self {
            data,
            form: Form::Map,
        }
    }

    /// Pooled vectors `[B, E]`.
    pub fn pooled(data: Tensor) -> Self {
        Self {
            data,
            form: Form::Pooled,
        }
    }

    /// Tokens of a picture: `special` tokens, then `grid.0 * grid.1` patches.
    pub fn patches(data: Tensor, special: usize, grid: (usize, usize)) -> Self {
        let mut spans = Vec::new();
        if special > 0 {
            spans.push(Span {
                kind: SpanKind::Special,
                len: special,
            });
        }
        spans.push(Span {
            kind: SpanKind::Patches,
            len: grid.0 * grid.1,
        });
        Self {
            data,
            form: Form::Tokens {
                spans,
                grid: Some(grid),
                padding: None,
                end: Vec::new(),
            },
        }
    }

    /// Tokens of sentences: all words; `padding` is `u8 [B, N]`, `end` one position per item.
    pub fn words(data: Tensor, padding: Option<Tensor>, end: Vec<u32>) -> Result<Self> {
        let len = data.dim(1)?;
        Ok(Self {
            data,
            form: Form::Tokens {
                spans: vec![Span {
                    kind: SpanKind::Words,
                    len,
                }],
                grid: None,
                padding,
                end,
            },
        })
    }

    /// The same sentences, of which each has a start token in front.
    ///
    /// # Errors
    /// There are no words.
    pub fn started(mut self) -> Result<Self> {
        match &mut self.form {
            Form::Tokens { spans, .. }
                if spans
                    .first()
                    .is_some_and(|s| s.kind == SpanKind::Words && s.len > 0) =>
            {
                spans[0].len -= 1;
                spans.insert(
                    0,
                    Span {
                        kind: SpanKind::Start,
                        len: 1,
                    },
                );
                Ok(self)
            }
            _ => bail!("only words have a start token"),
        }
    }

    /// Tokens in front of the first patch or word, start tokens counted and prompts not: prompts
    /// are put in behind them.
    pub fn front(&self) -> usize {
        let Form::Tokens { spans, .. } = &self.form else {
            return 0;
        };
        let in_front = |s: &&Span| matches!(s.kind, SpanKind::Special | SpanKind::Start);
        spans.iter().take_while(in_front).map(|s| s.len).sum()
    }

    /// The same form around other values of the same token count.
    pub fn with(&self, data: Tensor) -> Self {
        Self {
            data,
            form: self.form.clone(),
        }
    }

    /// Items in the stream.
    pub fn batch(&self) -> Result<usize> {
        self.data.dim(0)
    }

    /// First token and length of the first span that `is` accepts.
    pub fn span(&self, is: impl Fn(&SpanKind) -> bool) -> Option<(usize, usize)> {
        let Form::Tokens { spans, .. } = &self.form else {
            return None;
        };
        let mut start = 0;
        for span in spans {
            if is(&span.kind) {
                return Some((start, span.len));
            }
            start += span.len;
        }
        None
    }

    /// The patches or the map as `[B, C, H, W]`; special tokens and prompts are left out.
    ///
    /// # Errors
    /// The stream does not lie on a grid.
    pub fn grid(&self) -> Result<Tensor> {
        match &self.form {
            Form::Map => Ok(self.data.clone()),
            Form::Tokens {
                grid: Some((rows, columns)),
                ..
            } => {
                let (start, len) = self.patch_span()?;
                let (b, _, d) = self.data.dims3()?;
                self.data
                    .narrow(1, start, len)?
                    .transpose(1, 2)?
                    .reshape((b, d, *rows, *columns))
            }
            _ => bail!("this stream does not lie on a grid"),
        }
    }

    /// The stream with `added` `[B, C, H, W]` added to its patches or map.
    ///
    /// # Errors
    /// The stream does not lie on a grid or the shapes differ.
    pub fn add_on_grid(&self, added: &Tensor) -> Result<Self> {
        match &self.form {
            Form::Map => Ok(self.with(ops::add(&self.data, added)?)),
            _ => {
                let tokens = added.flatten_from(2)?.transpose(1, 2)?;
                self.add_at(&[self.patch_span()?], &tokens)
            }
        }
    }

    /// The patches, or the map's pixels row by row, as tokens `[B, H·W, C]`; words where the
    /// stream is text.
    ///
    /// # Errors
    /// The stream has neither.
    pub fn content(&self) -> Result<Tensor> {
        match &self.form {
            Form::Map => self.data.flatten_from(2)?.transpose(1, 2),
            Form::Tokens { .. } => gather(&self.data, &self.content_pieces()?),
            Form::Pooled => bail!("a pooled stream has no tokens"),
        }
    }

    /// The stream with `added` `[B, N, D]` added to its patches or words.
    ///
    /// # Errors
    /// The stream has neither, or the shapes differ.
    pub fn add_to_content(&self, added: &Tensor) -> Result<Self> {
        match &self.form {
            Form::Map => {
                let map = added.transpose(1, 2)?.reshape(self.data.shape())?;
                Ok(self.with(ops::add(&self.data, &map)?))
            }
            _ => self.add_at(&self.content_pieces()?, added),
        }
    }

    /// `u8 [B, words]`, 1 where a word is padding; none without padding.
    pub fn word_padding(&self) -> Result<Option<Tensor>> {
        let Form::Tokens {
            padding: Some(padding),
            ..
        } = &self.form
        else {
            return Ok(None);
        };
        gather(padding, &self.content_pieces()?).map(Some)
    }

    /// The vector at the end-of-text token of each item, `[B, D]`.
    ///
    /// # Errors
    /// The stream is not text.
    pub fn at_end(&self) -> Result<Tensor> {
        let Form::Tokens { end, .. } = &self.form else {
            bail!("only text has an end token");
        };
        let (b, n, d) = self.data.dims3()?;
        if end.len() != b {
            bail!("{} end positions for {b} sentences", end.len());
        }
        let rows: Vec<u32> = (0..b as u32)
            .zip(end)
            .map(|(i, e)| i * n as u32 + e)
            .collect();
        ops::select(&self.data.reshape((b * n, d))?, &rows)
    }

    /// The stream with `tokens` (`[B, P, D]` or `[1, P, D]`) put in before token `position`, as
    /// prompts of `owner`. Padding and end positions behind them shift.
    ///
    /// # Errors
    /// The position is outside or amid other prompts, or the shapes differ.
    pub fn insert(&self, position: usize, tokens: &Tensor, owner: &str) -> Result<Self> {
        let Form::Tokens {
            spans,
            grid,
            padding,
            end,
        } = &self.form
        else {
            bail!("{owner} puts tokens into a stream that is a map");
        };
        let (b, n, _) = self.data.dims3()?;
        let (tb, added, d) = tokens.dims3()?;
        if position > n {
            bail!("{owner} puts tokens before token {position} of {n}");
        }
        let mut at = 0;
        for span in spans {
            let inside = at < position && position < at + span.len;
            if let (true, SpanKind::Prompt(other)) = (inside, &span.kind) {
                bail!("{owner} puts tokens before token {position}, amid those of {other}");
            }
            at += span.len;
        }
        let tokens = match tb == b {
            true => tokens.clone(),
            false => tokens.broadcast_as((b, added, d))?.contiguous()?,
        };
        let data = splice(&self.data, position, &tokens)?;
        let padding = match padding {
            Some(mask) => {
                let shown = Tensor::zeros((b, added), mask.dtype(), mask.device())?;
                Some(Tensor::cat(
                    &[
                        &mask.narrow(1, 0, position)?,
                        &shown,
                        &mask.narrow(1, position, n - position)?,
                    ],
                    1,
                )?)
            }
            None => None,
        };
        let shift = |e: &u32| match (*e as usize) < position {
            true => *e,
            false => e + added as u32,
        };
        Ok(Self {
            data,
            form: Form::Tokens {
                spans: insert_span(spans, position, added, owner),
                grid: *grid,
                padding,
                end: end.iter().map(shift).collect(),
            },
        })
    }

    /// The stream without the prompts of `owner`, if it has any; what lies behind them moves up,
    /// and words that they parted are one span again.
    ///
    /// # Errors
    /// The stream is a map.
    pub fn without(&self, owner: &str) -> Result<Self> {
        let mut this = self.clone();
        while let Some((start, len)) = this.span(|k| matches!(k, SpanKind::Prompt(o) if o == owner))
        {
            let n = this.data.dim(1)?;
            let cut = |t: &Tensor| match (start, n - start - len) {
                (0, rest) => t.narrow(1, len, rest),
                (_, 0) => t.narrow(1, 0, start),
                (_, rest) => {
                    ops::concat(&t.narrow(1, 0, start)?, &t.narrow(1, start + len, rest)?, 1)
                }
            };
            let Form::Tokens {
                spans,
                grid,
                padding,
                end,
            } = &this.form
            else {
                break;
            };
            let kept = remove_span(spans, start);
            let cut_mask = |mask: &Tensor| {
                let front = mask.narrow(1, 0, start)?;
                Tensor::cat(&[&front, &mask.narrow(1, start + len, n - start - len)?], 1)
            };
            this = Self {
                data: cut(&this.data)?,
                form: Form::Tokens {
                    spans: kept,
                    grid: *grid,
                    padding: padding.as_ref().map(cut_mask).transpose()?,
                    end: end
                        .iter()
                        .map(|e| {
                            if (*e as usize) < start {
                                *e
                            } else {
                                e - len as u32
                            }
                        })
                        .collect(),
                },
            };
        }
        Ok(this)
    }

    /// The text without as many of its last `most` tokens as are padding in every item: prompts
    /// push them out where a tower reads a whole context. Who ended behind them ends at the last
    /// token that is left. What has no padding stays as it is, and so does text of nothing else.
    ///
    /// # Errors
    /// An operation failed.
    pub fn without_padding(&self, most: usize) -> Result<Self> {
        let n = self.data.dim(1)?;
        let Form::Tokens {
            spans,
            grid,
            padding: Some(padding),
            end,
        } = &self.form
        else {
            return Ok(self.clone());
        };
        let hidden: Vec<Vec<u8>> = padding.to_vec2()?;
        let pads = |at: &usize| hidden.iter().all(|item| item.get(*at) == Some(&1));
        let dropped = (n.saturating_sub(most)..n).rev().take_while(pads).count();
        let left = n - dropped;
        if dropped == 0 || left == 0 {
            return Ok(self.clone());
        }
        let mut spans = spans.clone();
        let mut more = dropped;
        while let Some(span) = spans.last_mut().filter(|_| more > 0) {
            let cut = more.min(span.len);
            (span.len, more) = (span.len - cut, more - cut);
            if span.len == 0 {
                spans.pop();
            }
        }
        Ok(Self {
            data: self.data.narrow(1, 0, left)?,
            form: Form::Tokens {
                spans,
                grid: *grid,
                padding: Some(padding.narrow(1, 0, left)?.contiguous()?),
                end: end.iter().map(|e| (*e).min(left as u32 - 1)).collect(),
            },
        })
    }

    /// The items at `rows`, in that order: a batch of items expanded to pairs.
    ///
    /// # Errors
    /// A row is outside of the batch.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let form = match &self.form {
            Form::Tokens {
                spans,
                grid,
                padding,
                end,
            } => Form::Tokens {
                spans: spans.clone(),
                grid: *grid,
                padding: padding.as_ref().map(|p| ops::select(p, rows)).transpose()?,
                end: rows
                    .iter()
                    .filter_map(|r| end.get(*r as usize).copied())
                    .collect(),
            },
            other => other.clone(),
        };
        Ok(Self {
            data: ops::select(&self.data, rows)?,
            form,
        })
    }

    fn patch_span(&self) -> Result<(usize, usize)> {
        match self.span(|k| *k == SpanKind::Patches) {
            Some(found) => Ok(found),
            None => bail!("this stream has no patches"),
        }
    }

    /// Patches or words; more than one piece where prompts were put in between.
    fn content_pieces(&self) -> Result<Vec<(usize, usize)>> {
        let Form::Tokens { spans, .. } = &self.form else {
            bail!("only tokens have patches or words");
        };
        let mut start = 0;
        let mut pieces = Vec::new();
        for span in spans {
            if span.kind.is_content() {
                pieces.push((start, span.len));
            }
            start += span.len;
        }
        match pieces.is_empty() {
            true => bail!("this stream has neither patches nor words"),
            false => Ok(pieces),
        }
    }

    /// `added` `[B, sum of lengths, D]`, cut into `pieces` and added there; zero elsewhere.
    fn add_at(&self, pieces: &[(usize, usize)], added: &Tensor) -> Result<Self> {
        let (b, n, d) = self.data.dims3()?;
        let mut spread: Option<Tensor> = None;
        let mut grow = |part: Tensor| -> Result<()> {
            spread = Some(match spread.take() {
                Some(front) => ops::concat(&front, &part, 1)?,
                None => part,
            });
            Ok(())
        };
        let zeros = |len| Tensor::zeros((b, len, d), added.dtype(), added.device());
        let (mut at, mut used) = (0, 0);
        for &(start, len) in pieces {
            if start > at {
                grow(zeros(start - at)?)?;
            }
            grow(added.narrow(1, used, len)?)?;
            used += len;
            at = start + len;
        }
        if at < n {
            grow(zeros(n - at)?)?;
        }
        match spread {
            Some(spread) => Ok(self.with(ops::add(&self.data, &spread)?)),
            None => Ok(self.clone()),
        }
    }
}

/// The pieces of `t` along dimension 1, one behind the other.
fn gather(t: &Tensor, pieces: &[(usize, usize)]) -> Result<Tensor> {
    let mut out: Option<Tensor> = None;
    for &(start, len) in pieces {
        let part = t.narrow(1, start, len)?;
        out = Some(match out {
            Some(front) => ops::concat(&front, &part, 1)?,
            None => part,
        });
    }
    match out {
        Some(out) => Ok(out),
        None => bail!("no tokens to gather"),
    }
}

fn splice(data: &Tensor, position: usize, tokens: &Tensor) -> Result<Tensor> {
    let n = data.dim(1)?;
    match position {
        0 => ops::concat(tokens, data, 1),
        p if p == n => ops::concat(data, tokens, 1),
        p => {
            let front = ops::concat(&data.narrow(1, 0, p)?, tokens, 1)?;
            ops::concat(&front, &data.narrow(1, p, n - p)?, 1)
        }
    }
}

/// The spans without the one at token `start`; words or patches that it parted are joined.
fn remove_span(spans: &[Span], start: usize) -> Vec<Span> {
    let mut kept: Vec<Span> = Vec::with_capacity(spans.len());
    let (mut at, mut joins) = (0, false);
    for span in spans {
        let here = at == start;
        at += span.len;
        let content = span.kind.is_content();
        match kept.last_mut() {
            _ if here => {}
            Some(before) if joins && content && before.kind == span.kind => before.len += span.len,
            _ => kept.push(span.clone()),
        }
        joins = here;
    }
    kept
}

/// A span that the prompts fall into is split around them: words around inserted context stay
/// words.
fn insert_span(spans: &[Span], position: usize, len: usize, owner: &str) -> Vec<Span> {
    let prompt = Span {
        kind: SpanKind::Prompt(owner.to_string()),
        len,
    };
    let mut out = Vec::with_capacity(spans.len() + 2);
    let mut at = 0;
    let mut pending = Some(prompt);
    for span in spans {
        let inside = position.saturating_sub(at);
        if pending.is_some() && inside < span.len {
            if inside > 0 {
                out.push(Span {
                    kind: span.kind.clone(),
                    len: inside,
                });
            }
            out.extend(pending.take());
            out.push(Span {
                kind: span.kind.clone(),
                len: span.len - inside,
            });
        } else {
            out.push(span.clone());
        }
        at += span.len;
    }
    out.extend(pending);
    out
}
