//! Models of the hub, against a server of these tests' own that plays it, and against a cache.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use twinspan_sdk::hub::{Hub, HubOptions, Token};
use twinspan_sdk::source::{Files, Source, SourceError};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const ID: &str = "org/clip";

fn source(id: &str) -> Source {
    Source::parse(&format!("hf-hub:{id}"), Path::new("")).unwrap()
}

fn files(hub: &Hub, id: &str) -> Result<Files, SourceError> {
    source(id).files(hub, &())
}

/// A cache in a folder of its own, and the options that lead to it.
struct Bench {
    cache: TempDir,
    endpoint: String,
}

impl Bench {
    fn new(endpoint: &str) -> Self {
        Self {
            cache: tempfile::tempdir().unwrap(),
            endpoint: endpoint.into(),
        }
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            cache: self.cache.path().into(),
            endpoint: self.endpoint.clone(),
            token: Token::new("hf_secret"),
            offline: false,
        }
    }

    /// A process of its own, as it were: what another one was told is forgotten.
    fn hub(&self) -> Hub {
        Hub::new(self.options())
    }

    fn offline(&self) -> Hub {
        Hub::new(HubOptions {
            offline: true,
            ..self.options()
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.cache.path().join("models--org--clip").join(path)
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A text with this bench's places by name.
    fn plain(&self, text: impl ToString) -> String {
        text.to_string()
            .replace(self.cache.path().to_str().unwrap(), "CACHE")
            .replace(&self.endpoint, "HUB")
    }

    fn refusal(&self, hub: &Hub, id: &str) -> String {
        self.plain(files(hub, id).unwrap_err())
    }
}

#[test]
fn a_warm_cache_needs_no_network() {
    let bench = Bench::new("http://127.0.0.1:1");
    bench.put("refs/main", COMMIT);
    bench.put(&format!("snapshots/{COMMIT}/model.safetensors"), "w");
    bench.put(&format!("snapshots/{COMMIT}/config.json"), "{}");
    bench.put(&format!("snapshots/{COMMIT}/tokenizer.json"), "{}");
    for id in [ID.to_string(), format!("{ID}@{COMMIT}")] {
        let found = files(&bench.offline(), &id).unwrap();
        let place = bench.path(&format!("snapshots/{COMMIT}"));
        assert_eq!(found.name, id);
        assert_eq!(found.weights, place.join("model.safetensors"));
        assert_eq!(found.tokenizer, Some(place.join("tokenizer.json")));
        assert!(found.description.config().is_some());
    }
}

#[test]
fn a_cold_cache_without_network_says_what_goes_where() {
    let bench = Bench::new("http://127.0.0.1:1");
    let hub = bench.offline();
    insta::assert_snapshot!(bench.refusal(&hub, ID), @"the cache lacks files of `org/clip`, and HF_HUB_OFFLINE is set: unset it where there is a network; or put into CACHE/models--org--clip/snapshots/main by hand: model.safetensors, config.json or open_clip_config.json, preprocessor_config.json, tokenizer_config.json and tokenizer.json, as far as the model has them; or name a folder that holds them");
    let refusal = source("org/clip@v2").description(&hub, &()).unwrap_err();
    insta::assert_snapshot!(bench.plain(refusal), @"the cache lacks files of `org/clip@v2`, and HF_HUB_OFFLINE is set: unset it where there is a network; or put into CACHE/models--org--clip/snapshots/v2 by hand: config.json or open_clip_config.json, and preprocessor_config.json and tokenizer_config.json where the model has them; or name a folder that holds them");
    // Following it works.
    bench.put(
        "snapshots/main/model.safetensors.index.json",
        r#"{"weight_map": {"a": "1.safetensors"}}"#,
    );
    insta::assert_snapshot!(bench.refusal(&hub, ID), @"the cache lacks files of `org/clip`, and HF_HUB_OFFLINE is set: unset it where there is a network; or put into CACHE/models--org--clip/snapshots/main by hand: 1.safetensors; or name a folder that holds them");
    bench.put("snapshots/main/1.safetensors", "w");
    assert!(files(&hub, ID).is_ok());
    // The description is there without its weights, and the other way round.
    bench.put("refs/v3", "v3");
    bench.put("snapshots/v3/config.json", "{}");
    assert!(source("org/clip@v3").description(&hub, &()).is_ok());
    assert!(source("org/clip@v3").tokenizer(&hub, &()).is_err());
    insta::assert_snapshot!(bench.refusal(&hub, "org/clip@v3"), @"the cache lacks files of `org/clip@v3`, and HF_HUB_OFFLINE is set: unset it where there is a network; or put into CACHE/models--org--clip/snapshots/v3 by hand: model.safetensors, config.json or open_clip_config.json, preprocessor_config.json, tokenizer_config.json and tokenizer.json, as far as the model has them; or name a folder that holds them");
}

#[test]
fn a_reference_leads_nowhere_else() {
    let bench = Bench::new("http://127.0.0.1:1");
    bench.put("refs/main", "../../elsewhere");
    let text = bench.refusal(&bench.offline(), ID);
    assert!(
        text.contains("CACHE/models--org--clip/snapshots/main"),
        "{text}"
    );
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_build_without_downloads_says_so() {
    let bench = Bench::new("http://127.0.0.1:1");
    insta::assert_snapshot!(bench.refusal(&bench.hub(), ID), @"the cache lacks files of `org/clip`, and this build has no downloads (its feature `hub` is off): use one that has them; or put into CACHE/models--org--clip/snapshots/main by hand: model.safetensors, config.json or open_clip_config.json, preprocessor_config.json, tokenizer_config.json and tokenizer.json, as far as the model has them; or name a folder that holds them");
    bench.put("refs/main", COMMIT);
    bench.put(&format!("snapshots/{COMMIT}/model.safetensors"), "w");
    assert!(files(&bench.hub(), ID).is_ok());
}

#[cfg(feature = "hub")]
mod hub {
    mod online;
    mod server;
}
