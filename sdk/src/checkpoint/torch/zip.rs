//! The directory of a zip archive whose entries are stored, not compressed.
//!
//! Owns names and places; `torch.save` never compresses, so an entry's bytes are a slice of the
//! file and a tensor can stay in the mapping. Compressed entries are listed and refused when
//! asked for. Checksums are not verified: that would read the whole file.

use std::collections::HashMap;
use std::ops::Range;

use crate::checkpoint::{Refused, damaged, shown};

/// Fixed part of the end-of-directory record.
const END: usize = 22;
/// Fixed part of a directory entry.
const ENTRY: usize = 46;
/// Fixed part of the header in front of an entry's bytes.
const LOCAL: usize = 30;

/// Where the entries of an archive lie.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a str, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    stored: bool,
    header: u64,
    size: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the end of `bytes`.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Refused> {
        let (mut at, count) = find_directory(bytes)?;
        let mut entries = HashMap::new();
        for _ in 0..count {
            let fixed = at
                .checked_add(ENTRY)
                .and_then(|end| bytes.get(at..end))
                .filter(|fixed| fixed.starts_with(b"PK\x01\x02"))
                .ok_or_else(|| damaged("its zip directory ends early"))?;
            let [name, extra, comment] = [28, 30, 32].map(|i| usize::from(u16_at(fixed, i)));
            let name_at = at + ENTRY;
            let next = name_at + name + extra + comment;
            if next > bytes.len() {
                return Err(damaged("its zip directory ends early"));
            }
            let extra = &bytes[name_at + name..name_at + name + extra];
            let name = std::str::from_utf8(&bytes[name_at..name_at + name])
                .map_err(|_| damaged("a name in its zip directory is not UTF-8"))?;
            let (size, header) = widen([24, 20, 42].map(|i| u32_at(fixed, i)), extra)?;
            // Bit 0 of the flags: encrypted.
            let stored = u16_at(fixed, 10) == 0 && u16_at(fixed, 8) & 1 == 0;
            entries.insert(
                name,
                Entry {
                    stored,
                    header,
                    size,
                },
            );
            at = next;
        }
        Ok(Self { bytes, entries })
    }

    /// The entries' names, unordered.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Where the bytes of the entry called `name` lie in the file; `None` if there is none.
    pub(super) fn place(&self, name: &str) -> Result<Option<Range<usize>>, Refused> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        if !entry.stored {
            return Err(damaged(format!(
                "its entry `{}` is compressed or encrypted, which torch.save never does",
                shown(name)
            )));
        }
        let outside = || damaged(format!("its entry `{}` leaves the file", shown(name)));
        let header = usize::try_from(entry.header).map_err(|_| outside())?;
        let fixed = header
            .checked_add(LOCAL)
            .and_then(|end| self.bytes.get(header..end))
            .filter(|fixed| fixed.starts_with(b"PK\x03\x04"))
            .ok_or_else(outside)?;
        // The extra field here differs from the directory's: torch pads with it to align data.
        let start =
            header + LOCAL + usize::from(u16_at(fixed, 26)) + usize::from(u16_at(fixed, 28));
        let end = usize::try_from(entry.size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .filter(|&end| end <= self.bytes.len())
            .ok_or_else(outside)?;
        Ok(Some(start..end))
    }
}

/// Where the directory begins and how many entries it has.
fn find_directory(bytes: &[u8]) -> Result<(usize, u64), Refused> {
    let cut = || {
        damaged(format!(
            "it is a zip archive without the directory at its end, so it is cut short after {} \
             bytes; fetch it again",
            bytes.len()
        ))
    };
    // The record is last, but for a comment of at most 65535 bytes.
    let last = bytes.len().checked_sub(END).ok_or_else(cut)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last)
        .rev()
        .find(|&at| {
            bytes[at..].starts_with(b"PK\x05\x06")
                && usize::from(u16_at(&bytes[at..], 20)) == last - at
        })
        .ok_or_else(cut)?;
    let record = &bytes[end..];
    let (mut count, mut start) = (u64::from(u16_at(record, 10)), u64::from(u32_at(record, 16)));
    // Zip64: a locator directly in front says where the wide record is.
    if let Some(locator) = end.checked_sub(20).map(|at| &bytes[at..end])
        && locator.starts_with(b"PK\x06\x07")
    {
        let wide = usize::try_from(u64_at(locator, 8))
            .ok()
            .and_then(|at| bytes.get(at..at.checked_add(56)?))
            .filter(|wide| wide.starts_with(b"PK\x06\x06"))
            .ok_or_else(|| damaged("its zip64 directory is not where it should be"))?;
        (count, start) = (u64_at(wide, 32), u64_at(wide, 48));
    }
    let start = usize::try_from(start)
        .ok()
        .filter(|&start| start <= end)
        .ok_or_else(|| damaged("its zip directory is not where it should be"))?;
    Ok((start, count))
}

/// Size and header offset of an entry, from its fields size, compressed size and header offset:
/// those that are all ones are in the zip64 extra field, in this order.
fn widen(narrow: [u32; 3], mut extra: &[u8]) -> Result<(u64, u64), Refused> {
    let mut wide = narrow.map(u64::from);
    if narrow.contains(&u32::MAX) {
        let lacks = || damaged("an entry of its zip64 directory lacks its size");
        let numbers = loop {
            let [id, length] = [0, 2].map(|i| extra.get(i..i + 2).map(|n| u16_at(n, 0)));
            let (id, length) = id.zip(length).ok_or_else(lacks)?;
            let end = 4 + usize::from(length);
            let field = extra.get(4..end).ok_or_else(lacks)?;
            if id == 1 {
                break field;
            }
            extra = &extra[end..];
        };
        let mut numbers = numbers.chunks_exact(8).map(|n| u64_at(n, 0));
        for (wide, narrow) in wide.iter_mut().zip(narrow) {
            if narrow == u32::MAX {
                *wide = numbers.next().ok_or_else(lacks)?;
            }
        }
    }
    Ok((wide[0], wide[2]))
}

/// Little-endian numbers; the callers have checked that `at` lies inside.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
