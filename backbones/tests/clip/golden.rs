//! The towers give what the reference implementations give.

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::backbone::{Backbone, Weights};
use twinspan_sdk::layers::{LayerNorm, Linear};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::Overlay;
use twinspan_sdk::pass::Pass;

use crate::drawn::{Golden, Walked, bare, distance, tensor, walk_both};

/// Both towers of a golden model in `dtype`, vision first, its weights read from a file.
fn towers(golden: &Golden, dtype: DType) -> [Walked; 2] {
    let clip = golden.clip();
    let (topology, base) = (clip.topology().unwrap(), golden.base(&clip));
    let overlay = Overlay::default();
    let weights = Weights::new(&base, &overlay, &topology, dtype, &Device::Cpu);
    let encoders = clip.load(&weights).unwrap();
    let inputs = [golden.image(dtype), golden.tokens()];
    let mut pass = Pass::predict();
    walk_both(&encoders, &topology, &inputs, &bare(&topology), &mut pass)
}

/// Every pair within 1e-4 of the largest value wanted.
fn all_close(golden: &Golden, dtype: DType, pairs: &[(&str, &Tensor)]) {
    for (name, got) in pairs {
        let distance = distance(got, golden.tensor(name));
        println!("{dtype:?} {name}: {distance:.1e}");
        assert!(distance < 1e-4, "{name}: {distance:e}");
    }
}

#[test]
fn every_hidden_state_is_that_of_transformers() {
    let golden = Golden::open("hf_clip");
    for dtype in [DType::F32, DType::F64] {
        let [vision, text] = towers(&golden, dtype);
        let unit = |x: &Tensor| {
            let norm = x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
            x.broadcast_div(&norm).unwrap()
        };
        let (images, sentences) = (unit(&vision.pooled), unit(&text.pooled));
        let logits = images.matmul(&sentences.t().unwrap()).unwrap();
        let logits = (logits / 0.07).unwrap();
        let names: Vec<(String, &Tensor)> = [("vision", &vision), ("text", &text)]
            .into_iter()
            .flat_map(|(tower, walked)| {
                let hidden = walked.streams.iter().enumerate();
                hidden.map(move |(i, s)| (format!("{tower}.hidden.{i}"), &s.data))
            })
            .collect();
        let mut pairs: Vec<(&str, &Tensor)> =
            names.iter().map(|(name, t)| (name.as_str(), *t)).collect();
        assert_eq!(pairs.len(), 8);
        pairs.push(("output.image_embeds", &images));
        pairs.push(("output.text_embeds", &sentences));
        pairs.push(("output.logits_per_image", &logits));
        all_close(&golden, dtype, &pairs);
    }
}

#[test]
fn pictures_are_those_of_open_clip() {
    for name in ["open_clip_vit", "open_clip_resnet"] {
        let golden = Golden::open(name);
        for dtype in [DType::F32, DType::F64] {
            let [vision, _] = towers(&golden, dtype);
            all_close(&golden, dtype, &[("output.image", &vision.pooled)]);
        }
    }
}

/// The golden sentences were computed with open_clip's causal mask overwritten by drawn values
/// (it is a buffer, and all buffers were drawn). So a plain text tower that takes any mask stands
/// between: with the drawn mask it gives the golden output, with a causal one what the encoder
/// gives.
#[test]
fn sentences_are_those_of_open_clip_but_for_its_mask() {
    for name in ["open_clip_vit", "open_clip_resnet"] {
        let golden = Golden::open(name);
        let prefix = golden.json["prefix"].as_str().unwrap();
        let drawn = tensor(&format!("{prefix}attn_mask"), &[16, 16]);
        let later = (0..256).map(|i| if i % 16 > i / 16 { -1e30 } else { 0.0 });
        let causal: Vec<f64> = later.collect();
        let causal = Tensor::from_vec(causal, (16, 16), &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::F64] {
            let with_drawn = plain_sentences(&golden, &drawn, dtype);
            all_close(&golden, dtype, &[("output.text", &with_drawn)]);
            let [_, text] = towers(&golden, dtype);
            let plain = plain_sentences(&golden, &causal, dtype);
            let distance = distance(&text.pooled, &plain);
            println!("{dtype:?} text against the plain tower: {distance:.1e}");
            assert!(distance < if dtype == DType::F64 { 1e-12 } else { 1e-5 });
        }
    }
}

/// Sentences `[2, 16]` of a golden open_clip model, two heads of 16, with `mask` `[16, 16]` added
/// to the scores.
fn plain_sentences(golden: &Golden, mask: &Tensor, dtype: DType) -> Tensor {
    let clip = golden.clip();
    let (topology, base) = (clip.topology().unwrap(), golden.base(&clip));
    let overlay = Overlay::default();
    let weights = Weights::new(&base, &overlay, &topology, dtype, &Device::Cpu);
    let pass = Pass::predict();
    let linear = |name: &str, x: &Tensor| {
        let layer = Linear::load(&weights, name).unwrap();
        layer.forward(x, &pass).unwrap()
    };
    let norm = |name: &str, x: &Tensor| {
        let layer = LayerNorm::load(&weights, name).unwrap();
        layer.forward(x, &pass).unwrap()
    };
    let heads = |x: Tensor| {
        let x = x.reshape((2, 16, 2, 16)).unwrap();
        x.transpose(1, 2).unwrap().contiguous().unwrap()
    };
    let [_, text] = towers(golden, dtype);
    let mask = mask.to_dtype(dtype).unwrap();
    let quick = golden.json["model_cfg"]["quick_gelu"].as_bool().unwrap();
    let mut x = text.streams[0].data.clone();
    for i in 0..3 {
        let name = |part: &str| format!("text.blocks.{i}.{part}");
        let normed = norm(&name("attention.norm"), &x);
        let [query, key, value] = ["query", "key", "value"]
            .map(|part| heads(linear(&name(&format!("attention.{part}")), &normed)));
        let scores = query
            .matmul(&key.t().unwrap().contiguous().unwrap())
            .unwrap();
        let scores = (scores / 4.0).unwrap().broadcast_add(&mask).unwrap();
        let mixed = ops::softmax(&scores).unwrap().matmul(&value).unwrap();
        let mixed = mixed.transpose(1, 2).unwrap().reshape((2, 16, 32)).unwrap();
        x = (x + linear(&name("attention.output"), &mixed)).unwrap();
        let inside = linear(&name("mlp.up"), &norm(&name("mlp.norm"), &x));
        let inside = match quick {
            true => ops::quick_gelu(&inside).unwrap(),
            false => ops::gelu(&inside).unwrap(),
        };
        x = (x + linear(&name("mlp.down"), &inside)).unwrap();
    }
    let end = text.streams[0].with(x).at_end().unwrap();
    linear("text.joint", &norm("text.norm", &end))
}
