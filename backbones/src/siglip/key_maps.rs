//! The names of SigLIP's weights elsewhere: in transformers, and in open_clip, whose vision tower
//! is timm's.
//!
//! Owns the correspondence with the canonical names, which the towers declare. Blocks are
//! [`crate::layout`]'s. Reads no file.

use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::site::Tower;

use super::architecture::Model;
use crate::layout::{BOTH, Entries, QUERY_KEY_VALUE, WEIGHT};
use crate::text::Projected;

/// The layout of `SiglipModel` in Hugging Face's transformers.
pub(super) fn transformers(model: &Model) -> KeyMap {
    let mut entries = Entries::default();
    for name in ["logit_scale", "logit_bias"] {
        entries.leading(name, name, 1);
    }
    let text = |name: &str| format!("text_model.{name}");
    entries.layer("text.token", &text("embeddings.token_embedding"), WEIGHT);
    let positions = text("embeddings.position_embedding.weight");
    entries.whole("text.position", &positions);
    entries.transformers_blocks(Tower::Text, model.text.layers, &text(""));
    entries.layer("text.norm", &text("final_layer_norm"), BOTH);
    if model.text.projection != Projected::Not {
        entries.layer("text.joint", &text("head"), BOTH);
    }

    let vision = |name: &str| format!("vision_model.{name}");
    entries.layer("vision.patch", &vision("embeddings.patch_embedding"), BOTH);
    let positions = vision("embeddings.position_embedding.weight");
    entries.whole("vision.position", &positions);
    entries.transformers_blocks(Tower::Vision, model.vision.layers, &vision(""));
    entries.layer("vision.norm_out", &vision("post_layernorm"), BOTH);
    let head = |name: &str| vision(&format!("head.{name}"));
    entries.leading("vision.pool.probe", &head("probe"), 2);
    let width = model.vision.block.width;
    let fused = head("attention.in_proj_");
    entries.fused("vision.pool", &QUERY_KEY_VALUE, &fused, width);
    let names = [
        ("output", "attention.out_proj"),
        ("norm", "layernorm"),
        ("up", "mlp.fc1"),
        ("down", "mlp.fc2"),
    ];
    entries.layers("vision.pool", "vision_model.head", names);
    KeyMap {
        name: "transformers",
        also: &["hf"],
        entries: entries.into(),
        ignored: vec!["*.position_ids".into()],
    }
}

/// The layout of open_clip's SigLIP models.
pub(super) fn open_clip(model: &Model) -> KeyMap {
    let mut entries = Entries::default();
    for name in ["logit_scale", "logit_bias"] {
        entries.leading(name, name, 0);
    }
    entries.layer("text.token", "text.token_embedding", WEIGHT);
    entries.whole("text.position", "text.positional_embedding");
    let width = model.text.block.width;
    entries.openai_blocks(Tower::Text, model.text.layers, width, "text.transformer");
    entries.layer("text.norm", "text.ln_final", BOTH);
    if model.text.projection != Projected::Not {
        entries.layer("text.joint", "text.text_projection", BOTH);
    }

    let trunk = |name: &str| format!("visual.trunk.{name}");
    entries.layer("vision.patch", &trunk("patch_embed.proj"), BOTH);
    entries.leading("vision.position", &trunk("pos_embed"), 1);
    let width = model.vision.block.width;
    entries.timm_blocks(Tower::Vision, model.vision.layers, width, &trunk(""));
    entries.layer("vision.norm_out", &trunk("norm"), BOTH);
    let pool = |name: &str| trunk(&format!("attn_pool.{name}"));
    entries.leading("vision.pool.probe", &pool("latent"), 2);
    entries.fused("vision.pool", &["key", "value"], &pool("kv."), width);
    let names = [
        ("query", "q"),
        ("output", "proj"),
        ("norm", "norm"),
        ("up", "mlp.fc1"),
        ("down", "mlp.fc2"),
    ];
    entries.layers("vision.pool", "visual.trunk.attn_pool", names);
    KeyMap {
        name: "open_clip",
        also: &[],
        entries: entries.into(),
        ignored: vec!["text.attn_mask".into()],
    }
}
