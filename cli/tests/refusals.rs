//! What cannot be combined, or has no place, is refused by name when a recipe is planned.

use twinspan as _;
use twinspan::sdk::expression;
use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;

const VIT: &str = r#"use = "clip"
preset = "ViT-B/16""#;
const RESNET: &str = r#"use = "clip"
preset = "RN50"
connect = true"#;

/// What planning says of adapters on a backbone and a task.
fn said(backbone: &str, task: &str, adapters: &str) -> String {
    let text = format!("[backbone]\n{backbone}\n[task]\nuse = \"{task}\"\n");
    let mut recipe = Recipe::parse(&text, "recipe").unwrap();
    recipe.adapters = expression::parse(adapters).unwrap();
    match plan(&recipe) {
        Ok(_) => "planned".into(),
        Err(error) => {
            assert!(error.is_wrong_use(), "{error}");
            error.to_string()
        }
    }
}

#[test]
fn contradictions_and_missing_places_are_named() {
    let segments = |backbone, adapters| said(backbone, "referring-segmentation", adapters);
    // Of order: each wants to run before what it reads.
    insta::assert_snapshot!(segments(VIT, "bridger + dense-aligner"), @"
    `bridger` and `dense-aligner` cannot be combined: each waits for what the other changes (text.final → vision.blocks.0 … vision.blocks.11 → text.final)
    ");
    insta::assert_snapshot!(segments(VIT, "cocoop + dense-aligner"), @"
    `cocoop` and `dense-aligner` cannot be combined: each waits for what the other changes (vision.blocks.0 … vision.pooled → text.embed … text.final → vision.blocks.0)
    ");
    // Of one weight.
    insta::assert_snapshot!(segments(VIT, "dora@text + lora + dora@query"), @"
    `dora-2` reparametrises text.blocks.0.attention.query, which another adapter reparametrises already
    ");
    insta::assert_snapshot!(segments(VIT, "unfreeze + unfreeze[roles=[\"norm\"]]@text"), @"
    `unfreeze-2` wants to train `text.blocks.0.attention.norm.bias`, which `unfreeze` trains already
    ");
    // Of what the task never reads.
    insta::assert_snapshot!(segments(VIT, "clip-adapter"), @"
    `clip-adapter` acts at vision.pooled, which task `referring-segmentation` never reads: no gradient would reach it; restrict its sites
    ");
    insta::assert_snapshot!(segments(VIT, "tip-adapter[keys=4, classes=2]"), @"
    `tip-adapter` acts at vision.logits, which task `referring-segmentation` never reads: no gradient would reach it; restrict its sites
    ");
    // Of places that the backbone does not have.
    insta::assert_snapshot!(segments(RESNET, "vpt"), @"
    `vpt` matches no site: it asks for projections [patch] at towers [vision]; the backbone offers query, key, value, output, conv1, conv2, conv3, shortcut, connect
    ");
    insta::assert_snapshot!(segments(RESNET, "convpass"), @"
    `convpass` matches no site: it asks for branches [attention, mlp] at towers [vision]; the backbone offers convolution
    ");
    insta::assert_snapshot!(segments(RESNET, "prefix@vision"), @"
    `prefix` matches no site: it asks for keys and values at towers [vision]; the backbone offers attentions of the blocks
    ");
    insta::assert_snapshot!(segments(VIT, "conv-adapter"), @"
    `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    ");
    insta::assert_snapshot!(segments(VIT, "lora@text.blocks=12"), @"
    `lora` matches no site: it asks for block 12; the backbone offers blocks 0 to 11 of text
    ");
    // And in other company each of them has its place.
    for (backbone, task, adapters) in [
        (VIT, "referring-segmentation", "bridger + text-adapter"),
        (VIT, "referring-segmentation", "lora + dora@query"),
        (
            VIT,
            "classification",
            "clip-adapter + tip-adapter[keys=4, classes=2]",
        ),
        (VIT, "classification", "cocoop + vpt + convpass"),
        (
            RESNET,
            "referring-segmentation",
            "conv-adapter + prefix@text",
        ),
    ] {
        assert_eq!(said(backbone, task, adapters), "planned", "{adapters}");
    }
}
