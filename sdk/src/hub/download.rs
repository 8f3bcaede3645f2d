//! What the hub is asked, and how its answers come into the cache.
//!
//! Owns which files of a model are fetched, and resuming and checking them. How a request finds
//! its way is [`request`]'s.

mod request;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use self::request::{Body, Head, Question, Requests};
use super::cache::{Cache, failed, make_parent};
use super::{Away, HubError, HubId, HubOptions, Part, Progress, is_commit};
use crate::source::layout::{self, Names};
use crate::source::{Folder, SourceError};

/// Longest listing of a model that is read, in bytes.
const LONGEST_LISTING: u64 = 16 << 20;

/// Attempts in a row that bring no byte before a download is given up.
const ATTEMPTS: usize = 3;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// Bytes between two reports of progress.
const REPORTED: usize = 1 << 18;

/// The conversation of one process with a hub.
#[derive(Debug)]
pub(super) struct Downloads {
    requests: Requests,
    /// What the hub said of each id.
    listings: Mutex<BTreeMap<HubId, Listing>>,
}

/// What a revision holds.
#[derive(Clone, Debug)]
struct Listing {
    commit: String,
    names: Names,
}

/// One model's downloads.
struct Download<'a> {
    requests: &'a Requests,
    options: &'a HubOptions,
    cache: &'a Cache,
    id: &'a HubId,
    commit: &'a str,
    progress: &'a dyn Progress,
}

impl Downloads {
    pub fn new() -> Self {
        Self {
            requests: Requests::new(),
            listings: Mutex::default(),
        }
    }

    /// Fetches what the cache lacks of a part; returns the commit that the revision stands for.
    pub fn update(
        &self,
        options: &HubOptions,
        cache: &Cache,
        id: &HubId,
        part: Part,
        progress: &dyn Progress,
    ) -> Result<String, SourceError> {
        let Listing { commit, names } = self.listing(options, id)?;
        let download = Download {
            requests: &self.requests,
            options,
            cache,
            id,
            commit: &commit,
            progress,
        };
        for name in layout::DESCRIPTIONS {
            if names.contains(name) {
                download.fetch(name)?;
            }
        }
        if part >= Part::Tokenizer {
            for name in layout::vocabulary(&names) {
                download.fetch(name)?;
            }
        }
        if part >= Part::Everything {
            download.weights(&names)?;
        }
        let others = layout::DESCRIPTIONS
            .into_iter()
            .chain(layout::vocabularies());
        cache.mark_absent(&commit, others.filter(|name| !names.contains(*name)));
        cache.refer(&commit)?;
        Ok(commit)
    }

    fn listing(&self, options: &HubOptions, id: &HubId) -> Result<Listing, HubError> {
        let listings = || self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = listings().get(id) {
            return Ok(known.clone());
        }
        let listing = ask(&self.requests, options, id)?;
        listings().insert(id.clone(), listing.clone());
        Ok(listing)
    }
}

/// The hub's listing of a revision.
fn ask(requests: &Requests, options: &HubOptions, id: &HubId) -> Result<Listing, HubError> {
    #[derive(Deserialize)]
    struct Answer {
        sha: String,
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    let url = format!(
        "{}/api/models/{}/revision/{}",
        options.endpoint,
        id.model(),
        encoded(id.revision())
    );
    let question = Question {
        options,
        id,
        file: None,
    };
    let body = requests.short(question, &url, LONGEST_LISTING)?;
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|e| question.answer(&format!("it is no listing: {e}")))?;
    if !is_commit(&answer.sha) {
        return Err(question.answer("its `sha` is no commit"));
    }
    let names = answer.siblings.into_iter().map(|file| file.rfilename);
    Ok(Listing {
        commit: answer.sha,
        names: names.filter(|name| layout::is_plain(name)).collect(),
    })
}

impl Download<'_> {
    /// The weights, with their shards.
    fn weights(&self, names: &Names) -> Result<(), SourceError> {
        let Some(name) = layout::weights(names) else {
            return Err(SourceError::NoWeights {
                name: format!("`{}`", self.id),
                here: names.iter().cloned().collect(),
            });
        };
        self.fetch(name)?;
        // Of the folder, not of `name`: a file that another program fetched may be preferred.
        let folder: Folder = self.cache.folder(self.commit)?;
        match folder.weights() {
            Err(SourceError::ShardsMissing { missing, .. }) => {
                missing.iter().try_for_each(|shard| Ok(self.fetch(shard)?))
            }
            found => found.map(|_| ()),
        }
    }

    /// One file, unless it is there.
    fn fetch(&self, name: &str) -> Result<(), HubError> {
        if self.cache.has(self.commit, name) {
            return Ok(());
        }
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.options.endpoint,
            self.id.model(),
            self.commit,
            encoded(name)
        );
        let head = self.requests.head(self.question(name), &url)?;
        let waits = || {
            self.progress
                .note(&format!("waiting for another download of {name}"));
        };
        let _lock = self.cache.lock(&head.etag, waits)?;
        if !self.cache.blob(&head.etag).is_file() {
            self.transfer(name, &url, &head)?;
        }
        self.cache.link(self.commit, name, &head.etag)
    }

    fn question<'a>(&'a self, file: &'a str) -> Question<'a> {
        Question {
            options: self.options,
            id: self.id,
            file: Some(file),
        }
    }

    /// The content of a file, whole and checked.
    fn transfer(&self, name: &str, url: &str, head: &Head) -> Result<(), HubError> {
        let path = self.cache.growing(&head.etag);
        make_parent(&path)?;
        let mut growing = Growing::open(&path).map_err(failed("write", &path))?;
        // Without a length nobody can say whether what is left is a part or all.
        if head.size.is_none_or(|size| growing.len > size) {
            growing.clear().map_err(failed("write", &path))?;
        }
        let mut idle = 0;
        let mut furthest = growing.len;
        while let Err(stop) = self.grow(name, url, head, &mut growing) {
            let cause = match stop {
                Stop::Cut(cause) => cause,
                Stop::Disk(error) => return Err(failed("write", &path)(error)),
                Stop::Refused(error) => return Err(error),
            };
            idle = if growing.len > furthest { 0 } else { idle + 1 };
            furthest = furthest.max(growing.len);
            if idle == ATTEMPTS {
                return Err(HubError::Interrupted {
                    id: self.id.to_string(),
                    file: name.into(),
                    done: growing.len,
                    cause,
                });
            }
            thread::sleep(PAUSE);
        }
        let got = growing.digest();
        if head.is_digest() && got != head.etag {
            drop(growing);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            return Err(HubError::Digest {
                id: self.id.to_string(),
                file: name.into(),
                expected: head.etag.clone(),
                got,
            });
        }
        growing.file.sync_all().map_err(failed("sync", &path))?;
        fs::rename(&path, self.cache.blob(&head.etag)).map_err(failed("rename", &path))
    }

    /// Goes on with a file until its end, or until something stops it.
    fn grow(&self, name: &str, url: &str, head: &Head, growing: &mut Growing) -> Result<(), Stop> {
        let report = |growing: &Growing| self.progress.advance(name, growing.len, head.size);
        report(growing);
        if head.size == Some(growing.len) {
            return Ok(());
        }
        let question = self.question(name);
        let Body { mut bytes, start } = self.requests.body(question, url, growing.len)?;
        if start != growing.len {
            growing.clear().map_err(Stop::Disk)?;
        }
        let mut buffer = vec![0; REPORTED];
        loop {
            let read = match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Stop::Cut(error.to_string())),
            };
            growing.push(&buffer[..read]).map_err(Stop::Disk)?;
            report(growing);
            if head.size.is_some_and(|size| growing.len > size) {
                growing.clear().map_err(Stop::Disk)?;
                return Err(Stop::Cut("more came than the hub has".into()));
            }
        }
        match head.size {
            Some(size) if growing.len < size => Err(Stop::Cut(format!(
                "{} bytes are missing",
                size - growing.len
            ))),
            _ => Ok(()),
        }
    }
}

/// Why a file does not grow on.
enum Stop {
    /// The connection; another may do better.
    Cut(String),
    /// The disk.
    Disk(io::Error),
    /// The hub.
    Refused(HubError),
}

impl From<HubError> for Stop {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Away(Away::Unreachable { cause, .. }) => Self::Cut(cause),
            error => Self::Refused(error),
        }
    }
}

/// A file on its way, with the digest of what is there.
struct Growing {
    file: File,
    len: u64,
    hash: Sha256,
}

impl Growing {
    /// The file at `path`, new or as an earlier download left it.
    fn open(path: &std::path::Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut hash = Sha256::new();
        let len = io::copy(&mut file, &mut hash)?;
        Ok(Self { file, len, hash })
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash.reset();
        self.len = 0;
        Ok(())
    }

    /// SHA-256 of what is there, in hexadecimal digits.
    fn digest(&self) -> String {
        let digest = self.hash.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A revision or name as one part of an address.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes()
        .map(|b| match plain(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}
