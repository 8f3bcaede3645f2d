//! Key maps lose nothing, and name what does not fit.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use twinspan_backbones::clip::{Clip, Preset};
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::topology::Origin;
use twinspan_sdk::weights::expected;

use crate::drawn::{Golden, checkpoint, distance, small};

#[test]
fn state_dicts_survive_the_way_in_and_out() {
    for name in ["hf_clip", "open_clip_vit", "open_clip_resnet"] {
        let golden = Golden::open(name);
        let (clip, state) = (golden.clip(), golden.state());
        let file = checkpoint(&state);
        let layouts = clip.layouts().unwrap();
        let map = layouts.iter().max_by_key(|map| map.matches(&file)).unwrap();
        let read = map.read(&file, &expected(&clip.topology().unwrap()));
        let dense = |t: twinspan_sdk::frozen::Frozen| t.tensor(DType::F32, &Device::Cpu).unwrap();
        let read: BTreeMap<String, Tensor> = read
            .unwrap()
            .into_iter()
            .map(|(n, t)| (n, dense(t)))
            .collect();
        let written = map.write(read).unwrap();
        let kept: Vec<&String> = state
            .keys()
            .filter(|n| !n.ends_with("num_batches_tracked"))
            .collect();
        assert_eq!(written.len(), kept.len());
        for name in kept {
            assert_eq!(distance(&written[name], &state[name]), 0.0, "{name}");
        }
    }
}

#[test]
fn every_parameter_has_one_place_in_every_layout() {
    let mut all: Vec<Clip> = [
        Preset::VitB16,
        Preset::VitL14At336,
        Preset::Rn50,
        Preset::Rn50x4,
    ]
    .map(Clip::preset)
    .into();
    all.push(small(true).0);
    for clip in all {
        let topology = clip.topology().unwrap();
        let mut names: Vec<&str> = topology.parameters().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        for map in clip.layouts().unwrap() {
            let mut mapped: Vec<&str> = map.entries.iter().map(|e| e.canonical.as_str()).collect();
            mapped.sort_unstable();
            assert_eq!(mapped, names, "{}", map.name);
        }
    }
}

#[test]
fn a_prefixed_map_reads_what_a_whole_model_holds() {
    let (mut clip, topology, ..) = small(true);
    clip.connect = true;
    let golden = Golden::open("open_clip_resnet");
    let mut state: std::collections::HashMap<String, Tensor> = golden
        .state()
        .into_iter()
        .map(|(name, t)| (format!("backbone.{name}"), t))
        .collect();
    let fresh = topology
        .parameters()
        .filter(|p| matches!(p.origin, Origin::Fresh(_)));
    for info in fresh {
        let part = info.name.strip_prefix("vision.pool.connect.").unwrap();
        let part = part.replace("conv.", "0.").replace("norm.", "1.");
        let name = format!("backbone.visual.attnpool.connect.{part}");
        state.insert(name.clone(), crate::drawn::tensor(&name, &info.shape));
    }
    let counter = "backbone.visual.attnpool.connect.1.num_batches_tracked";
    state.insert(
        counter.into(),
        Tensor::zeros((), DType::I64, &Device::Cpu).unwrap(),
    );
    let map = clip.openai_map("backbone.").unwrap();
    let all: Vec<_> = topology
        .parameters()
        .map(|p| twinspan_sdk::key_map::Expected::exactly(&p.name, p.shape.clone()))
        .collect();
    let read = map.read(&checkpoint(&state), &all).unwrap();
    assert_eq!(read.len(), all.len());
    assert!(read.contains_key("vision.pool.connect.norm.running_var"));
}

#[test]
fn what_does_not_fit_is_named() {
    let golden = Golden::open("hf_clip");
    let clip = golden.clip();
    let mut state = golden.state();
    state.remove("text_model.final_layer_norm.bias");
    state.insert(
        "visual_projection.bias".into(),
        state["logit_scale"].clone(),
    );
    let wide = Tensor::zeros((16, 49), DType::F32, &Device::Cpu).unwrap();
    state.insert("visual_projection.weight".into(), wide);
    let file = checkpoint(&state);
    let layouts = clip.layouts().unwrap();
    let map = layouts.iter().find(|l| l.name == "transformers").unwrap();
    let error = map.read(&file, &expected(&clip.topology().unwrap()));
    let message = error.unwrap_err().to_string();
    for part in [
        "transformers",
        "1 missing, 1 of another shape, 1 extra",
        "`text_model.final_layer_norm.bias` is missing",
        "`visual_projection.weight` has shape [16, 49]",
        "`visual_projection.bias` is not known",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}
