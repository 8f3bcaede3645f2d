//! Referring image segmentation: which pixels of a picture a sentence means
//! (ETRIS, arXiv 2307.11545; the head is CRIS's, arXiv 2111.15174).
//!
//! Owns the options and what they mean. The head's three parts are in `neck`,
//! `decoder` and `projector`; data in `dataset`, scores in `scores`, use of a
//! tuned model in [`predict`].

mod answer;
mod conv_block;
mod dataset;
mod decoder;
mod head;
mod neck;
mod positions;
pub mod predict;
mod projector;
mod scores;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::register;
use twinspan_sdk::site::Tap;
use twinspan_sdk::task::{DataSource, Dataset, Head, Kit, Task};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Error, Result};

use dataset::ReferringData;
use head::AlignmentHead;
use neck::Maps;

/// The task; its defaults are ETRIS's.
///
/// ```
/// use twinspan_tasks::referring_segmentation::ReferringSegmentation;
///
/// let small = ReferringSegmentation { width: 64, layers: 1, ..Default::default() };
/// assert_eq!(small.words, 17);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReferringSegmentation {
    /// Tokens a sentence is cut or padded to, start and end among them (G-Ref: 22).
    pub words: usize,
    /// Channels of the head's maps.
    pub width: usize,
    /// Layers of the decoder.
    pub layers: usize,
    /// Heads of every attention in neck and decoder.
    pub heads: usize,
    /// Hidden width of the decoder's feed-forward layers.
    pub ffn: usize,
    /// Dropout of the decoder: attention probabilities, feed-forward layers, branches.
    pub dropout: f64,
    /// Whether three depths of the picture are gated by the sentence and fused.
    pub hierarchical: bool,
    /// The vision tower's blocks, counted from 0, after which the first two of these depths are
    /// taken; empty takes the ends of the first two stages. The third is the tower's end.
    pub depths: Vec<usize>,
    /// Whether the fused map is added to what becomes of it when it learns where its pixels are.
    pub residual: bool,
    /// Whether the decoder is there.
    pub global: bool,
    /// A pixel belongs to the answer if its probability exceeds this.
    pub threshold: f64,
    /// Which sentences of an object a visit in training shows.
    pub sentences: Sentences,
    /// Which objects of a picture a visit in training shows.
    pub objects: Objects,
}

/// Which objects of a picture a visit in training shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objects {
    /// The one that is visited, as ETRIS was released.
    #[default]
    One,
    /// All that the split has of its picture, which is seen once: what tells them apart is then
    /// the sentence alone.
    All,
}

/// Which sentences of an object a visit in training shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sentences {
    /// One, drawn anew at every visit, as ETRIS was released.
    #[default]
    Random,
    /// Every one, each paired with the picture, which is seen once.
    All,
}

impl Default for ReferringSegmentation {
    fn default() -> Self {
        Self {
            words: 17,
            width: 512,
            layers: 3,
            heads: 8,
            ffn: 512,
            dropout: 0.1,
            hierarchical: true,
            depths: Vec::new(),
            residual: false,
            global: true,
            threshold: 0.35,
            sentences: Sentences::Random,
            objects: Objects::One,
        }
    }
}

impl Plugin for ReferringSegmentation {
    const NAME: &'static str = "referring-segmentation";
    const ABOUT: &'static str =
        "segments what a sentence means in a picture (ETRIS, arXiv 2307.11545)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "words",
            "integer",
            "tokens a sentence is cut or padded to, start and end among them; ETRIS has 17, and 22 for G-Ref",
        ),
        Opt::new(
            "width",
            "integer",
            "channels of the head's maps; even, and a multiple of `heads`",
        ),
        Opt::new("layers", "integer", "layers of the decoder"),
        Opt::new(
            "heads",
            "integer",
            "heads of every attention in neck and decoder",
        ),
        Opt::new(
            "ffn",
            "integer",
            "hidden width of the decoder's feed-forward layers",
        ),
        Opt::new(
            "dropout",
            "float",
            "dropout of the decoder, in [0, 1): attention probabilities, feed-forward layers and branches",
        ),
        Opt::new(
            "hierarchical",
            "boolean",
            "hierarchical alignment: three depths of the picture, gated by the sentence, fused, with coordinates; without it the last depth alone, by one (transposed) convolution, batch norm and ReLU",
        ),
        Opt::new(
            "depths",
            "list of integers",
            "hierarchical alignment: the two blocks of the vision tower, counted from 0, after which the first two depths are taken; empty (default) takes the ends of its first two stages; DETRIS has [4, 8] of 12 blocks and [8, 16] of 24",
        ),
        Opt::new(
            "residual",
            "boolean",
            "hierarchical alignment: adds the fused map to what the convolutions with coordinates make of it, as DETRIS does; default false",
        ),
        Opt::new(
            "global",
            "boolean",
            "global alignment: the decoder, in which pixels look at pixels and words; without it the neck's map goes to the projector as it is",
        ),
        Opt::new(
            "threshold",
            "float",
            "a pixel belongs to the answer if its probability exceeds this; in [0, 1)",
        ),
        Opt::new(
            "objects",
            "\"one\" or \"all\"",
            "objects of a picture that a visit in training shows: the one visited, as ETRIS was released, or all that the split has of the picture, which then take `batch` pictures and more pairs",
        ),
        Opt::new(
            "sentences",
            "\"random\" or \"all\"",
            "sentences of an object that a visit in training shows: one drawn at random, as ETRIS was released, or all of them; evaluation always takes all",
        ),
    ];
}

register!(task: ReferringSegmentation);

impl ReferringSegmentation {
    /// Refuses options that no head can have.
    fn check(&self, topology: &Topology) -> Result<()> {
        let wrong = |message: String| {
            Err(Error::Options {
                kind: "task",
                name: Self::NAME.into(),
                message,
            })
        };
        let counts = [
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("ffn", self.ffn),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return wrong(format!("`{name}` must be above 0"));
        }
        if !self.width.is_multiple_of(2) || !self.width.is_multiple_of(self.heads) {
            return wrong(format!(
                "`width` must be even and a multiple of `heads` ({}), got {}",
                self.heads, self.width
            ));
        }
        for (name, value) in [("dropout", self.dropout), ("threshold", self.threshold)] {
            if !(0.0..1.0).contains(&value) {
                return wrong(format!("`{name}` must lie in [0, 1), got {value}"));
            }
        }
        let context = topology.text.context;
        if !(3..=context).contains(&self.words) {
            return wrong(format!(
                "`words` must lie between 3 and {context}, the backbone's longest sentence; got {}",
                self.words
            ));
        }
        Ok(())
    }
}

impl Task for ReferringSegmentation {
    /// The vision tower after stages 1 and 2, or the blocks that are named, and at its end; the words; the
    /// sentence. What the options leave out is not read.
    fn reads(&self, topology: &Topology) -> Result<Vec<Tap>> {
        Ok(head::reads(self, &Maps::of(&self.depths, topology)?))
    }

    fn head(&self, topology: &Topology, params: &mut Params) -> Result<Box<dyn Head>> {
        self.check(topology)?;
        Ok(Box::new(AlignmentHead::make(self, topology, params)?))
    }

    fn words(&self) -> usize {
        self.words
    }

    /// Opens a data file as [`jsonl`](crate::jsonl) describes it, or a folder
    /// as [`refcoco`](crate::refcoco) does.
    fn open(&self, source: &DataSource, kit: Kit) -> Result<Arc<dyn Dataset>> {
        Ok(Arc::new(ReferringData::open(self, source, kit)?))
    }
}
