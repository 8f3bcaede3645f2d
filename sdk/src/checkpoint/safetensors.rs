//! The directory of a `.safetensors` file.
//!
//! Owns the header and its checks; the values stay in the mapping. The header is checked here
//! rather than by the `safetensors` crate because its errors name neither the tensor nor the
//! missing bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::DType;
use memmap2::Mmap;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{HIGHEST_RANK, Named, Refused, byte_count, damaged, kind::LONGEST_HEADER, shown};
use crate::frozen::Frozen;

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    lines: BTreeMap<String, Line>,
}

#[derive(Deserialize)]
struct Line {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

pub(super) fn read(map: &Arc<Mmap>) -> Result<Named, Refused> {
    let (header, data) = split(map)?;
    let Header { lines, .. } = serde_json::from_slice(header).map_err(|e| {
        damaged(format!(
            "its header is not the JSON of a safetensors file: {e}"
        ))
    })?;

    let mut named = Named::default();
    let mut spans = Vec::with_capacity(lines.len());
    for (name, line) in lines {
        let Line {
            dtype,
            shape,
            data_offsets: (start, end),
        } = line;
        if start > end {
            return Err(damaged(format!(
                "`{}` begins at byte {start} and ends at {end}",
                shown(&name)
            )));
        }
        if shape.len() > HIGHEST_RANK {
            return Err(damaged(format!(
                "`{}` has {} dimensions, and {HIGHEST_RANK} are the most that are read",
                shown(&name),
                shape.len()
            )));
        }
        spans.push((start, end, name.clone()));
        match dtype_named(&dtype) {
            None => {
                named.skipped.insert(name, shown(&dtype));
            }
            Some(dtype) => {
                if byte_count(&shape, dtype) != Some(end - start) {
                    return Err(damaged(format!(
                        "`{}` has {} bytes, which is not {shape:?} of {dtype:?}",
                        shown(&name),
                        end - start
                    )));
                }
                let whole = data.saturating_add(end);
                if whole <= map.len() {
                    // SAFETY: `Checkpoint` maps files, read only.
                    let tensor = unsafe { Frozen::mapped(map.clone(), data + start, dtype, shape) }
                        .map_err(|e| damaged(e.to_string()))?;
                    named.tensors.insert(name, tensor);
                }
            }
        }
    }
    check_spans(spans, map.len(), data)?;
    Ok(named)
}

/// The header's bytes and where the data begins.
fn split(map: &[u8]) -> Result<(&[u8], usize), Refused> {
    let Some((length, rest)) = map.split_first_chunk::<8>() else {
        return Err(damaged("it has no header"));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(damaged(format!("its header claims {length} bytes")));
    }
    match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
        Some(header) => Ok((header, 8 + header.len())),
        None => Err(damaged(format!(
            "it is cut short inside its header, at least {} bytes are missing; fetch it again",
            length - rest.len() as u64
        ))),
    }
}

/// The tensors must cover the data without overlap, gap or rest, and the file must hold them.
fn check_spans(
    mut spans: Vec<(usize, usize, String)>,
    file: usize,
    data: usize,
) -> Result<(), Refused> {
    spans.sort();
    let mut reached = 0;
    let mut last = String::new();
    for (start, end, name) in spans {
        if start != reached {
            let problem = if start < reached {
                format!("`{}` overlaps `{}`", shown(&name), shown(&last))
            } else {
                format!(
                    "bytes {reached} to {start} before `{}` belong to no tensor",
                    shown(&name)
                )
            };
            return Err(damaged(problem));
        }
        (reached, last) = (end, name);
    }
    let (held, whole) = (file as u64, (data as u64).saturating_add(reached as u64));
    if whole > held {
        return Err(Refused::Truncated {
            missing: whole - held,
            whole,
        });
    }
    if whole < held {
        return Err(damaged(format!(
            "{} bytes follow its last tensor",
            held - whole
        )));
    }
    Ok(())
}

/// The element type behind a safetensors name; `None` for those that are not read.
fn dtype_named(name: &str) -> Option<DType> {
    Some(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I16" => DType::I16,
        "U32" => DType::U32,
        "U8" => DType::U8,
        _ => return None,
    })
}
