//! A backbone of one's own: transformers without positions over patches and over words.
//!
//! `cargo run -p twinspan-examples --example own_backbone`

use std::{path::Path, sync::Arc};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use twinspan::backbones::block::{Activation, Block, BlockShape};
use twinspan::backbones::clip::Clip;
use twinspan::sdk::prelude::*;

const BLOCKS: usize = 3;
const PATCH: usize = 8;
const GRID: (usize, usize) = (8, 8);
const SHAPE: BlockShape = BlockShape {
    eps: 1e-5,
    width: 32,
    heads: 2,
    mlp: 64,
    activation: Activation::Gelu,
    causal: false,
    layer_scale: false,
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bare {}

impl Plugin for Bare {
    const NAME: &'static str = "bare";
    const ABOUT: &'static str = "transformers without positions";
    const OPTIONS: &'static [Opt] = &[];
}

register!(backbone: Bare);

/// What both towers share: the blocks behind a first layer.
fn tower(tower: Tower, first: Layer, grid: Option<(usize, usize)>) -> TowerTopology {
    let mut declared = Declared::new(tower);
    declared.layer(&format!("{tower}.first"), first, &[At::Embed]);
    (0..BLOCKS).for_each(|i| SHAPE.declare(&mut declared, tower, i));
    declared.into_tower(vec![SHAPE.info(grid); BLOCKS], 77)
}

impl Backbone for Bare {
    fn topology(&self) -> Result<Topology> {
        let sizes = (3, SHAPE.width);
        let patch = Layer::conv(At::Embed, Projection::Patch, sizes, PATCH, PATCH);
        let word = Layer::embedding(At::Embed, Projection::Token, 514, SHAPE.width);
        let vision = tower(Tower::Vision, patch, Some(GRID));
        let text = tower(Tower::Text, word, None);
        Ok(Topology::new(vision, text, SHAPE.width))
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        let cut = ops::Conv {
            stride: PATCH,
            padding: 0,
        };
        let blocks = |tower| (0..BLOCKS).map(move |i| Block::load(weights, SHAPE, tower, i));
        let patch = Box::new(Conv2d::load(weights, "vision.first", cut)?);
        let word = Box::new(Embedding::load(weights, "text.first")?);
        let vision = Half(patch, blocks(Tower::Vision).collect::<Result<_>>()?);
        let text = Half(word, blocks(Tower::Text).collect::<Result<_>>()?);
        Ok(Encoders {
            vision: Box::new(vision),
            text: Box::new(text),
            logit_scale: weights.parameter("logit_scale")?,
            logit_bias: None,
        })
    }

    fn preparation(&self) -> Preparation {
        Preparation {
            size: GRID.0 * PATCH,
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Preparation::default()
        }
    }

    fn tokenizer(&self, file: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        Clip::default().tokenizer(file)
    }
}

struct Half(Box<dyn Operator + Send + Sync>, Vec<Block>);

impl Encoder for Half {
    fn tokens(&self, input: &Tensor, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        let first = self.0.as_ref();
        if input.rank() == 4 {
            let hooks = hooks.projection(Projection::Patch);
            let patches = hooks.forward(first, input, pass)?.flatten_from(2)?;
            return Ok(Stream::patches(patches.transpose(1, 2)?, 0, GRID));
        }
        let hooks = hooks.projection(Projection::Token);
        let words = hooks.forward(first, input, pass)?;
        Ok(Stream::words(words, None, vec![0; input.dim(0)?])?)
    }

    fn block(&self, i: usize, x: Stream, hooks: &PlaceHooks, pass: &mut Pass) -> Result<Stream> {
        self.1[i].forward(x, hooks, pass)
    }

    fn features(&self, x: &Stream, _: &PlaceHooks, _: &mut Pass) -> Result<Stream> {
        Ok(x.clone())
    }

    fn pooled(&self, x: &Stream, _: &PlaceHooks, _: &mut Pass) -> Result<Tensor> {
        Ok(x.content()?.mean(1)?)
    }
}

fn main() -> Result<()> {
    let recipe = r#"
        backbone = { use = "bare" }
        adapter = [{ use = "bridger", dim = 16, heads = 2 }, { use = "lora" }]
        task = { use = "referring-segmentation", width = 32, layers = 1, heads = 2, ffn = 32 }
        train = { rate = 3e-3 }"#;
    twinspan_examples::overfit(&Recipe::parse(recipe, "own_backbone")?, 20)
}
