//! Retrieval: the picture that a sentence is about, and the sentence that is
//! about a picture, among all of a split.
//!
//! Owns the options and what they mean. Data is in `dataset`, the loss in
//! `head`, scores in `scores`; what is counted over vectors is
//! [`ranking`](crate::ranking)'s.

mod dataset;
mod head;
mod scores;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twinspan_sdk::Result;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::register;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::task::{DataSource, Dataset, Head, Kit, Task};
use twinspan_sdk::topology::Topology;

use crate::batches::words_fit;
use crate::captions::Captions;
use dataset::CaptionData;
use head::ContrastHead;

/// The task. It trains by the backbone's own contrast of pictures and
/// sentences, and brings no parameters: adapters do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retrieval {
    /// Ids a sentence is cut or padded to; 0 for as many as the backbone
    /// takes.
    pub words: usize,
}

impl Plugin for Retrieval {
    const NAME: &'static str = "retrieval";
    const ABOUT: &'static str =
        "pictures by sentences and sentences by pictures (CLIP, arXiv 2103.00020)";
    const OPTIONS: &'static [Opt] = &[Opt::new(
        "words",
        "integer",
        "tokens a sentence is cut or padded to, start and end among them; 0 for as many as the backbone takes, which leaves no room for prompts that an adapter puts in",
    )];
}

register!(task: Retrieval);

impl Task for Retrieval {
    /// Both towers' vectors, which are ranked by; and the similarities, which
    /// are trained by.
    fn reads(&self, topology: &Topology) -> Result<Vec<Tap>> {
        words_fit(Self::NAME, self.words, topology)?;
        Ok(vec![
            Tap::vision(At::Pooled),
            Tap::text(At::Pooled),
            Tap::vision(At::Logits),
        ])
    }

    fn per_pair(&self) -> bool {
        false
    }

    fn head(&self, topology: &Topology, _: &mut Params) -> Result<Box<dyn Head>> {
        Ok(Box::new(ContrastHead {
            contrast: topology.contrast,
        }))
    }

    fn words(&self) -> usize {
        self.words
    }

    /// Opens what [`captions`](crate::captions) describes.
    fn open(&self, source: &DataSource, kit: Kit) -> Result<Arc<dyn Dataset>> {
        let captions = Captions::of(source)?;
        Ok(Arc::new(CaptionData::new(self, captions, kit)))
    }
}
