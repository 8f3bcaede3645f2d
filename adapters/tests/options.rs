//! Every adapter's options: documented, round-tripping, and misspelt with a helpful answer.

use twinspan_adapters as _;
use twinspan_sdk::registry::{AdapterEntry, configured, entries};

#[test]
fn every_option_is_documented() {
    for entry in entries::<AdapterEntry>().unwrap() {
        let plugin = configured::<AdapterEntry>(entry.name, Default::default()).unwrap();
        let mut fields: Vec<&str> = plugin.options.keys().map(String::as_str).collect();
        let mut documented: Vec<&str> = entry.options.iter().map(|o| o.name).collect();
        fields.sort_unstable();
        documented.sort_unstable();
        assert_eq!(fields, documented, "{}", entry.name);
    }
}

#[test]
fn defaults_round_trip_through_toml() {
    for entry in entries::<AdapterEntry>().unwrap() {
        let plugin = configured::<AdapterEntry>(entry.name, Default::default()).unwrap();
        let text = toml::to_string_pretty(&plugin.options).unwrap();
        let again = configured::<AdapterEntry>(entry.name, text.parse().unwrap()).unwrap();
        assert_eq!(plugin.options, again.options, "{}", entry.name);
    }
}

#[test]
fn an_unknown_option_is_answered_with_the_known_ones() {
    for entry in entries::<AdapterEntry>().unwrap() {
        let table = "nonsense = 1".parse().unwrap();
        let error = configured::<AdapterEntry>(entry.name, table).err().unwrap();
        let message = error.to_string();
        assert!(message.contains("`nonsense`"), "{message}");
        for option in entry.options {
            assert!(message.contains(option.name), "{message}");
        }
    }
}

#[test]
fn a_wrong_choice_is_answered_with_the_choices() {
    let wrong = |name: &str, text: &str| {
        let table = text.parse().unwrap();
        configured::<AdapterEntry>(name, table)
            .err()
            .unwrap()
            .to_string()
    };
    let fusion = wrong("bridger", "fusion = \"gated\"");
    assert!(
        fusion.contains("`gate`") && fusion.contains("`transformer`"),
        "{fusion}"
    );
    let zoom = wrong("bridger", "zoom = \"bicubic\"");
    assert!(
        zoom.contains("`conv-interpolate`") && zoom.contains("`mlp`"),
        "{zoom}"
    );
    let placement = wrong("adapter", "placement = \"before\"");
    assert!(
        placement.contains("`houlsby`") && placement.contains("`parallel`"),
        "{placement}"
    );
    let width = wrong("adapter", "width = \"wide\"");
    assert!(width.contains("expected a number or `auto`"), "{width}");
    let roles = wrong("unfreeze", "roles = [\"biases\"]");
    assert!(
        roles.contains("`bias`") && roles.contains("`all`"),
        "{roles}"
    );
}

#[test]
fn a_number_that_is_left_open_is_written_as_auto() {
    let of = |text: &str| configured::<AdapterEntry>("adapter", text.parse().unwrap());
    assert_eq!(of("").unwrap().options["width"].as_str(), Some("auto"));
    let set = of("width = 4\nscale = 1").unwrap().options;
    assert_eq!(set["width"].as_integer(), Some(4));
    assert_eq!(set["scale"].as_float(), Some(1.0));
    assert_eq!(set["dropout"].as_str(), Some("auto"));
}

#[test]
fn zoom_as_released_may_be_called_auto() {
    let table = "zoom = \"auto\"".parse().unwrap();
    let bridger = configured::<AdapterEntry>("bridger", table).unwrap();
    assert_eq!(bridger.options["zoom"].as_str(), Some("conv-deconv"));
}
