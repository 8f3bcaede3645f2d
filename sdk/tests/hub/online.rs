//! Downloads: what is asked of whom, what comes into the cache, and what goes wrong.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::super::{Bench, COMMIT, ID, files, source};
use super::server::{Answer, Asked, Server};
use twinspan_sdk::hub::{Hub, HubOptions, Progress, Token};

/// What was told of downloads.
#[derive(Default)]
struct Told {
    notes: Mutex<Vec<String>>,
    steps: Mutex<Vec<(String, u64, Option<u64>)>>,
}

impl Progress for Told {
    fn advance(&self, file: &str, done: u64, total: Option<u64>) {
        self.steps.lock().unwrap().push((file.into(), done, total));
    }

    fn note(&self, note: &str) {
        self.notes.lock().unwrap().push(note.into());
    }
}

/// Longer than one read of a connection.
fn weights() -> Vec<u8> {
    (0..700_000u32)
        .flat_map(|i| i.wrapping_mul(i).to_le_bytes())
        .collect()
}

fn digest(content: &[u8]) -> String {
    let bytes = Sha256::digest(content);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const SMALL: [(&str, &str); 3] = [
    ("config.json", r#"{"model_type": "clip"}"#),
    ("vocab.json", "{}"),
    ("merges.txt", "#version"),
];

fn mark(name: &str) -> String {
    digest(name.as_bytes())[..40].to_string()
}

/// The listing of a model of `SMALL` and `more`.
fn listing(more: &[&str]) -> Answer {
    let names = SMALL
        .iter()
        .map(|(name, _)| *name)
        .chain(more.iter().copied());
    let names: Vec<String> = names
        .map(|n| format!(r#"{{"rfilename": "{n}"}}"#))
        .collect();
    let names = names.join(",");
    Answer::of(format!(r#"{{"sha": "{COMMIT}", "siblings": [{names}]}}"#))
}

/// Who keeps large files, for a hub that keeps the others.
fn hub(store: &Server, large: Vec<u8>) -> Server {
    let store = store.address.clone();
    Server::new(move |asked| {
        let parts: Vec<&str> = asked.path.split('/').skip(1).collect();
        match parts[..] {
            [
                "api",
                "models",
                "org",
                "clip",
                "revision",
                "main" | "v%2F1" | COMMIT,
            ] => listing(&["model.safetensors", "README.md", "../evil", "a/b.json"]),
            ["api", "models", "org", "clip", ..] => {
                Answer::status(404).with("X-Error-Code", "RevisionNotFound")
            }
            ["api", "models", "org", "bare", ..] => Answer::of(format!(
                r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "README.md"}}]}}"#
            )),
            ["api", "models", "org", "gone", ..] => listing(&["pytorch_model.bin"]),
            ["api", "models", "org", "gated", ..] => {
                Answer::status(403).with("X-Error-Code", "GatedRepo")
            }
            ["api", "models", "org", "private", ..] => Answer::status(401),
            ["api", ..] => Answer::status(404).with("X-Error-Code", "RepoNotFound"),
            [_, _, "resolve", COMMIT, "model.safetensors"] => Answer::status(302)
                .with("Location", format!("{store}/large"))
                .with("X-Linked-Etag", format!("\"{}\"", digest(&large)))
                .with("X-Linked-Size", large.len()),
            [_, _, "resolve", COMMIT, name] => {
                let small = SMALL.into_iter().find(|(known, _)| *known == name);
                match small {
                    None => Answer::status(404).with("X-Error-Code", "EntryNotFound"),
                    Some((_, content)) => {
                        Answer::of(content).with("ETag", format!("W/\"{}\"", mark(name)))
                    }
                }
            }
            _ => Answer::status(400),
        }
    })
}

/// A hub whose store sends the whole of what it is asked for.
fn sound() -> (Server, Server) {
    let store = Server::new(|asked| Answer::part(&weights(), asked));
    (hub(&store, weights()), store)
}

/// A hub whose store answers `n`th requests as `answer` says.
fn with_store(
    answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
) -> (Server, Server) {
    let count = AtomicUsize::new(0);
    let store = Server::new(move |asked| answer(count.fetch_add(1, Ordering::SeqCst), asked));
    (hub(&store, weights()), store)
}

fn paths(asked: &[Asked]) -> Vec<String> {
    asked
        .iter()
        .map(|a| format!("{} {}", a.method, a.path.replace(COMMIT, "COMMIT")))
        .collect()
}

fn blobs(bench: &Bench) -> Vec<String> {
    let Ok(entries) = fs::read_dir(bench.path("blobs")) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

#[test]
fn a_model_comes_into_the_cache_as_every_program_lays_it_out() {
    let (hub, store) = sound();
    let bench = Bench::new(&hub.address);
    let told = Told::default();
    let found = source(ID).files(&bench.hub(), &told).unwrap();
    assert_eq!(fs::read(&found.weights).unwrap(), weights());
    let place = bench.path(&format!("snapshots/{COMMIT}"));
    assert_eq!(found.weights, place.join("model.safetensors"));
    assert_eq!(found.tokenizer, Some(place.join("vocab.json")));
    assert_eq!(found.description.config().unwrap()["model_type"], "clip");

    assert_eq!(fs::read_to_string(bench.path("refs/main")).unwrap(), COMMIT);
    let mut expected: Vec<String> = SMALL.iter().map(|(name, _)| mark(name)).collect();
    expected.push(digest(&weights()));
    let mut kept = blobs(&bench);
    expected.sort();
    kept.sort();
    assert_eq!(kept, expected);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&found.weights).unwrap(),
        std::path::Path::new("../../blobs").join(digest(&weights()))
    );
    assert!(
        bench
            .path(&format!(".no_exist/{COMMIT}/tokenizer.json"))
            .is_file()
    );

    let steps = told.steps.lock().unwrap().clone();
    let size = weights().len() as u64;
    let large: Vec<_> = steps
        .iter()
        .filter(|(n, ..)| n == "model.safetensors")
        .collect();
    assert_eq!(large.first().unwrap().1, 0);
    assert_eq!(large.last().unwrap().1, size);
    assert!(
        large
            .iter()
            .all(|(_, done, total)| *done <= size && *total == Some(size))
    );
    assert!(large.is_sorted_by_key(|(_, done, _)| *done));
    assert!(told.notes.lock().unwrap().is_empty());

    // The token is the hub's alone.
    assert!(hub.asked().iter().all(Asked::has_token));
    let stored = store.asked();
    assert_eq!(paths(&stored), ["GET /large"]);
    assert!(!stored[0].has_token());
}

#[test]
fn a_redirect_to_another_port_of_the_same_name_shows_no_token() {
    let store = Server::new(|asked| Answer::part(b"{}", asked));
    let large = format!("{}/x", store.address);
    let hub = Server::new(move |asked| match asked.path.contains("/api/") {
        true if asked.path.contains("/new/") => listing(&["config.json"]),
        // Renamed: a redirect within the hub, which needs the token.
        true => Answer::status(307).with("Location", "/api/models/new/name/revision/main"),
        false => Answer::status(302)
            .with("Location", &large)
            .with("X-Linked-Etag", "abc")
            .with("X-Linked-Size", 2),
    });
    let bench = Bench::new(&hub.address);
    assert!(source("old/name").description(&bench.hub(), &()).is_ok());
    let (asked, stored) = (hub.asked(), store.asked());
    assert!(asked.len() >= 3 && asked.iter().all(Asked::has_token));
    assert_eq!(paths(&stored), ["GET /x"]);
    assert!(!stored[0].has_token());
}

#[test]
fn a_description_is_had_without_the_weights() {
    let (hub, store) = sound();
    let bench = Bench::new(&hub.address);
    let description = source(ID).description(&bench.hub(), &()).unwrap();
    assert!(description.config().is_some());
    assert_eq!(
        paths(&hub.asked()),
        [
            "GET /api/models/org/clip/revision/main",
            "HEAD /org/clip/resolve/COMMIT/config.json",
            "GET /org/clip/resolve/COMMIT/config.json",
        ]
    );
    assert!(store.asked().is_empty());
}

#[test]
fn what_is_in_the_cache_is_not_asked_for_again() {
    let (hub, store) = sound();
    let bench = Bench::new(&hub.address);
    let first = bench.hub();
    files(&first, ID).unwrap();
    hub.asked();
    store.asked();
    // One process asks what a branch is once, another asks again, and a commit is what it is.
    files(&first, ID).unwrap();
    assert!(hub.asked().is_empty());
    files(&bench.hub(), ID).unwrap();
    assert_eq!(
        paths(&hub.asked()),
        ["GET /api/models/org/clip/revision/main"]
    );
    files(&bench.hub(), &format!("{ID}@{COMMIT}")).unwrap();
    files(&bench.offline(), ID).unwrap();
    assert!(hub.asked().is_empty());
    assert!(store.asked().is_empty());
}

#[test]
fn a_revision_is_asked_for_by_name() {
    let (hub, _store) = sound();
    let bench = Bench::new(&hub.address);
    files(&bench.hub(), "org/clip@v/1").unwrap();
    assert_eq!(
        paths(&hub.asked())[0],
        "GET /api/models/org/clip/revision/v%2F1"
    );
    assert_eq!(fs::read_to_string(bench.path("refs/v/1")).unwrap(), COMMIT);
    assert!(files(&bench.offline(), "org/clip@v/1").is_ok());
    assert!(files(&bench.offline(), ID).is_err());
}

#[test]
fn a_connection_that_is_cut_is_taken_up_again() {
    let (hub, store) = with_store(|nth, asked| Answer {
        cut: (nth == 0).then_some(1_000_000),
        ..Answer::part(&weights(), asked)
    });
    let bench = Bench::new(&hub.address);
    let found = files(&bench.hub(), ID).unwrap();
    assert_eq!(fs::read(found.weights).unwrap(), weights());
    let from: Vec<_> = store.asked().iter().map(Asked::from).collect();
    assert_eq!(from, [None, Some(1_000_000)]);
}

#[test]
fn an_interrupted_download_goes_on_at_the_next_call() {
    let healthy = Arc::new(AtomicUsize::new(0));
    let well = healthy.clone();
    let (hub, store) = with_store(move |_, asked| {
        let sick = well.load(Ordering::SeqCst) == 0;
        let left = 1_000_000 - asked.from().unwrap_or(0);
        Answer {
            cut: sick.then_some(left),
            ..Answer::part(&weights(), asked)
        }
    });
    let bench = Bench::new(&hub.address);
    let text = bench.refusal(&bench.hub(), ID);
    insta::assert_snapshot!(text, @"the download of model.safetensors of `org/clip` broke off after 1000000 bytes (Peer disconnected); run this again to go on from there");
    let large = digest(&weights());
    assert!(blobs(&bench).contains(&format!("{large}.incomplete")));
    assert!(!blobs(&bench).contains(&large));
    assert!(
        !bench
            .path(&format!("snapshots/{COMMIT}/model.safetensors"))
            .exists()
    );
    assert!(files(&bench.offline(), ID).is_err());

    healthy.store(1, Ordering::SeqCst);
    store.asked();
    let told = Told::default();
    let found = source(ID).files(&bench.hub(), &told).unwrap();
    assert_eq!(fs::read(found.weights).unwrap(), weights());
    let from: Vec<_> = store.asked().iter().map(Asked::from).collect();
    assert_eq!(from, [Some(1_000_000)]);
    let steps = told.steps.lock().unwrap().clone();
    let first = steps.iter().find(|(name, ..)| name == "model.safetensors");
    assert_eq!(first.unwrap().1, 1_000_000);
    assert!(
        !blobs(&bench)
            .iter()
            .any(|name| name.ends_with("incomplete"))
    );
}

#[test]
fn a_store_that_knows_no_parts_starts_over() {
    let (hub, store) = with_store(|nth, _| Answer {
        cut: (nth == 0).then_some(1_000_000),
        ..Answer::of(weights())
    });
    let bench = Bench::new(&hub.address);
    let found = files(&bench.hub(), ID).unwrap();
    assert_eq!(fs::read(found.weights).unwrap(), weights());
    assert_eq!(store.asked().len(), 2);
}

#[test]
fn a_killed_download_that_was_complete_is_only_checked() {
    let (hub, store) = sound();
    let bench = Bench::new(&hub.address);
    let growing = bench.path(&format!("blobs/{}.incomplete", digest(&weights())));
    fs::create_dir_all(growing.parent().unwrap()).unwrap();
    fs::write(growing, weights()).unwrap();
    assert!(files(&bench.hub(), ID).is_ok());
    assert!(store.asked().is_empty());
}

#[test]
fn what_has_another_digest_is_removed() {
    let (hub, _store) = with_store(|_, asked| {
        let mut content = weights();
        content[1234] ^= 1;
        Answer::part(&content, asked)
    });
    let bench = Bench::new(&hub.address);
    insta::assert_snapshot!(bench.refusal(&bench.hub(), ID), @"model.safetensors of `org/clip` is damaged and was removed: its SHA-256 is c39e0cf9c78198fc339e02b7c72284adf21ddda53d23966dba541b39049d0eb6, and the hub says 8d93a42f8b8d2d2817bffb197e0d06c707949dd52ff12e49108412202afa7779; run this again, and if it is the same, something on the way changes files");
    assert!(
        !blobs(&bench)
            .iter()
            .any(|name| name.starts_with(&digest(&weights())))
    );
    assert!(
        !bench
            .path(&format!("snapshots/{COMMIT}/model.safetensors"))
            .exists()
    );
}

#[test]
fn refusals_say_what_to_do() {
    let (hub, _store) = sound();
    let bench = Bench::new(&hub.address);
    let anonymous = Hub::new(HubOptions {
        token: None,
        ..bench.options()
    });
    insta::assert_snapshot!(bench.refusal(&anonymous, "org/private"), @"HUB refuses `org/private` (401): there is none of that name, or it is private or gated; check the name, accept the licence on HUB/org/private, and set HF_TOKEN to a token of the account that did");
    insta::assert_snapshot!(bench.refusal(&bench.hub(), "org/gated"), @"HUB refuses `org/gated` (403): the token in HF_TOKEN or the token file does not open it; check the name, accept the licence on HUB/org/gated, and set HF_TOKEN to a token of the account that did");
    insta::assert_snapshot!(bench.refusal(&bench.hub(), "org/other"), @"there is no model `org/other` on HUB");
    insta::assert_snapshot!(bench.refusal(&bench.hub(), "org/clip@v2"), @"model `org/clip` has no revision `v2` on HUB: name a branch, tag or commit");
    insta::assert_snapshot!(bench.refusal(&bench.hub(), "org/gone"), @"`org/gone` has no file `pytorch_model.bin` on HUB");
    insta::assert_snapshot!(bench.refusal(&bench.hub(), "org/bare"), @"`org/bare` has no weights under a usual name, nor one weight file alone: looked for open_clip_model.safetensors, model.safetensors, model.safetensors.index.json, open_clip_pytorch_model.bin, pytorch_model.bin, pytorch_model.bin.index.json, or a single *.safetensors, *.pt or *.pth; it holds README.md");
}

#[test]
fn a_token_that_no_header_can_carry_is_not_shown() {
    let (hub, _store) = sound();
    let bench = Bench::new(&hub.address);
    let odd = Hub::new(HubOptions {
        token: Token::new("hf_sec\nret"),
        ..bench.options()
    });
    insta::assert_snapshot!(bench.refusal(&odd, ID), @"what HF_TOKEN or the token file holds is no token: it has characters that none has");
}

#[test]
fn a_hub_that_is_away_is_replaced_by_the_cache() {
    let (hub, _store) = sound();
    let mut bench = Bench::new(&hub.address);
    files(&bench.hub(), ID).unwrap();
    let busy = Server::new(|_| Answer::status(503));
    // A port that nobody listens at, and a hub that is down.
    for address in ["http://127.0.0.1:1", &busy.address] {
        bench.endpoint = address.into();
        let told = Told::default();
        assert!(source(ID).files(&bench.hub(), &told).is_ok());
        let notes = told.notes.lock().unwrap().clone();
        assert!(
            notes[0].ends_with("`org/clip` is taken from the cache"),
            "{notes:?}"
        );
        assert!(notes[0].contains(address), "{notes:?}");
        let cold = bench.refusal(&bench.hub(), "org/other");
        assert!(cold.contains("the cache lacks files of `org/other`, and HUB cannot be reached"));
    }
}

#[test]
fn shards_come_with_their_index() {
    let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    let hub = Server::new(move |asked| match asked.path.rsplit('/').next() {
        Some("main") => listing(&[
            "model.safetensors.index.json",
            "1.safetensors",
            "2.safetensors",
        ]),
        Some("model.safetensors.index.json") => Answer::of(index).with("ETag", "\"i\""),
        Some(name) if SMALL.iter().any(|(small, _)| *small == name) => {
            Answer::of("{}").with("ETag", "\"s\"")
        }
        Some("1.safetensors") => Answer::of("one").with("ETag", "\"one\""),
        Some("2.safetensors") => Answer::of("two").with("ETag", "\"two\""),
        _ => Answer::status(404),
    });
    let bench = Bench::new(&hub.address);
    let found = files(&bench.hub(), ID).unwrap();
    for (shard, content) in [("1.safetensors", "one"), ("2.safetensors", "two")] {
        let path = found.weights.with_file_name(shard);
        assert_eq!(fs::read_to_string(path).unwrap(), content);
    }
}

#[test]
fn answers_that_no_hub_gives_are_refused() {
    type Reply = fn(&Asked) -> Answer;
    let of_file = |answer: Reply| -> Server {
        Server::new(move |asked| match asked.path.contains("/api/") {
            true => listing(&[]),
            false => answer(asked),
        })
    };
    let refusal = |server: Server| {
        let bench = Bench::new(&server.address);
        let error = source(ID).description(&bench.hub(), &()).unwrap_err();
        assert!(blobs(&bench).is_empty());
        bench.plain(error)
    };
    insta::assert_snapshot!(refusal(Server::new(|_| Answer::of("<html>"))), @"HUB answers what cannot be used, for the files of `org/clip`: it is no listing: expected value at line 1 column 1");
    insta::assert_snapshot!(refusal(Server::new(|_| Answer::of(r#"{"sha": "../x", "siblings": []}"#))), @"HUB answers what cannot be used, for the files of `org/clip`: its `sha` is no commit");
    insta::assert_snapshot!(refusal(of_file(|_| Answer::of("{}"))), @"HUB answers what cannot be used, for config.json of `org/clip`: it has no ETag that marks the content");
    insta::assert_snapshot!(refusal(of_file(|_| Answer::of("{}").with("ETag", "../../x"))), @"HUB answers what cannot be used, for config.json of `org/clip`: it has no ETag that marks the content");
    insta::assert_snapshot!(refusal(of_file(|asked| Answer::status(302).with("Location", &asked.path))), @"HUB answers what cannot be used, for config.json of `org/clip`: it redirects without end");
    insta::assert_snapshot!(refusal(of_file(|_| Answer::status(302).with("Location", "file:///etc/passwd"))), @"HUB answers what cannot be used, for config.json of `org/clip`: an address is none, of http or https");
    insta::assert_snapshot!(refusal(of_file(|_| Answer::status(418))), @"HUB answers what cannot be used, for config.json of `org/clip`: its status is 418");
}
