//! The sizes of the SigLIP that the files beside its weights describe.
//!
//! Owns the fields of `config.json` (transformers, `model_type` siglip), of
//! `open_clip_config.json` with timm's vision tower, and of `tokenizer_config.json` that say what
//! pads. What is not known here is refused by name.

use serde_json::Value;
use twinspan_sdk::Result;
use twinspan_sdk::source::Description;

use super::Preset;
use super::architecture::{
    Architecture, CHECK, EPS, TextSizes, VisionSizes, siglip_context, siglip_vocabulary,
};
use crate::block::Activation;
use crate::json::Object;

/// SigLIP 2's vocabulary, Gemma's, pads with another id than SigLIP's, which no configuration of
/// the model says.
const GEMMA: usize = 256_000;

/// The sizes in the files; none where they describe no SigLIP.
pub(super) fn architecture(description: &Description) -> Result<Option<Architecture>> {
    let kind = |file: &Value| file.get("model_type")?.as_str().map(String::from);
    let mut model = None;
    let file = description.config();
    if let Some(one @ ("siglip_vision_model" | "siglip_text_model")) =
        file.and_then(kind).as_deref()
    {
        return Err(CHECK.wrong(format!(
            "config.json describes one tower ({one}); name weights with both, of a `SiglipModel`"
        )));
    }
    if let Some(file) = file
        && kind(file).as_deref() == Some("siglip")
    {
        model = Some(transformers(file)?);
    } else if let Some(file) = description.open_clip()
        && let Some(config) = file.get("model_cfg")
        && timm_name(config).is_some_and(|name| name.contains("siglip"))
    {
        model = Some(open_clip(config)?);
    }
    if let Some(model) = &mut model {
        let file = description.tokenizer();
        let named = |token: &str| file.and_then(|file| id_of(file, token));
        let by_size = if model.text.vocabulary == GEMMA { 0 } else { 1 };
        model.text.padding = named("pad_token").unwrap_or(by_size);
        model.text.end = named("eos_token").unwrap_or(1);
    }
    Ok(model)
}

/// The id of `pad_token` or `eos_token`, which the file names by its text.
fn id_of(file: &Value, token: &str) -> Option<u32> {
    let text = |value: &Value| {
        let inner = value.get("content").unwrap_or(value);
        inner.as_str().map(String::from)
    };
    let wanted = text(file.get(token)?)?;
    let added = file.get("added_tokens_decoder")?.as_object()?;
    let (id, _) = added
        .iter()
        .find(|(_, added)| text(added).as_ref() == Some(&wanted))?;
    id.parse().ok()
}

fn transformers(file: &Value) -> Result<Architecture> {
    let absent = Value::Null;
    let part = |name: &str| file.get(name).unwrap_or(&absent);
    let vision = Object::new("config.json, vision_config", part("vision_config"));
    let text = Object::new("config.json, text_config", part("text_config"));
    for tower in [&vision, &text] {
        let activation = tower.text("hidden_act", "gelu_pytorch_tanh")?;
        if activation != "gelu_pytorch_tanh" {
            let known = format!("is `{activation}`; known is gelu_pytorch_tanh");
            return Err(tower.refused("hidden_act", known));
        }
        match tower.number("layer_norm_eps", EPS)? {
            eps if eps == EPS => {}
            eps => return Err(tower.refused("layer_norm_eps", format!("is {eps}; known is {EPS}"))),
        }
    }
    if vision.field("vision_use_head") == Some(&Value::Bool(false)) {
        return Err(vision.refused(
            "vision_use_head",
            "is false: without its head it has no vector",
        ));
    }
    // Where a file leaves a size out, it is the class's own default: the base model's.
    let (width, text_width) = (
        vision.size("hidden_size", Some(768))?,
        text.size("hidden_size", Some(768))?,
    );
    let projection = text.size("projection_size", Some(text_width))?;
    if projection != width {
        return Err(text.refused(
            "projection_size",
            format!("is {projection}, the vision tower is {width} wide"),
        ));
    }
    Ok(Architecture {
        vision: VisionSizes {
            layers: vision.size("num_hidden_layers", Some(12))?,
            width,
            heads: vision.size("num_attention_heads", Some(12))?,
            mlp: Some(vision.size("intermediate_size", Some(3072))?),
            activation: Activation::GeluTanh,
            patch: vision.side("patch_size", Some(16))?,
            image_size: vision.side("image_size", Some(224))?,
        },
        text: TextSizes {
            layers: text.size("num_hidden_layers", Some(12))?,
            width: text_width,
            heads: text.size("num_attention_heads", Some(12))?,
            mlp: Some(text.size("intermediate_size", Some(3072))?),
            activation: Activation::GeluTanh,
            no_projection: false,
            context: text.size("max_position_embeddings", Some(siglip_context()))?,
            vocabulary: text.size("vocab_size", Some(siglip_vocabulary()))?,
            padding: 1,
            end: 1,
        },
    })
}

fn timm_name(config: &Value) -> Option<&str> {
    config.get("vision_cfg")?.get("timm_model_name")?.as_str()
}

/// timm's names of SigLIP's vision towers begin with these: the preset of their size, and
/// whether their MLPs have the exact GELU there.
const TIMM: [(&str, Preset, bool); 7] = [
    ("vit_base_patch16_siglip", Preset::Base16At224, true),
    ("vit_base_patch32_siglip", Preset::Second32At256, false),
    ("vit_large_patch16_siglip_512", Preset::Large16At256, false),
    ("vit_large_patch16_siglip", Preset::Large16At256, true),
    ("vit_so400m_patch14_siglip", Preset::So400m14At384, true),
    (
        "vit_so400m_patch16_siglip",
        Preset::SecondSo400m16At256,
        false,
    ),
    (
        "vit_giantopt_patch16_siglip",
        Preset::SecondGiant16At256,
        false,
    ),
];

/// The vision tower's sizes are in timm's name of it: those of a preset.
fn open_clip(config: &Value) -> Result<Architecture> {
    let absent = Value::Null;
    let part = |name: &str| config.get(name).unwrap_or(&absent);
    let vision = Object::new("open_clip_config.json, vision_cfg", part("vision_cfg"));
    let text = Object::new("open_clip_config.json, text_cfg", part("text_cfg"));
    let name = timm_name(config).unwrap_or_default();
    let Some((_, like, exact)) = TIMM.iter().find(|(start, ..)| name.starts_with(start)) else {
        let known: Vec<&str> = TIMM.iter().map(|(start, ..)| *start).collect();
        let known = known.join(", ");
        return Err(vision.refused(
            "timm_model_name",
            format!("is `{name}`; known are those that begin with {known}"),
        ));
    };
    let mut model = like.architecture();
    model.vision.image_size = vision.side("image_size", Some(224))?;
    if *exact {
        model.vision.activation = Activation::Gelu;
    }
    model.text = open_clip_text(&text)?;
    let joint = Object::new("open_clip_config.json, model_cfg", config).size("embed_dim", None)?;
    if joint != model.vision.width {
        return Err(CHECK.wrong(format!(
            "open_clip_config.json: embed_dim is {joint}, the vision tower `{name}` {} wide",
            model.vision.width
        )));
    }
    Ok(model)
}

fn open_clip_text(text: &Object) -> Result<TextSizes> {
    if !text.switch("no_causal_mask")? {
        return Err(text.refused(
            "no_causal_mask",
            "is false; a SigLIP's words see all others",
        ));
    }
    match text.text("pool_type", "argmax")? {
        "last" => {}
        other => return Err(text.refused("pool_type", format!("is `{other}`; known is last"))),
    }
    let absent = Value::Null;
    let norms = text.field("norm_kwargs").unwrap_or(&absent);
    let norms = Object::new("open_clip_config.json, text_cfg.norm_kwargs", norms);
    // Without a word open_clip's norms have 1e-5.
    match norms.number("eps", 1e-5)? {
        eps if eps == EPS => {}
        eps => return Err(norms.refused("eps", format!("is {eps}; known is {EPS}"))),
    }
    let approximate = text
        .field("act_kwargs")
        .and_then(|arguments| arguments.get("approximate"))
        .and_then(Value::as_str);
    let width = text.size("width", Some(512))?;
    // As Python's int() does.
    let mlp = (width as f64 * text.number("mlp_ratio", 4.0)?) as usize;
    Ok(TextSizes {
        layers: text.size("layers", Some(12))?,
        width,
        heads: text.size("heads", Some(8))?,
        mlp: Some(mlp),
        activation: match approximate {
            Some("tanh") => Activation::GeluTanh,
            _ => Activation::Gelu,
        },
        no_projection: text.text("proj_type", "linear")? == "none",
        context: text.size("context_length", Some(77))?,
        vocabulary: text.size("vocab_size", Some(49_408))?,
        padding: 1,
        end: 1,
    })
}
