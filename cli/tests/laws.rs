//! The laws of every linked plugin, chosen by what it declares: none is broken, and what is
//! skipped, and why, is pinned here.

use twinspan as _;
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, Configured};
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

/// Its blocks are convolutions on maps.
fn resnet() -> Configured<dyn Backbone> {
    let options = r#"
        [model]
        embed_dim = 24
        vision = { kind = "resnet", layers = [1, 1, 1, 1], width = 4, head_width = 32, image_size = 64 }
        text = { layers = 3, width = 16, heads = 2, context = 16, vocabulary = 514, end = 513 }
    "#;
    let options = options.parse().unwrap();
    registry::configured::<BackboneEntry>("clip", options).unwrap()
}

#[test]
fn adapters_on_convolutions_keep_the_laws_too() {
    for (name, options) in [
        (
            "ia3",
            "sites = { projections = [\"conv1\", \"conv2\", \"shortcut\"] }",
        ),
        (
            "repadapter",
            "dim = 4\nsites = { branches = [\"convolution\"] }",
        ),
    ] {
        let options = options.parse().unwrap();
        let adapter = registry::configured::<AdapterEntry>(name, options).unwrap();
        let verdicts = of_adapter(&adapter, &resnet());
        let held = verdicts.iter().all(|v| v.outcome == Outcome::Held);
        assert!(held, "{}", table(&verdicts));
    }
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
    adapter bridger on toy, identity at the start: skipped, it declares no identity at the start
    adapter bridger on toy, merged: skipped, it does not declare to be mergeable
    adapter bridger on pocket, identity at the start: skipped, it declares no identity at the start
    adapter bridger on pocket, merged: skipped, it does not declare to be mergeable
    adapter bridger on siglip, identity at the start: skipped, it declares no identity at the start
    adapter bridger on siglip, merged: skipped, it does not declare to be mergeable
    adapter clip-adapter on toy, identity at the start: skipped, it declares no identity at the start
    adapter clip-adapter on toy, merged: skipped, it does not declare to be mergeable
    adapter clip-adapter on pocket, identity at the start: skipped, it declares no identity at the start
    adapter clip-adapter on pocket, merged: skipped, it does not declare to be mergeable
    adapter clip-adapter on siglip, identity at the start: skipped, it declares no identity at the start
    adapter clip-adapter on siglip, merged: skipped, it does not declare to be mergeable
    adapter tip-adapter on toy, identity at the start: skipped, it declares no identity at the start
    adapter tip-adapter on toy, gradients: skipped, it declares no trainable parameters
    adapter tip-adapter on toy, merged: skipped, it does not declare to be mergeable
    adapter tip-adapter on toy, learning: skipped, it declares no trainable parameters
    adapter tip-adapter on pocket, identity at the start: skipped, it declares no identity at the start
    adapter tip-adapter on pocket, gradients: skipped, it declares no trainable parameters
    adapter tip-adapter on pocket, merged: skipped, it does not declare to be mergeable
    adapter tip-adapter on pocket, learning: skipped, it declares no trainable parameters
    adapter tip-adapter on siglip, identity at the start: skipped, it declares no identity at the start
    adapter tip-adapter on siglip, gradients: skipped, it declares no trainable parameters
    adapter tip-adapter on siglip, merged: skipped, it does not declare to be mergeable
    adapter tip-adapter on siglip, learning: skipped, it declares no trainable parameters
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
