//! Two plugins of one name are refused, whichever is asked for.

use twinspan_sdk::recipe::Recipe;
use twinspan_sdk::register;
use twinspan_sdk::registry::{BackboneEntry, entries};
use twinspan_sdk::testkit::Toy;

register!(backbone: Toy);
register!(backbone: Toy);

#[test]
fn a_name_belongs_to_one_plugin() {
    let text = "[backbone]\nuse = \"other\"\n[task]\nuse = \"x\"";
    let error = Recipe::parse(text, "recipe").err().unwrap();
    assert_eq!(
        error.to_string(),
        "two backbones are called `toy`; a name must be free"
    );
    assert!(entries::<BackboneEntry>().is_err());
}
