//! The names of CLIP's weights elsewhere: OpenAI's (open_clip writes the same), open_clip's with
//! a text tower of its own, and Hugging Face's.
//!
//! Owns the correspondence with the canonical names, which the towers declare. Blocks are
//! [`crate::layout`]'s. Reads no file.

use twinspan_sdk::key_map::{KeyMap, Pattern};
use twinspan_sdk::site::Tower;

use super::architecture::{Model, Vision};
use super::resnet::Resnet;
use crate::layout::{BOTH, Entries, STATISTICS, WEIGHT};
use crate::text::{Projected, Text};
use crate::vit::{Ends, Vit};

/// The layout of OpenAI's and open_clip's state dicts, each name behind `prefix`.
pub(super) fn openai(model: &Model, prefix: &str) -> KeyMap {
    KeyMap {
        also: &["open_clip"],
        ..open_clip("openai", model, prefix, prefix)
    }
}

/// The layout of open_clip's models with a text tower of their own (`custom_text`).
pub(super) fn custom_text(model: &Model) -> KeyMap {
    KeyMap {
        also: &["custom_text"],
        ..open_clip("open_clip with custom text", model, "", "text.")
    }
}

fn open_clip(name: &'static str, model: &Model, prefix: &str, text_prefix: &str) -> KeyMap {
    let mut entries = Entries::default();
    entries.leading("logit_scale", &format!("{prefix}logit_scale"), 0);
    text(&mut entries, &model.text, text_prefix);
    let visual = format!("{prefix}visual");
    match &model.vision {
        Vision::Vit(vit) => openai_vit(&mut entries, vit, &visual),
        Vision::Resnet(resnet) => openai_resnet(&mut entries, resnet, &visual),
    }
    let known = ["input_resolution", "context_length", "vocab_size"];
    let known = known.map(|name| format!("{prefix}{name}"));
    // Counters of batch norms, and the mask of words, which follows from the context.
    let others = [
        format!("{prefix}*.num_batches_tracked"),
        format!("{text_prefix}attn_mask"),
    ];
    let ignored = known.iter().chain(&others);
    KeyMap {
        name,
        also: &[],
        entries: entries.into(),
        ignored: ignored.map(|name| Pattern::from(name.as_str())).collect(),
    }
}

/// The text tower of OpenAI's and open_clip's state dicts, each name behind `prefix`.
pub(crate) fn text(entries: &mut Entries, text: &Text, prefix: &str) {
    let external = |name: &str| format!("{prefix}{name}");
    entries.layer("text.token", &external("token_embedding"), WEIGHT);
    entries.whole("text.position", &external("positional_embedding"));
    let transformer = external("transformer");
    entries.openai_blocks(Tower::Text, text.layers, text.block.width, &transformer);
    entries.layer("text.norm", &external("ln_final"), BOTH);
    match text.projection {
        Projected::With { bias: true } => {
            entries.layer("text.joint", &external("text_projection"), BOTH);
        }
        Projected::With { bias: false } => {
            entries.transposed("text.joint.weight", &external("text_projection"));
        }
        Projected::Not => {}
    }
}

fn openai_vit(entries: &mut Entries, vit: &Vit, visual: &str) {
    let external = |name: &str| format!("{visual}.{name}");
    entries.layer("vision.patch", &external("conv1"), WEIGHT);
    entries.whole("vision.class", &external("class_embedding"));
    entries.whole("vision.position", &external("positional_embedding"));
    if let Ends::Class { norm_in: true, .. } = vit.ends {
        entries.layer("vision.norm_in", &external("ln_pre"), BOTH);
    }
    let transformer = external("transformer");
    entries.openai_blocks(Tower::Vision, vit.layers, vit.block.width, &transformer);
    entries.layer("vision.norm_out", &external("ln_post"), BOTH);
    entries.transposed("vision.joint.weight", &external("proj"));
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

/// The text tower of `CLIPModel` in Hugging Face's transformers.
pub(crate) fn transformers_text(entries: &mut Entries, text: &Text) {
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
    entries.transformers_blocks(Tower::Text, text.layers, "text_model.");
    entries.layer("text.norm", "text_model.final_layer_norm", BOTH);
    entries.layer("text.joint", "text_projection", WEIGHT);
}

/// The layout of `CLIPModel` in Hugging Face's transformers, which has vision transformers only.
pub(super) fn transformers(vit: &Vit, text: &Text) -> KeyMap {
    let mut entries = Entries::default();
    entries.leading("logit_scale", "logit_scale", 0);
    transformers_text(&mut entries, text);
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
    entries.transformers_blocks(Tower::Vision, vit.layers, "vision_model.");
    entries.layer("vision.norm_out", "vision_model.post_layernorm", BOTH);
    entries.layer("vision.joint", "visual_projection", WEIGHT);
    KeyMap {
        name: "transformers",
        also: &["hf"],
        entries: entries.into(),
        ignored: vec!["*.position_ids".into()],
    }
}
