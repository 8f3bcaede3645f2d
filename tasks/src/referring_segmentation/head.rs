//! The head: neck, decoder and projector in a row, and the loss. Owns what the
//! head reads and in which order; each part has its own file.

use candle_core::Tensor;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::{Batch, Head};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::{Error, Result, ops};

use super::ReferringSegmentation;
use super::decoder::Decoder;
use super::neck::{Maps, Neck};
use super::projector::Projector;

/// What the head of `task` reads: the maps of the neck, the words where there
/// is a decoder, the sentence.
pub(super) fn reads(task: &ReferringSegmentation, maps: &Maps) -> Vec<Tap> {
    let mut taps = Vec::new();
    if task.hierarchical {
        taps.extend(maps.blocks.map(|block| Tap::vision(At::Block(block))));
    }
    taps.push(Tap::vision(At::Final));
    if task.global {
        taps.push(Tap::text(At::Final));
    }
    taps.push(Tap::text(At::Pooled));
    taps
}

/// The head of referring segmentation.
pub(super) struct AlignmentHead {
    neck: Neck,
    decoder: Option<Decoder>,
    projector: Projector,
}

impl AlignmentHead {
    pub fn make(
        task: &ReferringSegmentation,
        topology: &Topology,
        params: &mut Params,
    ) -> Result<Self> {
        let maps = Maps::of(&task.depths, topology)?;
        let state = topology.joint;
        let neck = Neck::make(task, &maps, state, &mut params.within("neck"))?;
        let words = (topology.text.context, topology.text.last.width);
        let at = &mut params.within("decoder");
        let decoder = match task.global {
            true => Some(Decoder::make(task, maps.middle, words, at)?),
            false => None,
        };
        let at = &mut params.within("projector");
        let projector = Projector::make(task.width, state, at)?;
        Ok(Self {
            neck,
            decoder,
            projector,
        })
    }
}

impl Head for AlignmentHead {
    /// Logits `[P, 1, 4h, 4w]` on four times the middle grid.
    fn forward(&self, features: &[Stream], pass: &mut Pass) -> Result<Tensor> {
        match self.trace(features, pass)?.pop() {
            Some((_, logits)) => Ok(logits),
            None => Err(Error::plugin("the head gave nothing")),
        }
    }

    /// `neck` and `decoder` `[P, width, h, w]`, `logits`.
    fn trace(&self, features: &[Stream], pass: &mut Pass) -> Result<Vec<(&'static str, Tensor)>> {
        let maps = self.neck.count();
        let expected = maps + usize::from(self.decoder.is_some()) + 1;
        if features.len() != expected {
            return Err(Error::Shape {
                what: "the features for the head".into(),
                expected: vec![expected],
                got: vec![features.len()],
            });
        }
        let (words, state) = (&features[maps], &features[expected - 1].data);
        let maps: Vec<Tensor> = features[..maps]
            .iter()
            .map(Stream::grid)
            .collect::<candle_core::Result<_>>()?;
        let mut map = self.neck.forward(&maps, state, pass)?;
        let mut trace = vec![("neck", map.clone())];
        if let Some(decoder) = &self.decoder {
            map = decoder.forward(&map, words, pass)?;
            trace.push(("decoder", map.clone()));
        }
        trace.push(("logits", self.projector.forward(&map, state, pass)?));
        Ok(trace)
    }

    /// Text-to-pixel contrast (section 3.4): the mean binary cross-entropy of
    /// every pixel with the mask `[P, 1, N, N]`, which stays grey at its edge.
    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        let Some(target) = &batch.target else {
            return Err(Error::plugin("the batch has no masks to learn from"));
        };
        let (_, _, rows, columns) = logits.dims4()?;
        let target = nearest(target, (rows, columns))?;
        let target = target.to_dtype(logits.dtype())?;
        Ok(ops::bce_with_logits(logits, &target)?)
    }
}

/// `[P, 1, H, W]` resized to `to`: pixel i is pixel floor(i·in/out).
fn nearest(mask: &Tensor, to: (usize, usize)) -> Result<Tensor> {
    let (_, _, rows, columns) = mask.dims4()?;
    let picked = |from: usize, to: usize| {
        let places = (0..to).map(|i| (i * from / to) as u32);
        Tensor::from_iter(places, mask.device())
    };
    let mask = mask.contiguous()?;
    let mask = mask.index_select(&picked(rows, to.0)?, 2)?;
    Ok(mask.index_select(&picked(columns, to.1)?, 3)?)
}
