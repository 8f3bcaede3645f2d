//! The sizes of a released model, read off the shapes in its checkpoint.
//!
//! Owns what is derived and what is told, and the recipe that follows. Names are [`super::names`]'s.

use toml::{Table, Value};
use twinspan_sdk::checkpoint::Checkpoint;
use twinspan_sdk::{Error, Result};

use super::Untold;

/// A ResNet's last grid is its input over this.
const RESNET_STRIDE: usize = 32;

/// The vision tower's sizes.
pub enum Vision {
    /// Layers, width, patch, input size.
    Vit {
        layers: usize,
        width: usize,
        patch: usize,
        size: usize,
    },
    /// Bottlenecks by layer, width, native and used input size.
    Resnet {
        layers: [usize; 4],
        width: usize,
        native: usize,
        size: usize,
    },
}

/// The sizes of a released model.
pub struct Sizes {
    pub vision: Vision,
    pub joint: usize,
    pub text_layers: usize,
    pub text_width: usize,
    pub context: usize,
    pub vocabulary: usize,
    pub stages: usize,
    pub dim: usize,
    pub bridge_heads: usize,
    pub head_width: usize,
    pub decoder_layers: usize,
    pub ffn: usize,
    pub words: usize,
}

impl Sizes {
    /// Reads the sizes.
    ///
    /// # Errors
    /// A tensor that every ETRIS model has is missing.
    pub fn of(checkpoint: &Checkpoint, untold: &Untold) -> Result<Self> {
        let shapes = Shapes(checkpoint);
        let vit = shapes.count("backbone.visual.transformer.resblocks") > 0;
        let vision = match vit {
            true => vit_sizes(&shapes, untold)?,
            false => resnet_sizes(&shapes, untold)?,
        };
        Ok(Self {
            vision,
            joint: shapes.dim("backbone.text_projection", 2, 1)?,
            text_layers: shapes.count("backbone.transformer.resblocks"),
            text_width: shapes.dim("backbone.ln_final.weight", 1, 0)?,
            context: shapes.dim("backbone.positional_embedding", 2, 0)?,
            vocabulary: shapes.dim("backbone.token_embedding.weight", 2, 0)?,
            stages: shapes.count("bridger.linear1"),
            dim: shapes.dim("bridger.linear1.0.weight", 2, 0)?,
            bridge_heads: untold.bridge_heads.unwrap_or(if vit { 8 } else { 4 }),
            head_width: shapes.dim("neck.txt_proj.weight", 2, 0)?,
            decoder_layers: shapes.count("decoder.layers"),
            ffn: shapes.dim("decoder.layers.0.ffn.0.weight", 2, 0)?,
            words: untold.words,
        })
    }

    /// ViT or ResNet.
    pub fn kind(&self) -> &'static str {
        match self.vision {
            Vision::Vit { .. } => "ETRIS on a ViT",
            Vision::Resnet { .. } => "ETRIS on a ResNet",
        }
    }

    /// The recipe that makes this model. What is not written is as the plugins default, which is
    /// as released.
    pub fn recipe(&self) -> Table {
        let text = table([
            ("layers", self.text_layers.to()),
            ("width", self.text_width.to()),
            ("context", self.context.to()),
            ("vocabulary", self.vocabulary.to()),
        ]);
        let (vision, size, connect) = self.vision();
        let model = table([
            ("embed_dim", self.joint.to()),
            ("activation", "quick-gelu".to()),
            ("vision", vision.into()),
            ("text", text.into()),
        ]);
        let backbone = table([
            ("use", "clip".to()),
            ("input_size", size.to()),
            ("connect", connect.into()),
            ("batch_norm", "train".to()),
            ("model", model.into()),
        ]);
        let bridger = table([
            ("use", "bridger".to()),
            ("dim", self.dim.to()),
            ("heads", self.bridge_heads.to()),
            (
                "stages",
                (1..=self.stages).map(usize::to).collect::<Vec<_>>().into(),
            ),
        ]);
        let positions = table([
            ("use", "unfreeze".to()),
            ("roles", vec!["position".to()].into()),
        ]);
        let task = table([
            ("use", "referring-segmentation".to()),
            ("words", self.words.to()),
            ("width", self.head_width.to()),
            ("layers", self.decoder_layers.to()),
            ("ffn", self.ffn.to()),
        ]);
        table([
            ("backbone", backbone.into()),
            (
                "adapter",
                vec![Value::from(bridger), positions.into()].into(),
            ),
            ("task", task.into()),
        ])
    }

    fn vision(&self) -> (Table, usize, bool) {
        match self.vision {
            Vision::Vit {
                layers,
                width,
                patch,
                size,
            } => {
                let vit = table([
                    ("kind", "vit".to()),
                    ("layers", layers.to()),
                    ("width", width.to()),
                    ("patch", patch.to()),
                    ("image_size", size.to()),
                ]);
                (vit, size, false)
            }
            Vision::Resnet {
                layers,
                width,
                native,
                size,
            } => {
                let layers: Vec<Value> = layers.into_iter().map(usize::to).collect();
                let resnet = table([
                    ("kind", "resnet".to()),
                    ("layers", layers.into()),
                    ("width", width.to()),
                    ("image_size", native.to()),
                ]);
                (resnet, size, true)
            }
        }
    }
}

fn vit_sizes(shapes: &Shapes, untold: &Untold) -> Result<Vision> {
    let conv = "backbone.visual.conv1.weight";
    let patch = shapes.dim(conv, 4, 2)?;
    let rows = shapes.dim("backbone.visual.positional_embedding", 2, 0)?;
    let size = rows.saturating_sub(1).isqrt() * patch;
    if untold.input_size.is_some_and(|told| told != size) {
        return Err(Error::wrong_use(format!(
            "--input-size {}: this ViT's positions are for {size} pixels",
            untold.input_size.unwrap_or_default()
        )));
    }
    Ok(Vision::Vit {
        layers: shapes.count("backbone.visual.transformer.resblocks"),
        width: shapes.dim(conv, 4, 0)?,
        patch,
        size,
    })
}

fn resnet_sizes(shapes: &Shapes, untold: &Untold) -> Result<Vision> {
    let rows = shapes.dim("backbone.visual.attnpool.positional_embedding", 2, 0)?;
    let blocks = |layer| shapes.count(&format!("backbone.visual.layer{layer}"));
    Ok(Vision::Resnet {
        layers: [blocks(1), blocks(2), blocks(3), blocks(4)],
        width: shapes.dim("backbone.visual.layer1.0.conv1.weight", 4, 0)?,
        native: rows.saturating_sub(1).isqrt() * RESNET_STRIDE,
        size: untold.input_size.unwrap_or(416),
    })
}

/// Shapes by name.
struct Shapes<'a>(&'a Checkpoint);

impl Shapes<'_> {
    /// Dimension `i` of the tensor `name`, which has `rank` of them.
    fn dim(&self, name: &str, rank: usize, i: usize) -> Result<usize> {
        let path = self.0.path().display();
        let unknown = |problem: String| {
            Error::plugin(format!(
                "{path} is not a released ETRIS checkpoint: {problem}"
            ))
        };
        let tensor = self.0.get(name);
        let dims = tensor.ok_or_else(|| unknown(format!("it lacks `{name}`")))?;
        match dims.shape().dims() {
            dims if dims.len() == rank => Ok(dims[i]),
            dims => Err(unknown(format!(
                "`{name}` has shape {dims:?}; it takes {rank} dimensions"
            ))),
        }
    }

    /// How many items the list has. Any tensor of an item counts it, so that one that is missing
    /// is missed by its own name.
    fn count(&self, list: &str) -> usize {
        let holds = |i: &usize| {
            let item = format!("{list}.{i}.");
            self.0.names().any(|name| name.starts_with(&item))
        };
        (0..).take_while(holds).count()
    }
}

/// Values of TOML.
trait To {
    fn to(self) -> Value;
}

impl To for usize {
    fn to(self) -> Value {
        Value::Integer(self as i64)
    }
}

impl To for &str {
    fn to(self) -> Value {
        Value::String(self.to_string())
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_string(), value))
        .collect()
}
