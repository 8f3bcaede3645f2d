//! A task whose head is one linear map of each feature it is told to look at.

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::ops;
use crate::parameter::{Init, Params};
use crate::pass::Pass;
use crate::plugin::{Opt, Plugin};
use crate::site::{At, Tap};
use crate::stream::{Form, Stream};
use crate::task::{Batch, DataSource, Dataset, Head, Kit, Task};
use crate::topology::Topology;

/// A feature the toy's head can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// The vision tower after its first block.
    VisionEarly,
    /// The vision tower after its last block.
    VisionLate,
    /// The vision tower's final features.
    VisionFinal,
    /// The vision tower's pooled vector.
    VisionPooled,
    /// The text tower's final features.
    TextFinal,
    /// The text tower's pooled vector.
    TextPooled,
    /// The similarities of pooled vectors; the head passes them on when it looks at them alone.
    Logits,
}

impl Look {
    /// Every feature.
    pub const ALL: [Look; 7] = [
        Look::VisionEarly,
        Look::VisionLate,
        Look::VisionFinal,
        Look::VisionPooled,
        Look::TextFinal,
        Look::TextPooled,
        Look::Logits,
    ];

    fn tap(self, topology: &Topology) -> Tap {
        let last = topology.vision.blocks.len().saturating_sub(1);
        match self {
            Look::VisionEarly => Tap::vision(At::Block(0)),
            Look::VisionLate => Tap::vision(At::Block(last)),
            Look::VisionFinal => Tap::vision(At::Final),
            Look::VisionPooled => Tap::vision(At::Pooled),
            Look::TextFinal => Tap::text(At::Final),
            Look::TextPooled => Tap::text(At::Pooled),
            Look::Logits => Tap::vision(At::Logits),
        }
    }
}

/// One number per pair, by a linear map of features; the loss is the squared difference from the
/// target, or the mean square where there is none or it says classes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToyTask {
    /// What the head looks at.
    pub looks: Vec<Look>,
    /// Whether it sees pairs.
    pub per_pair: bool,
}

impl Default for ToyTask {
    /// Two vision taps, final features, and both pooled vectors: everything but the logits.
    fn default() -> Self {
        use Look::*;
        Self::of(&[
            VisionEarly,
            VisionLate,
            VisionFinal,
            VisionPooled,
            TextFinal,
            TextPooled,
        ])
    }
}

impl ToyTask {
    /// A task whose head looks at these features.
    pub fn of(looks: &[Look]) -> Self {
        Self {
            looks: looks.to_vec(),
            per_pair: true,
        }
    }

    /// The same task over items in place of pairs.
    pub fn by_item(mut self) -> Self {
        self.per_pair = false;
        self
    }
}

impl Plugin for ToyTask {
    const NAME: &'static str = "toy";
    const ABOUT: &'static str = "a task for tests";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("looks", "list of features", "what the head looks at"),
        Opt::new("per_pair", "true or false", "whether it sees pairs"),
    ];
}

impl Task for ToyTask {
    fn reads(&self, topology: &Topology) -> Result<Vec<Tap>> {
        Ok(self.looks.iter().map(|l| l.tap(topology)).collect())
    }

    fn per_pair(&self) -> bool {
        self.per_pair
    }

    fn head(&self, topology: &Topology, params: &mut Params) -> Result<Box<dyn Head>> {
        let mut maps = Vec::new();
        for (i, look) in self.looks.iter().enumerate() {
            let tap = look.tap(topology);
            maps.push(match topology.stream(tap.tower, tap.at) {
                Some(stream) => {
                    let params = &mut params.within(format!("{i}-{}", tap.tower));
                    Some(Linear::make(params, stream.width, 1, Init::Normal(0.5))?)
                }
                None => None,
            });
        }
        Ok(Box::new(ToyHead { maps }))
    }

    fn words(&self) -> usize {
        super::Toy::WORDS
    }

    fn open(&self, source: &DataSource, _kit: Kit) -> Result<Arc<dyn Dataset>> {
        Err(Error::wrong_use(format!(
            "{}: the toy task has no data",
            source.path.display()
        )))
    }
}

struct ToyHead {
    maps: Vec<Option<Linear>>,
}

impl Head for ToyHead {
    fn forward(&self, features: &[Stream], pass: &mut Pass) -> Result<Tensor> {
        let mut out: Option<Tensor> = None;
        for (map, feature) in self.maps.iter().zip(features) {
            let vector = match &feature.form {
                Form::Pooled => feature.data.clone(),
                _ => feature.content()?.mean(1)?,
            };
            let y = match map {
                Some(map) => map.forward(&vector, pass)?.squeeze(1)?,
                None => vector,
            };
            out = Some(match out {
                Some(sum) => ops::add(&sum, &y)?,
                None => y,
            });
        }
        out.ok_or_else(|| Error::wrong_use("the toy task looks at nothing"))
    }

    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        let off = match &batch.target {
            Some(target) if target.dtype().is_float() => ops::add(logits, &target.neg()?)?,
            _ => logits.clone(),
        };
        Ok(off.sqr()?.mean_all()?)
    }
}
