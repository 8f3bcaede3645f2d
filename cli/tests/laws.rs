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
        text = { layers = 3, width = 24, heads = 2, context = 20, vocabulary = 259 }
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
    insta::assert_snapshot!(table(&of(|o| matches!(o, Outcome::Skipped(_)))), @"
    adapter adapter on toy, identity at the start: skipped, it declares no identity at the start
    adapter adapter on toy, merged: skipped, it does not declare to be mergeable
    adapter adapter on pocket, identity at the start: skipped, it declares no identity at the start
    adapter adapter on pocket, merged: skipped, it does not declare to be mergeable
    adapter adapter on siglip, identity at the start: skipped, it declares no identity at the start
    adapter adapter on siglip, merged: skipped, it does not declare to be mergeable
    adapter bridger on toy, identity at the start: skipped, it declares no identity at the start
    adapter bridger on toy, merged: skipped, it does not declare to be mergeable
    adapter bridger on pocket, identity at the start: skipped, it declares no identity at the start
    adapter bridger on pocket, merged: skipped, it does not declare to be mergeable
    adapter bridger on siglip, identity at the start: skipped, it declares no identity at the start
    adapter bridger on siglip, merged: skipped, it does not declare to be mergeable
    adapter compacter on toy, identity at the start: skipped, it declares no identity at the start
    adapter compacter on toy, merged: skipped, it does not declare to be mergeable
    adapter compacter on pocket, identity at the start: skipped, it declares no identity at the start
    adapter compacter on pocket, merged: skipped, it does not declare to be mergeable
    adapter compacter on siglip, identity at the start: skipped, it declares no identity at the start
    adapter compacter on siglip, merged: skipped, it does not declare to be mergeable
    adapter conv-adapter on toy, identity at the start: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    adapter conv-adapter on toy, gradients: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    adapter conv-adapter on toy, saved and loaded: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    adapter conv-adapter on toy, permutation: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    adapter conv-adapter on toy, merged: skipped, it does not declare to be mergeable
    adapter conv-adapter on toy, learning: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    adapter conv-adapter on pocket, merged: skipped, it does not declare to be mergeable
    adapter conv-adapter on siglip, identity at the start: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down
    adapter conv-adapter on siglip, gradients: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down
    adapter conv-adapter on siglip, saved and loaded: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down
    adapter conv-adapter on siglip, permutation: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down
    adapter conv-adapter on siglip, merged: skipped, it does not declare to be mergeable
    adapter conv-adapter on siglip, learning: skipped, `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down
    adapter convpass on toy, merged: skipped, it does not declare to be mergeable
    adapter convpass on pocket, merged: skipped, it does not declare to be mergeable
    adapter convpass on siglip, merged: skipped, it does not declare to be mergeable
    task classification on toy, gradients: skipped, its head has no parameters
    task classification on pocket, gradients: skipped, its head has no parameters
    task classification on siglip, gradients: skipped, its head has no parameters
    task referring-segmentation on toy, gradients: skipped, task `referring-segmentation`: `words` must lie between 3 and 12, the backbone's longest sentence; got 17
    task referring-segmentation on toy, saved and loaded: skipped, task `referring-segmentation`: `words` must lie between 3 and 12, the backbone's longest sentence; got 17
    task retrieval on toy, gradients: skipped, its head has no parameters
    task retrieval on pocket, gradients: skipped, its head has no parameters
    task retrieval on siglip, gradients: skipped, its head has no parameters
    ");
}

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

/// Branches and convolutions of a ResNet lie where the other backbones have none.
#[test]
fn branch_methods_keep_the_laws_on_transformer_and_resnet() {
    let vit =
        clip(r#"{ kind = "vit", layers = 2, width = 16, heads = 2, patch = 8, image_size = 32 }"#);
    let resnet = clip(
        r#"{ kind = "resnet", layers = [1, 1, 1, 1], width = 4, head_width = 32, image_size = 64 }"#,
    );
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
}
