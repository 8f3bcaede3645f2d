//! Hierarchical alignment (ETRIS, arXiv 2307.11545, section 3.3): three depths
//! of the picture on one grid, gated by the sentence, fused into one map that
//! knows where its pixels are. Does not look at single words; that is the
//! decoder's.

use candle_core::Tensor;
use twinspan_sdk::layers::{Attention, Linear};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::topology::{StreamInfo, Topology};
use twinspan_sdk::{Error, Result, ops};

use super::conv_block::ConvBlock;
use super::{ReferringSegmentation, positions};

/// The three maps of a backbone that the neck brings together.
pub(super) struct Maps {
    /// The blocks after which the first two are taken; the third is the
    /// tower's final one.
    pub blocks: [usize; 2],
    /// Channels of each.
    pub channels: [usize; 3],
    /// Rows and columns of the second: the grid that all three come to.
    pub middle: (usize, usize),
    /// How many times finer the first is, and how many times coarser the third.
    pub factors: [usize; 2],
}

impl Maps {
    /// The maps after the blocks `depths`, or after the first two stages where
    /// none is named, and at the end.
    ///
    /// # Errors
    /// `depths` are not two blocks of the vision tower, the first before the
    /// second. The tower does not have three stages, or the maps' grids are not
    /// whole multiples of each other, the finest first.
    pub fn of(depths: &[usize], topology: &Topology) -> Result<Self> {
        let vision = &topology.vision;
        let wrong = |found: String| {
            Error::wrong_use(format!(
                "task `referring-segmentation` needs a vision tower with three stages on grids of which the first is a multiple of the second and the second of the last; {found}"
            ))
        };
        let (first, second) = match (depths, &vision.stages[..]) {
            ([], &[first, second, _]) => (first, second),
            ([], stages) => return Err(wrong(format!("this one has {}", stages.len()))),
            (&[first, second], _) if first < second && second < vision.blocks.len() => {
                (first, second)
            }
            _ => {
                return Err(Error::wrong_use(format!(
                    "task `referring-segmentation`: `depths` must be two blocks of the {} of the vision tower, counted from 0, the first before the second; got {depths:?}",
                    vision.blocks.len()
                )));
            }
        };
        let stream = |block: usize| vision.blocks.get(block).map(|b| b.stream);
        let streams = [stream(first), stream(second), Some(vision.last)];
        let grid = |s: Option<StreamInfo>| Some((s?.width, s?.grid?));
        let [Some((c1, g1)), Some((c2, g2)), Some((c3, g3))] = streams.map(grid) else {
            return Err(wrong("a stage of this one does not lie on a grid".into()));
        };
        let (Some(finer), Some(coarser)) = (multiple(g1, g2), multiple(g2, g3)) else {
            return Err(wrong(format!(
                "this one's are {} x {}, {} x {} and {} x {}",
                g1.0, g1.1, g2.0, g2.1, g3.0, g3.1
            )));
        };
        Ok(Self {
            blocks: [first, second],
            channels: [c1, c2, c3],
            middle: g2,
            factors: [finer, coarser],
        })
    }
}

/// How many times larger `of` is than `than`, if it is so in both directions.
fn multiple(of: (usize, usize), than: (usize, usize)) -> Option<usize> {
    let factor = of.0.checked_div(than.0)?;
    (factor > 0 && of == (factor * than.0, factor * than.1)).then_some(factor)
}

/// The neck. Without hierarchical alignment it has the last map alone, brought
/// to width and grid and neither gated nor placed.
pub(super) struct Neck {
    maps: Vec<ConvBlock>,
    fusion: Option<Fusion>,
}

impl Neck {
    pub fn make(
        task: &ReferringSegmentation,
        maps: &Maps,
        state: usize,
        params: &mut Params,
    ) -> Result<Self> {
        let width = task.width;
        let [c1, c2, c3] = maps.channels;
        let [finer, coarser] = maps.factors;
        let mut brought = Vec::new();
        if task.hierarchical {
            let at = &mut params.within("maps.0");
            brought.push(ConvBlock::shrink(at, c1, width, finer)?);
            let at = &mut params.within("maps.1");
            brought.push(ConvBlock::shrink(at, c2, width, 1)?);
        }
        let at = &mut params.within("maps.2");
        brought.push(ConvBlock::grow(at, c3, width, coarser)?);
        let fusion = match task.hierarchical {
            true => Some(Fusion::make(task, maps, state, params)?),
            false => None,
        };
        Ok(Self {
            maps: brought,
            fusion,
        })
    }

    /// How many maps it takes.
    pub fn count(&self) -> usize {
        self.maps.len()
    }

    /// Maps `[P, C_i, H_i, W_i]` and the sentences' vectors `[P, E]` to one map
    /// `[P, width, h, w]` on the middle grid.
    pub fn forward(&self, maps: &[Tensor], state: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let mut brought = Vec::with_capacity(maps.len());
        for (bring, map) in self.maps.iter().zip(maps) {
            brought.push(bring.forward(map, pass)?);
        }
        match (&self.fusion, brought.pop()) {
            (_, None) => Err(Error::plugin("the neck was given no map")),
            (None, Some(last)) => Ok(last),
            (Some(fusion), Some(last)) => {
                brought.push(last);
                fusion.forward(&brought, state, pass)
            }
        }
    }
}

/// Gating by the sentence, fusion, and coordinates.
struct Fusion {
    sentence: Linear,
    gates: Vec<Attention>,
    merge: ConvBlock,
    coordinates: Tensor,
    place: [ConvBlock; 2],
    residual: bool,
}

impl Fusion {
    fn make(
        task: &ReferringSegmentation,
        maps: &Maps,
        state: usize,
        params: &mut Params,
    ) -> Result<Self> {
        let (width, heads) = (task.width, task.heads);
        let gates = (0..3)
            .map(|i| {
                let at = &mut params.within(format!("gates.{i}"));
                let output = Init::KaimingUniform { fan: width };
                Attention::make(at, width, width, heads, 0.0, output)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            sentence: Linear::make_uniform(&mut params.within("sentence"), state, width)?,
            gates,
            merge: ConvBlock::same(&mut params.within("merge"), 3 * width, width, 1)?,
            coordinates: positions::coordinates(maps.middle, params)?,
            place: [
                ConvBlock::same(&mut params.within("place.0"), width + 2, width, 3)?,
                ConvBlock::same(&mut params.within("place.1"), width, width, 3)?,
            ],
            residual: task.residual,
        })
    }

    fn forward(&self, maps: &[Tensor], state: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let sentence = self.sentence.forward(state, pass)?.unsqueeze(1)?;
        let mut all: Option<Tensor> = None;
        for (gate, map) in self.gates.iter().zip(maps) {
            // Every pixel attends to one key, the sentence, and so gets one and the same
            // answer whatever it asks: the sentence asks for all of them. Query and key
            // have no say, and get gradients of zero.
            let gate = gate.forward(&sentence, &sentence, &sentence, None, pass)?;
            let (pairs, _, width) = gate.dims3()?;
            let gated = ops::mul(map, &gate.reshape((pairs, width, 1, 1))?)?;
            all = Some(match all {
                Some(front) => ops::concat(&front, &gated, 1)?,
                None => gated,
            });
        }
        let Some(all) = all else {
            return Err(Error::plugin("the neck was given no map"));
        };
        let map = self.merge.forward(&all, pass)?;
        let (pairs, _, rows, columns) = map.dims4()?;
        let coordinates = self
            .coordinates
            .broadcast_as((pairs, 2, rows, columns))?
            .contiguous()?;
        let placed = ops::concat(&map, &coordinates, 1)?;
        let placed = self.place[0].forward(&placed, pass)?;
        let placed = self.place[1].forward(&placed, pass)?;
        match self.residual {
            true => Ok(ops::add(&placed, &map)?),
            false => Ok(placed),
        }
    }
}
