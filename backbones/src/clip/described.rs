//! The sizes of the CLIP that the files beside its weights describe.
//!
//! Owns the fields of `config.json` (transformers, `model_type` clip) and of
//! `open_clip_config.json`. What is not known here is refused by name; what only matters in
//! training is passed over.

use serde_json::Value;
use twinspan_sdk::Result;
use twinspan_sdk::source::Description;

use super::architecture::{
    Architecture, CHECK, EPS, LastToken, Pooling, ResnetSizes, TextSizes, VisionSizes, VitSizes,
    clip_context, clip_vocabulary,
};
use crate::block::Activation;
use crate::json::Object;

/// The sizes in the files; none where they describe no CLIP.
pub(super) fn architecture(description: &Description) -> Result<Option<Architecture>> {
    let file = description.config();
    let kind = |file: &Value| file.get("model_type")?.as_str().map(String::from);
    match (file, file.and_then(kind).as_deref()) {
        (Some(file), Some("clip")) => return transformers(file).map(Some),
        (_, Some(one @ ("clip_vision_model" | "clip_text_model"))) => {
            return Err(CHECK.wrong(format!(
                "config.json describes one tower ({one}); name weights with both, of a `CLIPModel`"
            )));
        }
        _ => {}
    }
    let open_clip = description.open_clip();
    match open_clip.and_then(|file| file.get("model_cfg")) {
        Some(model) if is_clip(model) => open_clip_model(model).map(Some),
        _ => Ok(None),
    }
}

/// Whether both towers are open_clip's own; others come from timm or transformers.
fn is_clip(model: &Value) -> bool {
    let foreign = |tower: &str, names: &[&str]| {
        names.iter().any(|name| {
            model
                .get(tower)
                .and_then(|t| t.get(name))
                .is_some_and(|v| !v.is_null())
        })
    };
    !foreign("vision_cfg", &["timm_model_name", "eva_model_name"])
        && !foreign("text_cfg", &["hf_model_name"])
}

/// One tower of `config.json`: the older files write what differs into `NAME_config_dict` too,
/// which then counts.
fn tower(file: &Value, name: &str) -> Value {
    let mut fields = serde_json::Map::new();
    for part in [format!("{name}_config"), format!("{name}_config_dict")] {
        if let Some(more) = file.get(&part).and_then(Value::as_object) {
            fields.extend(more.clone());
        }
    }
    Value::Object(fields)
}

/// The `eos_token_id` with which older files, wrongly, meant the highest id.
const HIGHEST: u32 = 2;

fn transformers(file: &Value) -> Result<Architecture> {
    let (vision, text) = (tower(file, "vision"), tower(file, "text"));
    let vision = Object::new("config.json, vision_config", &vision);
    let text = Object::new("config.json, text_config", &text);
    let activation = |tower: &Object| match tower.text("hidden_act", "quick_gelu")? {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        other => Err(tower.refused(
            "hidden_act",
            format!("is `{other}`; known are quick_gelu and gelu"),
        )),
    };
    for tower in [&vision, &text] {
        eps(tower, "layer_norm_eps")?;
    }
    if activation(&vision)? != activation(&text)? {
        return Err(CHECK.wrong("config.json: both towers must have the same hidden_act"));
    }
    // Where a file leaves a size out, it is the class's own default: ViT-B/32.
    Ok(Architecture {
        embed_dim: Object::new("config.json", file).size("projection_dim", Some(512))?,
        activation: activation(&vision)?,
        vision: VisionSizes::Vit(VitSizes {
            layers: vision.size("num_hidden_layers", Some(12))?,
            width: vision.size("hidden_size", Some(768))?,
            heads: Some(vision.size("num_attention_heads", Some(12))?),
            head_width: None,
            patch: vision.size("patch_size", Some(32))?,
            image_size: vision.side("image_size", Some(224))?,
            mlp: Some(vision.size("intermediate_size", Some(3072))?),
            pooling: Pooling::Class,
            no_norm_in: false,
            norm_pooled: false,
        }),
        text: TextSizes {
            layers: text.size("num_hidden_layers", Some(12))?,
            width: text.size("hidden_size", Some(512))?,
            heads: Some(text.size("num_attention_heads", Some(8))?),
            context: text.size("max_position_embeddings", Some(clip_context()))?,
            vocabulary: text.size("vocab_size", Some(clip_vocabulary()))?,
            mlp: Some(text.size("intermediate_size", Some(2048))?),
            last: None,
            end: match text.id("eos_token_id", HIGHEST)? {
                HIGHEST => None,
                id => Some(id),
            },
            no_causal_mask: false,
            joint_bias: false,
        },
    })
}

fn open_clip_model(model: &Value) -> Result<Architecture> {
    let whole = Object::new("open_clip_config.json, model_cfg", model);
    let absent = Value::Null;
    let part = |name: &str| model.get(name).unwrap_or(&absent);
    let vision = Object::new("open_clip_config.json, vision_cfg", part("vision_cfg"));
    let text = Object::new("open_clip_config.json, text_cfg", part("text_cfg"));
    Ok(Architecture {
        embed_dim: whole.size("embed_dim", None)?,
        activation: match whole.switch("quick_gelu")? {
            true => Activation::QuickGelu,
            false => Activation::Gelu,
        },
        vision: match vision.field("layers").and_then(Value::as_array) {
            Some(layers) => VisionSizes::Resnet(resnet(&vision, layers)?),
            None => VisionSizes::Vit(vit(&vision)?),
        },
        text: open_clip_text(&text)?,
    })
}

fn resnet(vision: &Object, layers: &[Value]) -> Result<ResnetSizes> {
    let layers: Option<Vec<usize>> = layers
        .iter()
        .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()))
        .collect();
    let four = layers.and_then(|layers| layers.try_into().ok());
    Ok(ResnetSizes {
        layers: four.ok_or_else(|| vision.refused("layers", "must be four whole numbers"))?,
        width: vision.size("width", Some(64))?,
        head_width: optional(vision, "head_width")?,
        image_size: vision.side("image_size", Some(224))?,
    })
}

/// open_clip's fields that change a tower in ways that are not built here.
const UNKNOWN_OF_VISION: [&str; 4] = [
    "ls_init_value",
    "attentional_pool",
    "pos_embed_type",
    "act_kwargs",
];
const UNKNOWN_OF_TEXT: [&str; 3] = ["ls_init_value", "embed_cls", "act_kwargs"];

fn plain(tower: &Object, unknown: &[&str]) -> Result<()> {
    let asked = |name: &&&str| {
        tower.field(name).is_some_and(|value| {
            *value != Value::Bool(false) && value.as_str() != Some("learnable")
        })
    };
    match unknown.iter().find(asked) {
        Some(name) => Err(tower.refused(name, "asks for what CLIPs of this kind do not have")),
        None => Ok(()),
    }
}

/// The eps of a tower's norms.
fn eps(tower: &Object, name: &str) -> Result<()> {
    match tower.number(name, EPS)? {
        eps if eps == EPS => Ok(()),
        eps => Err(tower.refused(name, format!("is {eps}; known is {EPS}"))),
    }
}

fn norms(tower: &Object) -> Result<()> {
    match tower.field("norm_kwargs") {
        Some(norms) => eps(
            &Object::new("open_clip_config.json, norm_kwargs", norms),
            "eps",
        ),
        None => Ok(()),
    }
}

fn vit(vision: &Object) -> Result<VitSizes> {
    plain(vision, &UNKNOWN_OF_VISION)?;
    norms(vision)?;
    let width = vision.size("width", Some(768))?;
    Ok(VitSizes {
        layers: vision.size("layers", Some(12))?,
        width,
        heads: None,
        head_width: optional(vision, "head_width")?,
        patch: vision.side("patch_size", Some(16))?,
        image_size: vision.side("image_size", Some(224))?,
        mlp: mlp(vision, width)?,
        pooling: match vision.text("pool_type", "tok")? {
            "tok" => Pooling::Class,
            "avg" => Pooling::Mean,
            other => {
                let known = format!("is `{other}`; known are tok and avg");
                return Err(vision.refused("pool_type", known));
            }
        },
        no_norm_in: vision.switch("no_ln_pre")?,
        norm_pooled: vision.switch("final_ln_after_pool")?,
    })
}

fn open_clip_text(text: &Object) -> Result<TextSizes> {
    plain(text, &UNKNOWN_OF_TEXT)?;
    norms(text)?;
    let width = text.size("width", Some(512))?;
    let (padding, id) = (text.id("pad_id", 0)?, text.id("eos_id", 2)?);
    let (last, end) = match text.text("pool_type", "argmax")? {
        "argmax" => (None, None),
        "last" => (Some(LastToken { padding, end: id }), None),
        "eos" => (None, Some(id)),
        other => {
            let known = format!("is `{other}`; known are argmax, last and eos");
            return Err(text.refused("pool_type", known));
        }
    };
    Ok(TextSizes {
        layers: text.size("layers", Some(12))?,
        width,
        heads: Some(text.size("heads", Some(8))?),
        context: text.size("context_length", Some(clip_context()))?,
        vocabulary: text.size("vocab_size", Some(clip_vocabulary()))?,
        mlp: mlp(text, width)?,
        last,
        end,
        no_causal_mask: text.switch("no_causal_mask")?,
        joint_bias: text.switch("proj_bias")?,
    })
}

/// The width inside an MLP, where it is not four times the tower's.
fn mlp(tower: &Object, width: usize) -> Result<Option<usize>> {
    let ratio = tower.number("mlp_ratio", 4.0)?;
    // As Python's int() does.
    let mlp = (width as f64 * ratio) as usize;
    Ok((width.checked_mul(4) != Some(mlp)).then_some(mlp))
}

fn optional(tower: &Object, name: &str) -> Result<Option<usize>> {
    match tower.field(name) {
        None => Ok(None),
        Some(_) => tower.size(name, None).map(Some),
    }
}
