//! Every place that the topology declares is one where a hook acts.

use candle_core::{DType, Tensor};
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{BranchSlot, KeyValueSlot, ProjectionSlot, Slot, Want};
use twinspan_sdk::backbone::Encoders;
use twinspan_sdk::hooks::{Affine, BranchHook, BranchView, Hooks, KeyValueHook, Scale, Transform};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::Parameter;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Projection, Sites, Tower};
use twinspan_sdk::slots;
use twinspan_sdk::topology::Topology;

use crate::drawn::{Walked, bare, distance, encoders, inputs, small, walk_both};

struct Half;

fn half(x: &Tensor) -> Result<Tensor> {
    Ok((x * 0.5)?)
}

impl Transform for Half {
    fn forward(&self, x: &Tensor, _pass: &mut Pass) -> Result<Tensor> {
        half(x)
    }
}

struct HalfBranch(Scale);

impl BranchHook for HalfBranch {
    fn scale(&self) -> Scale {
        self.0
    }

    fn forward(&self, view: BranchView, output: &Tensor, _pass: &mut Pass) -> Result<Tensor> {
        assert_eq!(distance(view.input, &view.stream.data), 0.0);
        assert_eq!(view.normed.dims(), view.input.dims());
        half(output)
    }
}

/// One more key and value in front.
struct Prefix;

impl KeyValueHook for Prefix {
    fn forward(&self, key: Tensor, value: Tensor, _pass: &mut Pass) -> Result<(Tensor, Tensor)> {
        let front =
            |x: &Tensor| Ok::<_, twinspan_sdk::Error>(ops::concat(&x.narrow(1, 0, 1)?, x, 1)?);
        Ok((front(&key)?, front(&value)?))
    }
}

/// A model and what it gives without hooks.
struct Model {
    topology: Topology,
    encoders: Encoders,
    inputs: [Tensor; 2],
    without: [Walked; 2],
}

impl Model {
    fn new(resnet: bool) -> Self {
        let (clip, topology, base, overlay) = small(resnet);
        let encoders = encoders(&clip, &topology, &base, &overlay);
        let (inputs, hooks) = (inputs(resnet), bare(&topology));
        let mut pass = Pass::predict();
        Self {
            without: walk_both(&encoders, &topology, &inputs, &hooks, &mut pass),
            topology,
            encoders,
            inputs,
        }
    }

    fn found(&self, want: Want) -> Vec<Slot> {
        slots::find(&self.topology, "test", &want).unwrap()
    }

    /// A hook moves the ends of its own tower and not the other's.
    fn moves(&self, tower: Tower, what: &str, hang: impl Fn(&mut Hooks)) {
        let mut hooks = bare(&self.topology);
        hang(&mut hooks);
        let mut pass = Pass::predict();
        let with = walk_both(
            &self.encoders,
            &self.topology,
            &self.inputs,
            &hooks,
            &mut pass,
        );
        let moved = |tower: Tower| {
            let (with, without) = (&with[tower as usize], &self.without[tower as usize]);
            let features = distance(&with.features.data, &without.features.data);
            features.max(distance(&with.pooled, &without.pooled))
        };
        assert!(
            moved(tower) > 1e-6,
            "{what} does not move the {tower} tower"
        );
        assert_eq!(moved(tower.other()), 0.0, "{what} moves the other tower");
    }
}

#[test]
fn at_every_projection() {
    for resnet in [false, true] {
        let model = Model::new(resnet);
        let want = Want::Projections {
            sites: Sites::default(),
            default: Projection::ALL,
        };
        let slots = model.found(want);
        assert_eq!(slots.len(), model.topology.projections().count());
        let each = slots.iter().filter_map(|slot| match slot {
            Slot::Projection(slot) => Some(slot),
            _ => None,
        });
        for slot in each {
            let scale = Tensor::full(0.5, slot.output, &candle_core::Device::Cpu).unwrap();
            model.moves(slot.tower, &slot.name, |hooks| {
                let affine = Affine {
                    scale: Some(Parameter::constant(&scale)),
                    shift: None,
                    channels: slot.channels(),
                };
                hooks.output(slot as &ProjectionSlot, affine);
            });
        }
    }
}

#[test]
fn at_every_branch() {
    for resnet in [false, true] {
        let model = Model::new(resnet);
        let want = Want::Branches {
            sites: Sites::default(),
            default: Branch::ALL,
        };
        for slot in model.found(want) {
            let Slot::Branch(slot) = &slot else { continue };
            let slot: &BranchSlot = slot;
            let what = format!("{}.blocks.{}.{}", slot.tower, slot.block, slot.branch);
            for scale in [Scale::Before, Scale::After] {
                model.moves(slot.tower, &what, |hooks| {
                    hooks.branch(slot, HalfBranch(scale));
                });
            }
            model.moves(slot.tower, &what, |hooks| hooks.norm(slot, Half));
        }
    }
}

#[test]
fn at_every_attention() {
    for (resnet, attentions) in [(false, 6), (true, 3)] {
        let model = Model::new(resnet);
        let slots = model.found(Want::KeyValues {
            sites: Sites::default(),
        });
        assert_eq!(slots.len(), attentions);
        for slot in &slots {
            let Slot::KeyValue(slot) = slot else { continue };
            let slot: &KeyValueSlot = slot;
            let what = format!("the keys of block {}", slot.block);
            model.moves(slot.tower, &what, |hooks| {
                hooks.key_value(slot, Prefix);
            });
        }
    }
}

#[test]
fn prompts_flow_through_every_block() {
    let (clip, topology, base, overlay) = small(false);
    let encoders = encoders(&clip, &topology, &base, &overlay);
    let hooks = bare(&topology);
    let mut pass = Pass::predict();
    let [image, tokens] = inputs(false);
    let prompt = |width| {
        let drawn = crate::drawn::tensor("prompts", &[1, 3, width]);
        drawn.to_dtype(candle_core::DType::F64).unwrap()
    };
    let places = hooks.tower(Tower::Vision);
    let place = places.place(twinspan_sdk::site::At::Embed);
    let vision = encoders.vision.as_ref();
    let mut stream = vision.tokens(&image, place, &mut pass).unwrap();
    stream = vision.positions(stream, &mut pass).unwrap();
    stream = vision.norm(stream, &mut pass).unwrap();
    stream = stream.insert(1, &prompt(64), "prompts").unwrap();
    for i in 0..3 {
        stream = vision.block(i, stream, place, &mut pass).unwrap();
        assert_eq!(stream.data.dims(), [2, 20, 64]);
    }
    let features = vision.features(&stream, place, &mut pass).unwrap();
    assert_eq!(features.data.dims(), [2, 16, 16]);
    assert_eq!(
        vision.pooled(&stream, place, &mut pass).unwrap().dims(),
        [2, 16]
    );

    let text = encoders.text.as_ref();
    let short = tokens.narrow(1, 0, 13).unwrap();
    let mut stream = text.tokens(&short, place, &mut pass).unwrap();
    stream = stream.insert(1, &prompt(32), "prompts").unwrap();
    stream = text.positions(stream, &mut pass).unwrap();
    for i in 0..3 {
        stream = text.block(i, stream, place, &mut pass).unwrap();
    }
    assert_eq!(stream.data.dims(), [2, 16, 32]);
    assert_eq!(
        text.pooled(&stream, place, &mut pass).unwrap().dims(),
        [2, 16]
    );

    // Prompts push padding out, and nothing else.
    let prompted = |tokens: &Tensor, pass: &mut Pass| {
        let stream = text.tokens(tokens, place, pass).unwrap();
        let stream = stream.insert(1, &prompt(32), "prompts").unwrap();
        text.positions(stream, pass)
    };
    let padded = prompted(&tokens, &mut pass).unwrap();
    assert_eq!(padded.data.dims(), [2, 16, 32]);
    let unpadded = (&tokens + tokens.eq(0u32).unwrap().to_dtype(DType::U32).unwrap()).unwrap();
    assert!(prompted(&unpadded, &mut pass).is_err());
}
