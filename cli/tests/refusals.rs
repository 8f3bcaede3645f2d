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
    insta::assert_snapshot!(segments(VIT, "bridger + dense-aligner"), @"");
    insta::assert_snapshot!(segments(VIT, "cocoop + dense-aligner"), @"");
    // Of one weight.
    insta::assert_snapshot!(segments(VIT, "dora@text + lora + dora@query"), @"");
    insta::assert_snapshot!(segments(VIT, "unfreeze + unfreeze[roles=[norm]]@text"), @"");
    // Of what the task never reads.
    insta::assert_snapshot!(segments(VIT, "clip-adapter"), @"");
    insta::assert_snapshot!(segments(VIT, "tip-adapter[keys=4, classes=2]"), @"");
    // Of places that the backbone does not have.
    insta::assert_snapshot!(segments(RESNET, "vpt"), @"");
    insta::assert_snapshot!(segments(RESNET, "convpass"), @"");
    insta::assert_snapshot!(segments(RESNET, "prefix@vision"), @"");
    insta::assert_snapshot!(segments(VIT, "conv-adapter"), @"");
    insta::assert_snapshot!(segments(VIT, "lora@text.blocks=12"), @"");
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
