//! The names of the weights elsewhere: DINOv2's in transformers and in Meta's files, and the text
//! towers of CLIP's layouts.
//!
//! Owns the correspondence of the vision tower, and which tensors of a CLIP's file are passed
//! over. CLIP's text tower is [`crate::clip`]'s, blocks are [`crate::layout`]'s. Reads no file.

use twinspan_sdk::key_map::{KeyMap, Pattern};
use twinspan_sdk::site::Tower;

use super::architecture::Model;
use crate::clip::key_maps::{text, transformers_text};
use crate::layout::{BOTH, Entries};
use crate::vit::Vit;

/// Every layout, each of one tower.
pub(super) fn all(model: &Model) -> Vec<KeyMap> {
    let ignored = |names: &[&str]| names.iter().map(|name| Pattern::from(*name)).collect();
    // The token that stands for hidden patches serves DINOv2's training alone.
    let vision = |name, entries: Entries, mask: &str| KeyMap {
        name,
        also: &[],
        entries: entries.into(),
        ignored: ignored(&[mask]),
    };
    let others = |name, put: &dyn Fn(&mut Entries), passed: &[&str]| {
        let mut entries = Entries::default();
        entries.leading("logit_scale", "logit_scale", 0);
        put(&mut entries);
        KeyMap {
            name,
            also: &[],
            entries: entries.into(),
            ignored: ignored(passed),
        }
    };
    let words = &model.text;
    vec![
        vision("dinov2 of Meta", meta(&model.vision), "mask_token"),
        vision(
            "dinov2 of transformers",
            transformers(&model.vision),
            "embeddings.mask_token",
        ),
        others(
            "text of openai",
            &|entries| text(entries, words, ""),
            &[
                "visual.*",
                "input_resolution",
                "context_length",
                "vocab_size",
                "attn_mask",
            ],
        ),
        others(
            "text of open_clip with custom text",
            &|entries| text(entries, words, "text."),
            &["visual.*", "text.attn_mask"],
        ),
        others(
            "text of transformers",
            &|entries| transformers_text(entries, words),
            &["vision_model.*", "visual_projection.*", "*.position_ids"],
        ),
    ]
}

/// `Dinov2WithRegistersModel` in Hugging Face's transformers.
fn transformers(vit: &Vit) -> Entries {
    let mut entries = Entries::default();
    let embeddings = |name: &str| format!("embeddings.{name}");
    let patch = embeddings("patch_embeddings.projection");
    entries.layer("vision.patch", &patch, BOTH);
    entries.leading("vision.class", &embeddings("cls_token"), 2);
    entries.leading("vision.registers", &embeddings("register_tokens"), 1);
    entries.leading("vision.position", &embeddings("position_embeddings"), 1);
    for i in 0..vit.layers {
        entries.layers(
            &format!("vision.blocks.{i}"),
            &format!("encoder.layer.{i}"),
            [
                ("attention.norm", "norm1"),
                ("attention.query", "attention.attention.query"),
                ("attention.key", "attention.attention.key"),
                ("attention.value", "attention.attention.value"),
                ("attention.output", "attention.output.dense"),
                ("mlp.norm", "norm2"),
                ("mlp.up", "mlp.fc1"),
                ("mlp.down", "mlp.fc2"),
            ],
        );
    }
    let scales = ["layer_scale1.lambda1", "layer_scale2.lambda1"];
    entries.layer_scales(Tower::Vision, vit.layers, "encoder.layer", scales);
    entries.layer("vision.norm_out", "layernorm", BOTH);
    entries
}

/// Meta's files, whose blocks have timm's names.
fn meta(vit: &Vit) -> Entries {
    let mut entries = Entries::default();
    entries.layer("vision.patch", "patch_embed.proj", BOTH);
    entries.leading("vision.class", "cls_token", 2);
    entries.leading("vision.registers", "register_tokens", 1);
    entries.leading("vision.position", "pos_embed", 1);
    entries.timm_blocks(Tower::Vision, vit.layers, vit.block.width, "");
    let scales = ["ls1.gamma", "ls2.gamma"];
    entries.layer_scales(Tower::Vision, vit.layers, "blocks", scales);
    entries.layer("vision.norm_out", "norm", BOTH);
    entries
}
