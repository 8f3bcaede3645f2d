//! What a file is, by its first bytes.
//!
//! Owns the recognition only; no format is read here.

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Safetensors,
    Zip,
    LegacyTorch,
    /// A JSON object: an index of shards, or something else.
    Json,
    /// Something else, named for an error message.
    Other(&'static str),
}

/// The longest header that the safetensors format allows, in bytes.
pub(super) const LONGEST_HEADER: u64 = 100_000_000;

/// The pickled number with which `torch.save` began its files before 1.6: opcode LONG1, ten bytes
/// long.
const LEGACY_TORCH: &[u8] = b"\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The opcodes in front of it: PROTO, and from protocol 4 on FRAME.
const PREFIXES: [usize; 2] = [2, 11];

/// Beginnings of files that are mistaken for weights, most specific first.
const OTHERS: &[(&[u8], &str)] = &[
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it points to",
    ),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x80", "a Python pickle that torch.save did not write"),
    (b"<", "a web page or XML (a failed download?)"),
    (b"[", "JSON or TOML text"),
];

/// Recognises a file by its content.
pub(super) fn of(bytes: &[u8]) -> Kind {
    if bytes.starts_with(b"PK\x03\x04") {
        return Kind::Zip;
    }
    let behind = |prefix: usize| {
        bytes
            .get(prefix..)
            .is_some_and(|b| b.starts_with(LEGACY_TORCH))
    };
    if bytes.starts_with(b"\x80") && PREFIXES.into_iter().any(behind) {
        return Kind::LegacyTorch;
    }
    if let Some((header, rest)) = bytes.split_first_chunk::<8>()
        && u64::from_le_bytes(*header) <= LONGEST_HEADER
        && rest.first() == Some(&b'{')
    {
        return Kind::Safetensors;
    }
    if bytes.trim_ascii_start().starts_with(b"{") {
        return Kind::Json;
    }
    if let Some((_, name)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Kind::Other(name);
    }
    let head = &bytes[..bytes.len().min(512)];
    let text = head
        .iter()
        .all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..));
    Kind::Other(if text {
        "text"
    } else {
        "data of an unknown kind"
    })
}
