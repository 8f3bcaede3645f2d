//! The laws of every linked plugin, chosen by what it declares: none is broken, and what is
//! skipped, and why, is pinned here.

use twinspan as _;
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::expression;
use twinspan::sdk::registry::{self, BackboneEntry, Configured};
use twinspan::sdk::testkit::Toy;
use twinspan::sdk::testkit::laws::{Outcome, Verdict, of_adapter, of_registry, table};

/// A small SigLIP, whose pictures have 3 pixels beside the last whole patch.
fn siglip() -> Configured<dyn Backbone> {
    let options = r#"
        [model]
        vision = { layers = 3, width = 16, heads = 2, patch = 8, image_size = 35 }
        text = { layers = 3, width = 24, heads = 2, context = 40, vocabulary = 259 }
    "#;
    let options = options.parse().unwrap();
    registry::configured::<BackboneEntry>("siglip", options).unwrap()
}

#[test]
fn no_law_is_broken_and_what_is_skipped_is_known() {
    let toy = Configured::<dyn Backbone>::of(Toy::default()).unwrap();
    let pocket = registry::configured::<BackboneEntry>("pocket", toml::Table::new()).unwrap();
    let verdicts = of_registry(&[toy, pocket, siglip()]).unwrap();
    println!("{}", table(&verdicts));
    let of = |wanted: fn(&Outcome) -> bool| -> Vec<Verdict> {
        let chosen = verdicts.iter().filter(|v| wanted(&v.outcome));
        chosen.cloned().collect()
    };
    let broken = of(|o| matches!(o, Outcome::Broken(_)));
    assert!(broken.is_empty(), "{}", table(&broken));
    insta::assert_snapshot!(skipped(&verdicts), @"");
}

/// What was skipped, those of one plugin and reason in one line.
fn skipped(verdicts: &[Verdict]) -> String {
    let mut backbones: Vec<((&str, &str, String, &str), Vec<&str>)> = Vec::new();
    for verdict in verdicts {
        let Outcome::Skipped(why) = &verdict.outcome else {
            continue;
        };
        let law = verdict.law.to_string();
        let key = (verdict.kind, verdict.plugin.as_str(), law, why.as_str());
        let backbone = verdict.backbone.unwrap_or_default();
        match backbones.iter_mut().find(|(other, _)| *other == key) {
            Some((_, list)) => list.push(backbone),
            None => backbones.push((key, vec![backbone])),
        }
    }
    let mut lines: Vec<((String, String), Vec<String>)> = Vec::new();
    for ((kind, plugin, law, why), on) in backbones {
        let key = (
            format!("{kind} {plugin} on {}", on.join(", ")),
            why.to_string(),
        );
        match lines.iter_mut().find(|(other, _)| *other == key) {
            Some((_, laws)) => laws.push(law),
            None => lines.push((key, vec![law])),
        }
    }
    let lines = lines
        .iter()
        .map(|((whom, why), laws)| format!("{whom}, {}: {why}", laws.join(", ")));
    lines.collect::<Vec<_>>().join("\n")
}

const VIT: &str =
    r#"{ kind = "vit", layers = 2, width = 16, heads = 2, patch = 8, image_size = 32 }"#;
const RESNET: &str =
    r#"{ kind = "resnet", layers = [1, 1, 1, 1], width = 4, head_width = 32, image_size = 64 }"#;

fn clip(vision: &str) -> Configured<dyn Backbone> {
    let options = format!(
        r#"
        [model]
        embed_dim = 24
        vision = {vision}
        text = {{ layers = 2, width = 16, heads = 2, context = 12, vocabulary = 514 }}
    "#
    );
    let options = options.parse().unwrap();
    registry::configured::<BackboneEntry>("clip", options).unwrap()
}

fn keep_the_laws(adapters: &str, backbone: &Configured<dyn Backbone>) {
    for adapter in expression::parse(adapters).unwrap() {
        let verdicts = of_adapter(&adapter, backbone);
        let sound = |v: &Verdict| match &v.outcome {
            Outcome::Held => true,
            Outcome::Skipped(why) => {
                why.starts_with("it declares no") || why.starts_with("it does not declare")
            }
            Outcome::Broken(_) => false,
        };
        assert!(
            verdicts.iter().all(sound),
            "{adapters}: {}",
            table(&verdicts)
        );
    }
}

/// Branches and convolutions of a ResNet lie where the other backbones have none.
#[test]
fn branch_methods_keep_the_laws_on_transformer_and_resnet() {
    let (vit, resnet) = (clip(VIT), clip(RESNET));
    for (backbone, adapters) in [
        (
            &vit,
            "adapter + adapter[placement=parallel] + compacter + convpass",
        ),
        (
            &vit,
            "conv-adapter[placement=residual-parallel]@attention,mlp",
        ),
        (
            &resnet,
            "adapter@convolution + adapter[placement=parallel]@convolution",
        ),
        (
            &resnet,
            "adapter@vision.conv1,conv2 + compacter@convolution,mlp",
        ),
        (
            &resnet,
            "conv-adapter[reduction=2] + conv-adapter[reduction=2, placement=conv-series]",
        ),
        (
            &resnet,
            "conv-adapter[placement=residual-parallel] + conv-adapter[placement=residual-series]",
        ),
    ] {
        keep_the_laws(adapters, backbone);
    }
}

/// Depths and numbers that fit small towers; a ResNet has no tokens among which prompts could lie.
#[test]
fn stream_methods_keep_the_laws_on_transformer_and_resnet() {
    let (vit, resnet) = (clip(VIT), clip(RESNET));
    let text = "coop[tokens=4] + cocoop + prefix[length=3] + lst[reduction=2]";
    keep_the_laws(&format!("{text} + vpt[deep=false] + maple[depth=2]"), &vit);
    keep_the_laws(text, &resnet);
    keep_the_laws("maple[depth=3]", &siglip());
    for (prompts, missed) in [
        (
            "vpt",
            "`vpt` matches no site: it asks for projections [patch]",
        ),
        (
            "maple[depth=1]",
            "`maple` matches no site: it asks for tokens of the vision stream",
        ),
    ] {
        let adapter = expression::parse(prompts).unwrap().remove(0);
        let refused = table(&of_adapter(&adapter, &resnet));
        assert!(refused.contains(missed), "{refused}");
    }
}
