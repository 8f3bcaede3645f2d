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
    insta::assert_snapshot!(skipped(&verdicts), @"
    adapter adapter on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter adapter on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter bridger on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter bridger on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter clip-adapter on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter clip-adapter on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter cocoop on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter cocoop on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter compacter on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter compacter on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter conv-adapter on toy, identity at the start, gradients, saved and loaded, permutation, learning: `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    adapter conv-adapter on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter conv-adapter on siglip, identity at the start, gradients, saved and loaded, permutation, learning: `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down
    adapter convpass on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter coop on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter coop on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter dense-aligner on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter dense-aligner on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter lst on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter maple on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter maple on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter prefix on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter prefix on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter text-adapter on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter text-adapter on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter tip-adapter on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter tip-adapter on toy, pocket, siglip, gradients, learning: it declares no trainable parameters
    adapter tip-adapter on toy, pocket, siglip, merged: it does not declare to be mergeable
    adapter vpt on toy, pocket, siglip, identity at the start: it declares no identity at the start
    adapter vpt on toy, pocket, siglip, merged: it does not declare to be mergeable
    task classification on toy, pocket, siglip, gradients: its head has no parameters
    task retrieval on toy, pocket, siglip, gradients: its head has no parameters
    ");
}

/// What was skipped: one line for a plugin, a law and a reason, and for all laws of one reason.
fn skipped(verdicts: &[Verdict]) -> String {
    let lines = verdicts.iter().filter_map(|v| match &v.outcome {
        Outcome::Skipped(why) => Some((v, why)),
        _ => None,
    });
    let plugin = |v: &Verdict| format!("{} {}", v.kind, v.plugin);
    let on = |v: &Verdict| v.backbone.unwrap_or_default().to_string();
    let by_law = lines.map(|(v, why)| ((plugin(v), v.law.to_string(), why.clone()), on(v)));
    let by_reason = grouped(by_law)
        .into_iter()
        .map(|((plugin, law, why), on)| ((plugin, on.join(", "), why), law));
    let lines = grouped(by_reason).into_iter();
    let lines = lines.map(|((plugin, on, why), laws)| {
        let laws = laws.join(", ");
        format!("{plugin} on {on}, {laws}: {why}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The values of each key, in the order in which the keys come first.
fn grouped<K: PartialEq>(pairs: impl Iterator<Item = (K, String)>) -> Vec<(K, Vec<String>)> {
    let mut groups: Vec<(K, Vec<String>)> = Vec::new();
    for (key, value) in pairs {
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
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
