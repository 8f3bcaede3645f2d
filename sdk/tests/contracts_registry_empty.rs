//! A program that links no plugin is asked whether it meant to.

use twinspan_sdk::recipe::Recipe;

#[test]
fn an_empty_registry_asks_for_the_plugin_crate() {
    let text = "[backbone]\nuse = \"clip\"\n[task]\nuse = \"x\"";
    let message = Recipe::parse(text, "recipe").err().unwrap().to_string();
    assert_eq!(
        message,
        "no backbone is registered: is the plugin crate linked? A crate that is only listed in \
         Cargo.toml is not; write `use twinspan_backbones as _;` or use the crate `twinspan`"
    );
    let unnamed = "[backbone]\n[task]\nuse = \"x\"";
    let message = Recipe::parse(unnamed, "recipe").err().unwrap().to_string();
    assert!(message.starts_with("no backbone is registered"));
}
