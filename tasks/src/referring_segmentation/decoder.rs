//! Global alignment (ETRIS, arXiv 2307.11545, section 3.3): every pixel looks
//! at every other and at every word. Does not change the grid.

use candle_core::{DType, Tensor};
use twinspan_sdk::layers::{Attention, LayerNorm, Linear};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::{Error, Result, ops};

use super::{ReferringSegmentation, positions};

/// The decoder: layers of a transformer, then a layer norm.
pub(super) struct Decoder {
    layers: Vec<Layer>,
    norm: LayerNorm,
    pixels: Tensor,
    words: Tensor,
}

impl Decoder {
    /// A decoder for a map on `grid` and up to `length` words of width `words`.
    pub fn make(
        task: &ReferringSegmentation,
        grid: (usize, usize),
        (length, words): (usize, usize),
        params: &mut Params,
    ) -> Result<Self> {
        let layers = (0..task.layers)
            .map(|i| Layer::make(task, words, &mut params.within(format!("layers.{i}"))))
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            norm: LayerNorm::make(&mut params.within("norm"), task.width)?,
            pixels: positions::of_grid(grid, task.width, params)?,
            words: positions::of_line(length, words, params)?,
        })
    }

    /// A map `[P, C, h, w]` and words `[P, L, T]` to a map of the same shape.
    pub fn forward(&self, map: &Tensor, words: &Stream, pass: &mut Pass) -> Result<Tensor> {
        let shape = map.dims4()?;
        let values = words.content()?;
        let (length, most) = (values.dim(1)?, self.words.dim(0)?);
        if length > most {
            return Err(Error::plugin(format!(
                "the decoder was given {length} words; it has positions for {most}"
            )));
        }
        let words = Words {
            keys: ops::add(&values, &self.words.narrow(0, 0, length)?)?,
            values,
            padding: words
                .word_padding()?
                .map(|p| p.to_dtype(DType::U8))
                .transpose()?,
        };
        let mut pixels = map.flatten_from(2)?.transpose(1, 2)?;
        for layer in &self.layers {
            pixels = layer.forward(&pixels, &self.pixels, &words, pass)?;
        }
        let pixels = self.norm.forward(&pixels, pass)?;
        Ok(pixels.transpose(1, 2)?.reshape(shape)?)
    }
}

/// The words as every layer sees them.
struct Words {
    /// With positions, `[P, L, T]`.
    keys: Tensor,
    /// Without.
    values: Tensor,
    /// `u8 [P, L]`, 1 where there is no word.
    padding: Option<Tensor>,
}

struct Layer {
    self_attention: Branch,
    cross_attention: Branch,
    feed_forward: FeedForward,
    dropout: f64,
}

impl Layer {
    fn make(task: &ReferringSegmentation, words: usize, params: &mut Params) -> Result<Self> {
        let at = &mut params.within("self_attention");
        let self_attention = Branch::make(task, task.width, at)?;
        let at = &mut params.within("cross_attention");
        let cross_attention = Branch::make(task, words, at)?;
        Ok(Self {
            self_attention,
            cross_attention,
            feed_forward: FeedForward::make(task, &mut params.within("feed_forward"))?,
            dropout: task.dropout,
        })
    }

    /// ```text
    /// v = v + drop(LN(self-attention(LN(v) + pos, LN(v) + pos, LN(v))))
    /// v = v + drop(LN(cross-attention(LN(v) + pos, words + pos, words)))
    /// v = v + drop(FFN(LN(v)))
    /// ```
    fn forward(&self, v: &Tensor, pos: &Tensor, words: &Words, pass: &mut Pass) -> Result<Tensor> {
        let residual = |v: &Tensor, branch: &Tensor, pass: &mut Pass| -> Result<Tensor> {
            let branch = ops::dropout(branch, pass.dropout(self.dropout))?;
            Ok(ops::add(v, &branch)?)
        };

        let Branch {
            inner,
            attention,
            outer,
        } = &self.self_attention;
        let u = inner.forward(v, pass)?;
        let q = ops::add(&u, pos)?;
        let seen = attention.forward(&q, &q, &u, None, pass)?;
        let v = residual(v, &outer.forward(&seen, pass)?, pass)?;

        let Branch {
            inner,
            attention,
            outer,
        } = &self.cross_attention;
        let q = ops::add(&inner.forward(&v, pass)?, pos)?;
        let padding = words.padding.as_ref();
        let read = attention.forward(&q, &words.keys, &words.values, padding, pass)?;
        let v = residual(&v, &outer.forward(&read, pass)?, pass)?;

        residual(&v, &self.feed_forward.forward(&v, pass)?, pass)
    }
}

/// An attention with a norm before and one behind it.
struct Branch {
    inner: LayerNorm,
    attention: Attention,
    outer: LayerNorm,
}

impl Branch {
    fn make(task: &ReferringSegmentation, memory: usize, params: &mut Params) -> Result<Self> {
        let (width, dropout) = (task.width, task.dropout);
        let output = Init::KaimingUniform { fan: width };
        Ok(Self {
            inner: LayerNorm::make(&mut params.within("norm_in"), width)?,
            attention: Attention::make(params, width, memory, task.heads, dropout, output)?,
            outer: LayerNorm::make(&mut params.within("norm_out"), width)?,
        })
    }
}

/// Layer norm, then linear, ReLU, dropout, layer norm, linear.
struct FeedForward {
    inner: LayerNorm,
    up: Linear,
    norm: LayerNorm,
    down: Linear,
    dropout: f64,
}

impl FeedForward {
    fn make(task: &ReferringSegmentation, params: &mut Params) -> Result<Self> {
        let (width, hidden) = (task.width, task.ffn);
        Ok(Self {
            inner: LayerNorm::make(&mut params.within("norm_in"), width)?,
            up: Linear::make_uniform(&mut params.within("up"), width, hidden)?,
            norm: LayerNorm::make(&mut params.within("norm"), hidden)?,
            down: Linear::make_uniform(&mut params.within("down"), hidden, width)?,
            dropout: task.dropout,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = self.inner.forward(x, pass)?;
        let x = ops::relu(&self.up.forward(&x, pass)?)?;
        let x = ops::dropout(&x, pass.dropout(self.dropout))?;
        self.down.forward(&self.norm.forward(&x, pass)?, pass)
    }
}
