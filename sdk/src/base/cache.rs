//! The digest of a base, kept beside its weight file.
//!
//! Owns the text of `PATH.digest` and when it holds. A cache that is missing, stale, damaged or
//! not writable costs time and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use candle_core::Result;

use super::digest;
use crate::file::write_whole;
use crate::frozen::Frozen;

/// The digest of `tensors`, which were read from `file`: the cached one if it holds.
pub(super) fn digest(file: &Path, tensors: &BTreeMap<String, Frozen>) -> Result<String> {
    let mut place = PathBuf::from(file).into_os_string();
    place.push(".digest");
    let place = PathBuf::from(place);

    let Some(identity) = identity(file, tensors)? else {
        return digest::of(tensors);
    };
    if let Ok(text) = fs::read_to_string(&place)
        && let Some(cached) = text.strip_prefix(&identity)
        && is_digest(cached.trim_end())
    {
        return Ok(cached.trim_end().into());
    }
    let digest = digest::of(tensors)?;
    // In a folder that is read only the next opening computes it again.
    let _ = write_whole(&place, |out| writeln!(out, "{identity}{digest}"));
    Ok(digest)
}

/// The lines in front of the digest: what it is the digest of. `None` where the system does not
/// tell a file's time.
fn identity(file: &Path, tensors: &BTreeMap<String, Frozen>) -> Result<Option<String>> {
    let Ok(metadata) = fs::metadata(file) else {
        return Ok(None);
    };
    let Some(time) = metadata
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
    else {
        return Ok(None);
    };
    let fingerprint = digest::fingerprint(tensors)?;
    Ok(Some(format!(
        "length {}\nmodified {}.{:09}\nread as {fingerprint}\ndigest ",
        metadata.len(),
        time.as_secs(),
        time.subsec_nanos()
    )))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
