//! What the files beside weights say of a model, as the published repositories have them.

use serde_json::{Value, json};
use twinspan_backbones::clip::{Clip, Preset};
use twinspan_backbones::siglip::{self, Siglip};
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::preparation::{Fit, Preparation, Resampling};
use twinspan_sdk::source::Description;
use twinspan_sdk::topology::Contrast;

fn files<const N: usize>(files: [(&str, Value); N]) -> Description {
    Description::of(files.map(|(name, content)| (name.to_string(), content)))
}

fn filled<P: Plugin + Backbone>(plugin: &P, description: &Description) -> P {
    let options = plugin.described(description).unwrap().unwrap();
    P::from_options(&options).unwrap()
}

/// `config.json` of openai/clip-vit-large-patch14-336 in the fields that count, with the stale
/// copies that older files carry.
fn large_config() -> Value {
    json!({
        "model_type": "clip",
        "projection_dim": 768,
        "logit_scale_init_value": 2.6592,
        "text_config": { "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
            "num_hidden_layers": 12, "projection_dim": 512, "hidden_act": "quick_gelu" },
        "text_config_dict": null,
        "vision_config": { "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
            "num_hidden_layers": 24, "patch_size": 32, "image_size": 336 },
        "vision_config_dict": { "patch_size": 14 },
    })
}

fn crop(size: Value) -> Value {
    json!({
        "crop_size": size, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3, "size": size,
    })
}

#[test]
fn transformers_describes_a_clip() {
    let description = files([
        ("config.json", large_config()),
        ("preprocessor_config.json", crop(json!(336))),
    ]);
    let clip = filled(&Clip::default(), &description);
    let preset = Clip::preset(Preset::VitL14At336);
    assert_eq!(clip.topology().unwrap(), preset.topology().unwrap());
    let preparation = Preparation {
        fit: Fit::CropFirst,
        ..preset.preparation()
    };
    assert_eq!(clip.preparation(), preparation);
}

#[test]
fn what_the_options_say_stays() {
    let description = files([
        ("config.json", large_config()),
        (
            "preprocessor_config.json",
            crop(json!({ "shortest_edge": 336 })),
        ),
    ]);
    let said = Clip {
        input_size: 416,
        pictures: toml::from_str("fit = \"letterbox\"").unwrap(),
        ..Clip::of(Preset::VitB32.architecture())
    };
    let clip = filled(&said, &description);
    assert_eq!(clip.topology().unwrap(), said.topology().unwrap());
    let preparation = clip.preparation();
    assert_eq!((preparation.size, preparation.fit), (416, Fit::Letterbox));
    // What is filled in once is filled in for good.
    assert_eq!(filled(&clip, &description), clip);

    // A preset that the files contradict is a slip, whatever is the same in both.
    let preset = |preset| Clip::preset(preset).described(&description);
    assert!(preset(Preset::VitL14At336).unwrap().is_some());
    let both = Clip {
        model: Some(Preset::VitL14.architecture()),
        ..Clip::preset(Preset::VitL14)
    };
    assert_eq!(filled(&both, &description).model, both.model);
    for other in [Preset::VitL14, Preset::VitL14At336Gelu] {
        let error = preset(other).unwrap_err().to_string();
        assert!(
            error.contains("describe another model than preset"),
            "{error}"
        );
    }
    // Pictures are described without sizes too, where the options say those.
    let pictures = json!({ "image_mean": [0.1, 0.2, 0.3], "size": 224 });
    let alone = files([("preprocessor_config.json", pictures)]);
    assert_eq!(Clip::default().described(&alone).unwrap(), None);
    let clip = filled(&Clip::preset(Preset::VitB32), &alone);
    let preparation = clip.preparation();
    assert_eq!(
        (preparation.mean, preparation.fit),
        ([0.1, 0.2, 0.3], Fit::CropFirst)
    );
}

#[test]
fn open_clip_describes_its_models() {
    let config = |model: Value, pictures: Value| {
        files([(
            "open_clip_config.json",
            json!({ "model_cfg": model, "preprocess_cfg": pictures }),
        )])
    };
    let big = config(
        json!({ "embed_dim": 1280,
            "vision_cfg": { "image_size": 224, "layers": 48, "width": 1664, "head_width": 104,
                "mlp_ratio": 4.9231, "patch_size": 14 },
            "text_cfg": { "context_length": 77, "vocab_size": 49408, "width": 1280, "heads": 20,
                "layers": 32 } }),
        json!({ "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5] }),
    );
    let clip = filled(&Clip::default(), &big);
    let preset = Clip::preset(Preset::VitBigG14);
    assert_eq!(clip.topology().unwrap(), preset.topology().unwrap());
    assert_eq!(clip.preparation().mean, [0.5; 3]);
    assert_eq!(clip.preparation().fit, Fit::Crop);

    let siglip = config(
        json!({ "embed_dim": 768, "init_logit_bias": -10, "custom_text": true,
            "vision_cfg": { "image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224",
                "timm_pool": "map", "timm_proj": "none" },
            "text_cfg": { "context_length": 64, "vocab_size": 32000, "width": 768, "heads": 12,
                "layers": 12, "no_causal_mask": true, "proj_bias": true, "pool_type": "last",
                "norm_kwargs": { "eps": 1e-6 } } }),
        json!({ "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
            "resize_mode": "squash" }),
    );
    assert_eq!(Clip::default().described(&siglip).unwrap(), None);
    let described = filled(&Siglip::default(), &siglip);
    let preset = Siglip::default();
    assert_eq!(described.topology().unwrap(), preset.topology().unwrap());
    assert_eq!(described.preparation(), preset.preparation());
    // The same sizes, but not the same GELU.
    assert_ne!(
        described.model,
        Some(siglip::Preset::default().architecture())
    );
}

/// google/siglip-base-patch16-224 says only what is not the class's default.
#[test]
fn transformers_describes_a_siglip() {
    let config = |vocabulary: usize| {
        let text = json!({ "hidden_size": 768, "intermediate_size": 3072,
            "model_type": "siglip_text_model", "num_attention_heads": 12,
            "vocab_size": vocabulary });
        let vision = json!({ "model_type": "siglip_vision_model", "patch_size": 16 });
        let all = json!({ "model_type": "siglip", "text_config": text, "vision_config": vision });
        ("config.json", all)
    };
    let pictures = json!({ "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "resample": 2, "size": { "height": 224, "width": 224 } });
    let first = files([config(32_000), ("preprocessor_config.json", pictures)]);
    let siglip = filled(&Siglip::default(), &first);
    let topology = siglip.topology().unwrap();
    assert_eq!(topology, Siglip::default().topology().unwrap());
    assert_eq!(topology.contrast, Contrast::Sigmoid);
    assert_eq!(siglip.preparation().resampling, Resampling::Bilinear);
    assert_eq!(siglip.preparation().fit, Fit::Squash);

    // SigLIP 2: which id pads is in the tokenizer's file, or follows from its vocabulary.
    let ids = |siglip: Siglip| {
        let text = siglip.model.unwrap().text;
        (text.padding, text.end)
    };
    assert_eq!(ids(siglip), (1, 1));
    let second = files([config(256_000)]);
    assert_eq!(ids(filled(&Siglip::default(), &second)), (0, 1));
    let tokens = json!({ "pad_token": "<pad>", "eos_token": { "content": "<eos>" },
        "added_tokens_decoder": { "3": { "content": "<pad>" }, "1": { "content": "<eos>" } } });
    let third = files([config(256_000), ("tokenizer_config.json", tokens)]);
    assert_eq!(ids(filled(&Siglip::default(), &third)), (3, 1));
}

/// Parameters as the implementations count them (open_clip's models on a meta device).
#[test]
fn presets_have_the_published_sizes() {
    let millions = |count: usize| (count as f64 / 1e5).round() / 10.0;
    for (name, published) in [
        ("ViT-B-32-256", 151.3),
        ("ViT-B-16-plus-240", 208.4),
        ("ViT-L-14-336", 427.9),
        ("ViT-H-14", 986.1),
        ("ViT-H-14-378-quickgelu", 986.7),
        ("ViT-g-14", 1366.7),
        ("ViT-bigG-14", 2539.6),
    ] {
        let clip: Clip = toml::from_str(&format!("preset = \"{name}\"")).unwrap();
        let count = clip.topology().unwrap().parameter_count();
        assert_eq!(millions(count), published, "{name}");
    }
    for (name, published) in [
        ("siglip-base-patch16-224", 203.2),
        ("siglip-base-patch16-512", 203.8),
        ("siglip-base-patch16-256-multilingual", 370.6),
        ("siglip-large-patch16-384", 652.5),
        ("siglip-so400m-patch14-224", 877.4),
        ("siglip-so400m-patch14-384", 878.0),
        ("siglip2-base-patch32-256", 376.9),
        ("siglip2-so400m-patch16-512", 1136.6),
        ("siglip2-giant-opt-patch16-256", 1871.4),
    ] {
        let siglip: Siglip = toml::from_str(&format!("preset = \"{name}\"")).unwrap();
        let count = siglip.topology().unwrap().parameter_count();
        assert_eq!(millions(count), published, "{name}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let open_clip = |vision: Value, text: Value| {
        let model = json!({ "embed_dim": 16, "vision_cfg": vision, "text_cfg": text });
        files([("open_clip_config.json", json!({ "model_cfg": model }))])
    };
    let config = |change: fn(&mut Value)| {
        let mut config = large_config();
        change(&mut config);
        files([("config.json", config)])
    };
    let pictures = |file: Value| {
        files([
            ("config.json", large_config()),
            ("preprocessor_config.json", file),
        ])
    };
    let refused = [
        open_clip(json!({ "attentional_pool": true }), json!({})),
        open_clip(
            json!({}),
            json!({ "act_kwargs": { "approximate": "tanh" } }),
        ),
        open_clip(json!({ "no_ln_pre": 1 }), json!({})),
        open_clip(json!({ "pool_type": "none" }), json!({})),
        open_clip(json!({ "image_size": [224, 336] }), json!({})),
        open_clip(json!({}), json!({ "width": "wide" })),
        config(|c| c["vision_config"]["hidden_act"] = json!("relu")),
        config(|c| c["text_config"]["layer_norm_eps"] = json!(1e-6)),
        config(|c| c["text_config"]["hidden_act"] = json!("gelu")),
        config(|c| c["model_type"] = json!("clip_vision_model")),
        files([
            ("config.json", large_config()),
            ("preprocessor_config.json", json!({ "resample": 1 })),
        ]),
        pictures(json!({ "do_center_crop": true, "crop_size": 224, "size": 256 })),
        pictures(json!({ "image_std": [0.5, 0, 0.5] })),
        pictures(json!({ "rescale_factor": 0.00784 })),
        pictures(json!({ "do_center_crop": false, "size": { "shortest_edge": 224 } })),
        pictures(json!({ "size": { "height": 224, "width": 336 } })),
    ];
    let messages = refused.map(|files| {
        let error = Clip::default().described(&files).unwrap_err();
        assert!(error.is_wrong_use());
        error.to_string()
    });
    insta::assert_snapshot!(messages.join("\n"), @r#"
    open_clip_config.json, vision_cfg: `attentional_pool` asks for what CLIPs of this kind do not have
    open_clip_config.json, text_cfg: `act_kwargs` asks for what CLIPs of this kind do not have
    open_clip_config.json, vision_cfg: `no_ln_pre` must be true or false, got 1
    open_clip_config.json, vision_cfg: `pool_type` is `none`; known are tok and avg
    open_clip_config.json, vision_cfg: `image_size` must be a square
    open_clip_config.json, text_cfg: `width` must be a whole number, got "wide"
    config.json, vision_config: `hidden_act` is `relu`; known are quick_gelu and gelu
    config.json, text_config: `layer_norm_eps` is 0.000001; known is 0.00001
    backbone `clip`: config.json: both towers must have the same hidden_act
    backbone `clip`: config.json describes one tower (clip_vision_model); name weights with both, of a `CLIPModel`
    preprocessor_config.json: `resample`: 1: only 2 (bilinear) and 3 (bicubic) are known
    preprocessor_config.json: `crop_size`: 224 after a resize to 256: both must be the same
    preprocessor_config.json: `image_std`: must be three numbers, above 0 where they divide
    preprocessor_config.json: `rescale_factor`: must be 1/255
    preprocessor_config.json: `do_center_crop`: false: pictures that are not square are not taken
    preprocessor_config.json: `size`: {"height":224,"width":336}: must be a square
    "#);
    let other = files([("config.json", json!({ "model_type": "bert" }))]);
    assert_eq!(Clip::default().described(&other).unwrap(), None);
    assert_eq!(Siglip::default().described(&other).unwrap(), None);
}

/// Any value in any field of a configuration gives sizes or a refusal.
#[test]
fn no_configuration_panics() {
    let extremes = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!(true),
        json!([1, 2]),
        json!({ "height": 0 }),
    ];
    let open_clip = json!({
        "model_cfg": { "embed_dim": 16, "quick_gelu": true, "custom_text": true,
            "vision_cfg": { "image_size": 32, "layers": [1, 1, 1, 1], "width": 64, "head_width": 32,
                "mlp_ratio": 2.0, "patch_size": 8, "pool_type": "avg" },
            "text_cfg": { "context_length": 8, "vocab_size": 600, "width": 64, "heads": 2,
                "layers": 1, "pool_type": "last", "pad_id": 0, "proj_bias": true } },
        "preprocess_cfg": { "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic", "resize_mode": "squash" },
    });
    let mut siglip = large_config();
    siglip["model_type"] = json!("siglip");
    let mut timm = open_clip.clone();
    timm["model_cfg"]["vision_cfg"]["timm_model_name"] = json!("vit_base_patch16_siglip_224");
    let wholes = [
        ("config.json", large_config()),
        ("config.json", siglip),
        ("open_clip_config.json", open_clip),
        ("open_clip_config.json", timm),
        (
            "preprocessor_config.json",
            crop(json!({ "shortest_edge": 336 })),
        ),
    ];
    let mut tried = 0;
    for (name, whole) in wholes {
        for place in places(&whole, String::new()) {
            for extreme in &extremes {
                let mut changed = whole.clone();
                *changed.pointer_mut(&place).unwrap() = extreme.clone();
                let mut both = vec![(name.to_string(), changed)];
                if name == "preprocessor_config.json" {
                    both.push(("config.json".into(), large_config()));
                }
                let description = Description::of(both);
                if let Ok(Some(options)) = Clip::default().described(&description) {
                    let clip = Clip::from_options(&options).unwrap();
                    assert_eq!(clip.topology().is_ok(), clip.layouts().is_ok());
                    tried += 1;
                }
                if let Ok(Some(options)) = Siglip::default().described(&description) {
                    let siglip = Siglip::from_options(&options).unwrap();
                    assert_eq!(siglip.topology().is_ok(), siglip.layouts().is_ok());
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

/// The JSON pointers of all that lies in a value.
fn places(value: &Value, at: String) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for (key, value) in inner {
        let here = format!("{at}/{key}");
        all.extend(places(value, here.clone()));
        all.push(here);
    }
    all
}
