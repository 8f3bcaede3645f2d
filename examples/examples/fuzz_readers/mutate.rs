//! Changes to valid files: in their bytes, their numbers, their text.

use crate::draws::Draws;

/// Inputs grow to this many bytes at most.
const LONGEST: usize = 1 << 16;

/// What JSON and vocabularies are made of, and what is wrong in them.
const WORDS: [&str; 36] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    " ",
    "null",
    "true",
    "-",
    "-1",
    "0",
    "1e999",
    "1e-999",
    "0.5",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "4294967296",
    "[[",
    "]]",
    "[]",
    "{}",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "</w>",
    "é",
    "#version",
    "../",
    "/",
    "\r\n",
];

/// Changes a file of bytes; `others` lend parts.
pub fn bytes(draws: &mut Draws, file: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..draws.size(2) {
        change(draws, file, others);
        file.truncate(LONGEST);
    }
}

/// Changes a text, which may be none afterwards.
pub fn text(draws: &mut Draws, file: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..draws.size(2) {
        match draws.below(6) {
            0 | 1 => number(draws, file),
            2 | 3 => {
                let times = if draws.once_in(8) { draws.size(12) } else { 1 };
                let word = draws.of(&WORDS).repeat(times);
                let at = place(draws, file);
                file.splice(at..at, word.bytes());
            }
            _ => change(draws, file, others),
        }
        file.truncate(LONGEST);
    }
}

fn change(draws: &mut Draws, file: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = place(draws, file);
    match draws.below(12) {
        0 | 1 => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << draws.below(8);
            }
        }
        2 => {
            if let Some(byte) = file.get_mut(at) {
                *byte = *draws.of(&[0, 1, 0x0a, 0x20, 0x7f, 0x80, 0xff]);
            }
        }
        3 => {
            if let Some(byte) = file.get_mut(at) {
                *byte = draws.byte();
            }
        }
        4 | 5 => integer(draws, file, at),
        6 => {
            let end = (at + draws.size(8)).min(file.len());
            file.drain(at..end);
        }
        7 => {
            let end = (at + draws.size(8)).min(file.len());
            let times = if draws.once_in(8) { draws.size(8) } else { 1 };
            let part = file[at..end].repeat(times.min(1 + LONGEST / (end - at + 1)));
            let to = place(draws, file);
            file.splice(to..to, part);
        }
        8 => {
            let other = draws.of(others);
            let from = place(draws, other);
            let end = (from + draws.size(8)).min(other.len());
            let until = (at + draws.size(8)).min(file.len());
            let until = if draws.once_in(2) { at } else { until };
            file.splice(at..until, other[from..end].iter().copied());
        }
        9 => file.truncate(at),
        10 => {
            let count = draws.size(4);
            let new: Vec<u8> = (0..count).map(|_| draws.byte()).collect();
            file.splice(at..at, new);
        }
        _ => number(draws, file),
    }
}

/// Somewhere in the file; near its ends, where headers and directories are, as often as inside.
fn place(draws: &mut Draws, file: &[u8]) -> usize {
    let near = draws.below(80).min(file.len());
    match draws.below(4) {
        0 => near,
        1 => file.len() - near,
        _ => draws.below(file.len() + 1),
    }
}

/// A whole number in place of the bytes at `at`.
fn integer(draws: &mut Draws, file: &mut [u8], at: usize) {
    let wide = draws.extreme().to_le_bytes();
    let width = *draws.of(&[1, 2, 4, 8]);
    for (to, from) in file.iter_mut().skip(at).zip(&wide[..width]) {
        *to = *from;
    }
}

/// Another number in place of one that is written in digits.
fn number(draws: &mut Draws, file: &mut Vec<u8>) {
    let from = place(draws, file);
    let Some(start) = file[from..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = from + start;
    let length = file[start..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let sign = if draws.once_in(8) { "-" } else { "" };
    let number = format!("{sign}{}", draws.extreme());
    file.splice(start..start + length, number.bytes());
}
