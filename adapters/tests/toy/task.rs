//! A task that reads streams and does nothing with them.

use std::sync::Arc;

use candle_core::Tensor;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::Tap;
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, DataSource, Dataset, Head, Kit, Task};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Error, Result};

use super::WORDS;

/// Reads these.
pub struct Look(pub Vec<Tap>);

impl Task for Look {
    fn reads(&self, _topology: &Topology) -> Result<Vec<Tap>> {
        Ok(self.0.clone())
    }

    fn head(&self, _topology: &Topology, _params: &mut Params) -> Result<Box<dyn Head>> {
        Ok(Box::new(Blind))
    }

    fn words(&self) -> usize {
        WORDS
    }

    fn open(&self, _source: &DataSource, _kit: Kit) -> Result<Arc<dyn Dataset>> {
        Err(Error::plugin("the toy has no data"))
    }
}

struct Blind;

impl Head for Blind {
    fn forward(&self, features: &[Stream], _pass: &mut Pass) -> Result<Tensor> {
        Ok(features[0].data.clone())
    }

    fn loss(&self, logits: &Tensor, _batch: &Batch) -> Result<Tensor> {
        Ok(logits.sum_all()?)
    }
}
