//! The names of CLIP's weights elsewhere: OpenAI's (open_clip writes the same) and Hugging
//! Face's.
//!
//! Owns the correspondence with the canonical names, which the towers declare. Reads no file.

use twinspan_sdk::key_map::{Entry, KeyMap, Pattern};
use twinspan_sdk::site::Tower;

use super::architecture::{Model, Vision};
use super::resnet::Resnet;
use super::text::Text;
use super::vit::Vit;
use crate::block::BlockShape;

/// A norm's, linear layer's or embedding's parts.
const WEIGHT: &[&str] = &["weight"];
const BOTH: &[&str] = &["weight", "bias"];
const STATISTICS: &[&str] = &["weight", "bias", "running_mean", "running_var"];

/// Entries under construction.
#[derive(Default)]
struct Entries(Vec<Entry>);

impl Entries {
    fn whole(&mut self, canonical: &str, external: &str) {
        self.0.push(Entry::whole(canonical, external));
    }

    fn transposed(&mut self, canonical: &str, external: &str) {
        self.0.push(Entry::whole(canonical, external).transposed());
    }

    /// The same layer in both, part by part.
    fn layer(&mut self, canonical: &str, external: &str, parts: &[&str]) {
        for part in parts {
            self.whole(
                &format!("{canonical}.{part}"),
                &format!("{external}.{part}"),
            );
        }
    }
}

/// The layout of OpenAI's and open_clip's state dicts, each name behind `prefix`.
pub(super) fn openai(model: &Model, prefix: &str) -> KeyMap {
    let mut entries = Entries::default();
    entries.whole("logit_scale", &format!("{prefix}logit_scale"));
    openai_text(&mut entries, &model.text, prefix);
    let visual = format!("{prefix}visual");
    match &model.vision {
        Vision::Vit(vit) => openai_vit(&mut entries, vit, &visual),
        Vision::Resnet(resnet) => openai_resnet(&mut entries, resnet, &visual),
    }
    let counters = format!("{prefix}*.num_batches_tracked");
    let sizes = ["input_resolution", "context_length", "vocab_size"];
    let sizes = sizes.map(|name| format!("{prefix}{name}"));
    let ignored = sizes.iter().chain([&counters]);
    KeyMap {
        name: "openai",
        entries: entries.0,
        ignored: ignored.map(|name| Pattern::from(name.as_str())).collect(),
    }
}

fn openai_text(entries: &mut Entries, text: &Text, prefix: &str) {
    let external = |name: &str| format!("{prefix}{name}");
    entries.layer("text.token", &external("token_embedding"), WEIGHT);
    entries.whole("text.position", &external("positional_embedding"));
    openai_blocks(
        entries,
        Tower::Text,
        text.layers,
        &text.block,
        &external("transformer"),
    );
    entries.layer("text.norm", &external("ln_final"), BOTH);
    entries.transposed("text.joint.weight", &external("text_projection"));
}

fn openai_vit(entries: &mut Entries, vit: &Vit, visual: &str) {
    let external = |name: &str| format!("{visual}.{name}");
    entries.layer("vision.patch", &external("conv1"), WEIGHT);
    entries.whole("vision.class", &external("class_embedding"));
    entries.whole("vision.position", &external("positional_embedding"));
    entries.layer("vision.norm_in", &external("ln_pre"), BOTH);
    openai_blocks(
        entries,
        Tower::Vision,
        vit.layers,
        &vit.block,
        &external("transformer"),
    );
    entries.layer("vision.norm_out", &external("ln_post"), BOTH);
    entries.transposed("vision.joint.weight", &external("proj"));
}

/// Query, key and value are thirds of one matrix.
fn openai_blocks(
    entries: &mut Entries,
    tower: Tower,
    layers: usize,
    shape: &BlockShape,
    transformer: &str,
) {
    for i in 0..layers {
        let here = format!("{tower}.blocks.{i}");
        let there = format!("{transformer}.resblocks.{i}");
        for (part, canonical) in ["query", "key", "value"].into_iter().enumerate() {
            let rows = part * shape.width..(part + 1) * shape.width;
            for kind in BOTH {
                let canonical = format!("{here}.attention.{canonical}.{kind}");
                let fused = Entry::whole(canonical, format!("{there}.attn.in_proj_{kind}"));
                entries.0.push(fused.rows(rows.clone()));
            }
        }
        for (canonical, external) in [
            ("attention.output", "attn.out_proj"),
            ("attention.norm", "ln_1"),
            ("mlp.norm", "ln_2"),
            ("mlp.up", "mlp.c_fc"),
            ("mlp.down", "mlp.c_proj"),
        ] {
            entries.layer(
                &format!("{here}.{canonical}"),
                &format!("{there}.{external}"),
                BOTH,
            );
        }
    }
}

fn openai_resnet(entries: &mut Entries, resnet: &Resnet, visual: &str) {
    let mut convolutions = |here: &str, there: &str| {
        for i in 1..=3 {
            entries.layer(
                &format!("{here}.conv{i}"),
                &format!("{there}.conv{i}"),
                WEIGHT,
            );
            entries.layer(
                &format!("{here}.norm{i}"),
                &format!("{there}.bn{i}"),
                STATISTICS,
            );
        }
    };
    convolutions("vision.stem", visual);
    let places = resnet.bottlenecks();
    let names = places.iter().map(|place| {
        let (layer, position) = place.within;
        (
            format!("vision.blocks.{}", place.index),
            format!("{visual}.layer{}.{position}", layer + 1),
            place.projects(),
        )
    });
    let names: Vec<(String, String, bool)> = names.collect();
    for (here, there, _) in &names {
        convolutions(here, there);
    }
    let mut pair = |here: &str, there: &str| {
        entries.layer(&format!("{here}.conv"), &format!("{there}.0"), WEIGHT);
        entries.layer(&format!("{here}.norm"), &format!("{there}.1"), STATISTICS);
    };
    for (here, there, _) in names.iter().filter(|(.., projects)| *projects) {
        pair(&format!("{here}.shortcut"), &format!("{there}.downsample"));
    }
    let pool = format!("{visual}.attnpool");
    if resnet.connect {
        pair("vision.pool.connect", &format!("{pool}.connect"));
    }
    entries.whole(
        "vision.pool.position",
        &format!("{pool}.positional_embedding"),
    );
    for (canonical, external) in [
        ("query", "q_proj"),
        ("key", "k_proj"),
        ("value", "v_proj"),
        ("output", "c_proj"),
    ] {
        entries.layer(
            &format!("vision.pool.{canonical}"),
            &format!("{pool}.{external}"),
            BOTH,
        );
    }
}

/// The layout of `CLIPModel` in Hugging Face's transformers, which has vision transformers only.
pub(super) fn transformers(vit: &Vit, text: &Text) -> KeyMap {
    let mut entries = Entries::default();
    entries.whole("logit_scale", "logit_scale");
    let embeddings = "text_model.embeddings";
    entries.layer(
        "text.token",
        &format!("{embeddings}.token_embedding"),
        WEIGHT,
    );
    entries.whole(
        "text.position",
        &format!("{embeddings}.position_embedding.weight"),
    );
    transformers_blocks(&mut entries, Tower::Text, text.layers);
    entries.layer("text.norm", "text_model.final_layer_norm", BOTH);
    entries.layer("text.joint", "text_projection", WEIGHT);

    let embeddings = "vision_model.embeddings";
    entries.layer(
        "vision.patch",
        &format!("{embeddings}.patch_embedding"),
        WEIGHT,
    );
    entries.whole("vision.class", &format!("{embeddings}.class_embedding"));
    entries.whole(
        "vision.position",
        &format!("{embeddings}.position_embedding.weight"),
    );
    // Misspelt there.
    entries.layer("vision.norm_in", "vision_model.pre_layrnorm", BOTH);
    transformers_blocks(&mut entries, Tower::Vision, vit.layers);
    entries.layer("vision.norm_out", "vision_model.post_layernorm", BOTH);
    entries.layer("vision.joint", "visual_projection", WEIGHT);
    KeyMap {
        name: "transformers",
        entries: entries.0,
        ignored: vec!["*.position_ids".into()],
    }
}

fn transformers_blocks(entries: &mut Entries, tower: Tower, layers: usize) {
    for i in 0..layers {
        for (canonical, external) in [
            ("attention.norm", "layer_norm1"),
            ("attention.query", "self_attn.q_proj"),
            ("attention.key", "self_attn.k_proj"),
            ("attention.value", "self_attn.v_proj"),
            ("attention.output", "self_attn.out_proj"),
            ("mlp.norm", "layer_norm2"),
            ("mlp.up", "mlp.fc1"),
            ("mlp.down", "mlp.fc2"),
        ] {
            entries.layer(
                &format!("{tower}.blocks.{i}.{canonical}"),
                &format!("{tower}_model.encoder.layers.{i}.{external}"),
                BOTH,
            );
        }
    }
}
