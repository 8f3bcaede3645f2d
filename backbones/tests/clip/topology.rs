//! What the topology says is so: counts, stages, and where each parameter is used.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use twinspan_backbones::clip::{Clip, Preset};
use twinspan_sdk::backbone::{Backbone, value_in};
use twinspan_sdk::parameter::{Buffer, Overlay, Trained};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Role, Tower};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::weights;

use crate::drawn::{Walked, bare, distance, encoders, inputs, small, walk_both};

#[test]
fn presets_have_the_published_sizes() {
    for (preset, count) in [
        (Preset::VitB32, 151_277_313),
        (Preset::VitB16, 149_620_737),
        (Preset::VitL14, 427_616_513),
        (Preset::VitL14At336, 427_944_193),
        (Preset::Rn50, 102_007_137),
        (Preset::Rn101, 119_688_033),
        (Preset::Rn50x4, 178_300_601),
        (Preset::Rn50x16, 290_979_217),
        (Preset::Rn50x64, 623_258_305),
    ] {
        let topology = Clip::preset(preset).topology().unwrap();
        assert_eq!(topology.parameter_count(), count, "{preset:?}");
    }
}

#[test]
fn positions_follow_the_input_as_in_etris() {
    let at_416 = |preset| {
        let clip = Clip {
            preset,
            input_size: 416,
            ..Clip::default()
        };
        clip.topology().unwrap()
    };
    let positions = |topology: &Topology| -> usize {
        topology
            .parameters()
            .filter(|p| p.role == Role::Position)
            .map(|p| p.count())
            .sum()
    };
    let vit = at_416(Some(Preset::VitB16));
    assert_eq!(positions(&vit), 559_360);
    assert_eq!(vit.parameter_count(), 149_620_737 + (677 - 197) * 768);
    assert_eq!(vit.vision.last.grid, Some((26, 26)));
    assert_eq!(positions(&at_416(Some(Preset::Rn50))), 141_824);
    assert_eq!(positions(&at_416(Some(Preset::Rn101))), 141_824);
    assert_eq!(at_416(Some(Preset::Rn50)).vision.last.grid, Some((13, 13)));
}

#[test]
fn stages_are_thirds_or_layers() {
    let stages = |preset| {
        let topology = Clip::preset(preset).topology().unwrap();
        (topology.vision.stages, topology.text.stages)
    };
    assert_eq!(stages(Preset::VitB16), (vec![3, 7, 11], vec![3, 7, 11]));
    assert_eq!(stages(Preset::VitL14).0, [7, 15, 23]);
    assert_eq!(stages(Preset::Rn50).0, [6, 12, 15]);
    assert_eq!(stages(Preset::Rn101).0, [6, 29, 32]);
    let resnet = Clip::preset(Preset::Rn50).topology().unwrap().vision;
    let maps: Vec<_> = resnet
        .stages
        .iter()
        .map(|i| resnet.blocks[*i].stream)
        .map(|s| (s.width, s.grid))
        .collect();
    assert_eq!(
        maps,
        [
            (512, Some((28, 28))),
            (1024, Some((14, 14))),
            (2048, Some((7, 7)))
        ]
    );
}

#[test]
fn a_tower_gives_the_streams_it_declares() {
    for resnet in [false, true] {
        let (clip, topology, base, overlay) = small(resnet);
        let encoders = encoders(&clip, &topology, &base, &overlay);
        let mut pass = Pass::predict();
        let walked = walk_both(
            &encoders,
            &topology,
            &inputs(resnet),
            &bare(&topology),
            &mut pass,
        );
        for (tower, walked) in Tower::BOTH.into_iter().zip(&walked) {
            let depths = (0..topology.tower(tower).blocks.len()).map(At::Block);
            let depths = [At::Embed].into_iter().chain(depths);
            let streams = depths.zip(&walked.streams);
            for (at, stream) in streams.chain([(At::Final, &walked.features)]) {
                let info = topology.stream(tower, at).unwrap();
                let dims = stream.data.dims();
                let width = if info.map { dims[1] } else { dims[2] };
                assert_eq!(
                    (dims.len(), width),
                    (if info.map { 4 } else { 3 }, info.width)
                );
                if let Some((rows, columns)) = info.grid {
                    let grid = stream.grid().unwrap();
                    assert_eq!(grid.dims(), [2, info.width, rows, columns], "{tower} {at}");
                }
            }
            assert_eq!(walked.pooled.dims(), [2, topology.joint]);
        }
        let [_, text] = &walked;
        assert!(text.features.word_padding().unwrap().is_some());
    }
}

/// The depths of a tower at which something is tracked: the first, then its ends.
fn tracked(walked: &Walked) -> Vec<At> {
    let first = walked.streams.iter().position(|s| s.data.track_op());
    let mut depths = match first {
        Some(0) => vec![At::Embed],
        Some(i) => vec![At::Block(i - 1)],
        None => Vec::new(),
    };
    if let Some(first) = first {
        let behind = &walked.streams[first..];
        assert!(behind.iter().all(|s| s.data.track_op()));
        assert!(walked.features.data.track_op() && walked.pooled.track_op());
        return depths;
    }
    if walked.features.data.track_op() {
        depths.push(At::Final);
    }
    if walked.pooled.track_op() {
        depths.push(At::Pooled);
    }
    depths
}

#[test]
fn a_frozen_model_records_no_graph() {
    for resnet in [false, true] {
        let (clip, topology, base, overlay) = small(resnet);
        let encoders = encoders(&clip, &topology, &base, &overlay);
        let walked = walk_both(
            &encoders,
            &topology,
            &inputs(resnet),
            &bare(&topology),
            &mut Pass::train(0),
        );
        assert!(walked.iter().all(|w| tracked(w).is_empty()));
    }
}

#[test]
fn each_parameter_is_used_where_it_is_said_to_be() {
    for resnet in [false, true] {
        let (clip, topology, base, overlay) = small(resnet);
        let inputs = inputs(resnet);
        for info in topology.parameters().filter(|p| p.role != Role::Statistics) {
            let mut overlay = overlay.clone();
            let value = match overlay.constants.remove(&info.name) {
                Some(fresh) => fresh.tensor(),
                None => value_in(&base, info).unwrap(),
            };
            let var = Var::from_tensor(&value.to_dtype(DType::F64).unwrap()).unwrap();
            let trained = Trained {
                var: var.clone(),
                owner: "test".into(),
                rate: 1.0,
            };
            overlay.trained.insert(info.name.clone(), trained);
            let encoders = encoders(&clip, &topology, &base, &overlay);
            let mut pass = Pass::train(0);
            let [vision, text] =
                walk_both(&encoders, &topology, &inputs, &bare(&topology), &mut pass);
            let (here, other) = match info.tower {
                Some(Tower::Vision) => (&vision, &text),
                Some(Tower::Text) => (&text, &vision),
                None => {
                    assert!(tracked(&vision).is_empty() && tracked(&text).is_empty());
                    assert!(encoders.logit_scale.tensor(&pass).unwrap().track_op());
                    continue;
                }
            };
            assert_eq!(tracked(here), info.used, "{}", info.name);
            assert!(tracked(other).is_empty(), "{}", info.name);
            let sum = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
            let ends = (sum(&here.features.data) + sum(&here.pooled)).unwrap();
            let grads = ends.backward().unwrap();
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{}", info.name));
            assert_eq!(grad.dims(), var.dims(), "{}", info.name);
        }
    }
}

#[test]
fn statistics_in_the_overlay_train() {
    let (clip, topology, base, mut overlay) = small(true);
    for info in topology.parameters().filter(|p| p.role == Role::Statistics) {
        let value = match overlay.constants.remove(&info.name) {
            Some(fresh) => fresh.tensor(),
            None => value_in(&base, info).unwrap(),
        };
        let buffer = Buffer::new(&value.to_dtype(DType::F64).unwrap()).unwrap();
        overlay.buffers.insert(info.name.clone(), buffer);
    }
    let tensors = overlay.tensors().into_iter();
    let before: BTreeMap<String, Tensor> = tensors.map(|(n, t)| (n, t.copy().unwrap())).collect();
    let encoders = encoders(&clip, &topology, &base, &overlay);
    let mut pass = Pass::train(0);
    let inputs = inputs(true);
    walk_both(&encoders, &topology, &inputs, &bare(&topology), &mut pass);
    pass.commit().unwrap();
    for name in overlay.buffers.keys() {
        let value = overlay.buffers[name].tensor();
        assert!(distance(&value, &before[name]) > 0.0, "{name}");
    }
}

#[test]
fn a_random_base_fits() {
    for preset in ["open_clip_vit", "open_clip_resnet"] {
        let clip = crate::drawn::Golden::open(preset).clip();
        let topology = clip.topology().unwrap();
        let base = weights::random(&topology, 0).unwrap();
        let overlay = Overlay::default();
        encoders(&clip, &topology, &base, &overlay);
    }
}

#[test]
fn positions_stored_for_another_grid_are_resized() {
    let (mut clip, _, base, overlay) = small(false);
    clip.input_size = 48;
    let topology = clip.topology().unwrap();
    let encoders = encoders(&clip, &topology, &base, &overlay);
    let [image, tokens] = inputs(false);
    let image = image.pad_with_same(2, 8, 8).unwrap();
    let inputs = [image.pad_with_same(3, 8, 8).unwrap(), tokens];
    let mut pass = Pass::predict();
    let [vision, _] = walk_both(&encoders, &topology, &inputs, &bare(&topology), &mut pass);
    assert_eq!(vision.features.data.dims(), [2, 36, 16]);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let (clip, topology, base, overlay) = small(false);
    let encoders = encoders(&clip, &topology, &base, &overlay);
    let hooks = bare(&topology);
    let mut pass = Pass::predict();
    let mut run = |tower: Tower, input: &Tensor| {
        let encoder = match tower {
            Tower::Vision => &encoders.vision,
            Tower::Text => &encoders.text,
        };
        let walked = crate::drawn::walk(encoder.as_ref(), 3, input, hooks.tower(tower), &mut pass);
        walked.err().unwrap().to_string()
    };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let picture = run(Tower::Vision, &zeros(&[2, 3, 32, 40], DType::F64));
    assert!(picture.contains("[2, 3, 32, 40]"), "{picture}");
    let words = (zeros(&[2, 17], DType::U32) + 1.0).unwrap();
    let sentence = run(Tower::Text, &words);
    assert!(sentence.contains("exceed the 16 positions"), "{sentence}");
    let unknown = run(Tower::Text, &(zeros(&[1, 4], DType::U32) + 100.0).unwrap());
    assert!(unknown.contains("vocabulary of 100"), "{unknown}");
    run(Tower::Text, &zeros(&[2, 0], DType::U32));
}
