//! Options: what is taken, what is refused and in which words, and sizes that nobody has.

use twinspan_backbones::clip::{Clip, Preset};
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::registry::{self, BackboneEntry};

const SMALL: &str = r#"
    input_size = 32
    [model]
    embed_dim = 16
    activation = "gelu"
    vision = { kind = "vit", layers = 2, width = 64, heads = 2, patch = 8, image_size = 64 }
    text = { layers = 2, width = 64, context = 20, vocabulary = 600, mlp = 96 }
"#;

const RESNET: &str = r#"
    connect = true
    [model]
    embed_dim = 16
    vision = { kind = "resnet", layers = [1, 1, 1, 1], width = 8, head_width = 32, image_size = 64 }
    text = { layers = 2, width = 64, vocabulary = 600 }
"#;

fn refused(options: &str) -> String {
    match toml::from_str::<Clip>(options) {
        Err(error) => error.message().to_string(),
        Ok(clip) => {
            let error = clip.topology().unwrap_err();
            assert!(error.is_wrong_use(), "{error}");
            error.to_string()
        }
    }
}

#[test]
fn recipes_fill_in_every_default() {
    for options in ["", "preset = \"RN50x16\"", SMALL, RESNET] {
        let table: toml::Table = options.parse().unwrap();
        let first = registry::configured::<BackboneEntry>("clip", table).unwrap();
        let again = registry::configured::<BackboneEntry>("clip", first.options.clone()).unwrap();
        assert_eq!(first.options, again.options);
        let topology = |plugin: &dyn Backbone| plugin.topology().unwrap();
        assert_eq!(topology(&*first.plugin), topology(&*again.plugin));
    }
    let clip: Clip = toml::from_str("preset = \"ViT-L/14@336px\"").unwrap();
    assert_eq!(clip, Clip::preset(Preset::VitL14At336));
    assert_eq!(clip.preparation().size, 336);
}

#[test]
fn each_option_is_described() {
    let unknown = toml::from_str::<Clip>("nothing = 1").unwrap_err();
    let names: Vec<String> = Clip::OPTIONS
        .iter()
        .map(|o| format!("`{}`", o.name))
        .collect();
    let message = unknown.message();
    assert!(message.ends_with(&names.join(", ")), "{message}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let changed = |from: &str, to: &str| {
        let both = format!("{SMALL}\n#\n{RESNET}");
        assert!(both.contains(from), "{from}");
        match SMALL.contains(from) {
            true => refused(&SMALL.replace(from, to)),
            false => refused(&RESNET.replace(from, to)),
        }
    };
    for (from, to, message) in [
        (
            "heads = 2",
            "heads = 3",
            "vision.width = 64 is not a multiple of 3 (the number of heads)",
        ),
        (
            "input_size = 32",
            "pictures = { std = [0.5, 0.0, 0.5] }",
            "mean and std must be numbers, std above 0",
        ),
        (
            "context = 20",
            "context = 20, last = { padding = 0, end = 600 }",
            "text.last.end = 600: the vocabulary has 600 ids",
        ),
        (
            "heads = 2",
            "head_width = 48",
            "vision.width = 64 is not a multiple of 48 (the head width)",
        ),
        (
            "heads = 2",
            "heads = 2, head_width = 32",
            "vision.heads and vision.head_width say the same",
        ),
        (
            "input_size = 32",
            "input_size = 36",
            "input_size = 36 is not a multiple of 8 (the patch)",
        ),
        (
            "input_size = 32",
            "connect = true",
            "connect is the residual of a ResNet's attention pool",
        ),
        ("layers = 2", "layers = 0", "layers = 0: give 1 to 1024"),
        (
            "connect = true",
            "input_size = 80",
            "input_size = 80 is not a multiple of 32 (the ResNet's whole stride)",
        ),
        (
            "width = 8,",
            "width = 9,",
            "vision.width = 9 is not a multiple of 2",
        ),
        (
            "head_width = 32",
            "head_width = 48",
            "32 x vision.width = 256 is not a multiple of 48",
        ),
        (
            "\"gelu\"",
            "\"relu\"",
            "expected one of `quick-gelu`, `gelu`, `gelu-tanh`",
        ),
        ("patch = 8", "patches = 8", "unknown field `patches`"),
        ("\"resnet\"", "\"swin\"", "expected `vit` or `resnet`"),
    ] {
        let got = changed(from, to);
        assert!(got.contains(message), "{to}: {got}");
    }
    let preset = refused("preset = \"ViT-B/8\"");
    assert!(preset.contains("`ViT-B/16`"), "{preset}");
}

#[test]
fn no_size_panics() {
    let numbers = [
        "0",
        "1",
        "2",
        "3",
        "65536",
        "4294967296",
        "9223372036854775807",
    ];
    for options in [SMALL, RESNET] {
        let fields: Vec<(usize, &str)> = options
            .match_indices(|c: char| c.is_ascii_digit())
            .filter(|(i, _)| !options[..*i].ends_with(|c: char| c.is_ascii_digit()))
            .collect();
        for (at, _) in fields {
            let rest = &options[at..];
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
            for number in numbers {
                let changed = format!("{}{number}{}", &options[..at], &rest[end..]);
                let clip: Clip = toml::from_str(&changed).unwrap();
                let topology = clip.topology();
                assert_eq!(topology.is_ok(), clip.layouts().is_ok());
                assert_eq!(topology.is_ok(), clip.openai_map("x.").is_ok());
                clip.preparation();
                if let Ok(topology) = topology {
                    assert!(topology.parameter_count() > 0);
                }
            }
        }
    }
}

#[test]
fn a_tokenizer_fits_its_model() {
    let words = |options: &str| {
        let clip: Clip = toml::from_str(options).unwrap();
        clip.tokenizer(None)
    };
    let tokenizer = words(SMALL).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(tokenizer.vocabulary(), 514);
    let encoded = tokenizer.encode("a cat", 8);
    assert_eq!(encoded.ids.len(), 8);
    let highest = encoded.ids.iter().max().unwrap();
    assert_eq!(&encoded.ids[encoded.end as usize], highest);
    assert_eq!(tokenizer.encode("a very long sentence", 4).end, 3);
    let few = SMALL.replace("vocabulary = 600", "vocabulary = 513");
    let error = words(&few).err().unwrap();
    assert!(error.is_wrong_use());
    let message = error.to_string();
    assert!(
        message.contains("bpe_simple_vocab_16e6.txt.gz"),
        "{message}"
    );
}
