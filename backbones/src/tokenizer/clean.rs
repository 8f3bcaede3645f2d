//! The cleaning in front of CLIP's tokenizer.
//!
//! Owns what OpenAI's code does to a sentence before it is split: ftfy's repairs, HTML
//! unescaping, white space, lower case. Of ftfy everything is done but the repair of text that
//! was decoded with the wrong encoding (mojibake).

use std::borrow::Cow;

use tokenizers::normalizers::unicode::{NFC, NFKC};
use tokenizers::{NormalizedString, Normalizer};

use super::entities;

/// What Windows puts where Latin-1 has control characters 0x80 to 0x9f.
const WINDOWS_1252: &[char; 32] = &[
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The sentence in lower case, repaired, with single spaces between its words.
pub(super) fn clean(sentence: &str) -> String {
    let plain = |b: u8| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~') && b != b'&';
    let text = if sentence.bytes().all(plain) {
        Cow::Borrowed(sentence)
    } else {
        let fixed = fix(sentence);
        Cow::Owned(entities::unescape(&entities::unescape(&fixed)))
    };
    let mut words = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    words.to_lowercase()
}

/// The repairs of ftfy 6, in its order.
fn fix(text: &str) -> String {
    // Where there is a tag the text is taken for HTML that is meant to be.
    let text = if text.contains('<') {
        text.into()
    } else {
        entities::unescape_closed(text)
    };
    let mut fixed = String::with_capacity(text.len());
    for character in text.chars() {
        push_fixed(windows(character), &mut fixed);
    }
    let fixed = without_terminal_escapes(&fixed);
    let kept: String = fixed.chars().filter(|&c| !is_control(c)).collect();
    normalized(&NFC, kept)
}

/// The character that Windows shows for a control character 0x80 to 0x9f.
pub(super) fn windows(character: char) -> char {
    match u32::from(character).checked_sub(0x80) {
        Some(place) => *WINDOWS_1252.get(place as usize).unwrap_or(&character),
        None => character,
    }
}

/// Ligatures of Latin letters, full and half width, and quotes.
fn push_fixed(character: char, out: &mut String) {
    let letters = match character {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        '\u{3000}' => " ",
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\u{ff01}'..='\u{ffef}' => {
            return out.push_str(&normalized(&NFKC, character.into()));
        }
        _ => return out.push(character),
    };
    out.push_str(letters);
}

/// Without `ESC [ numbers letter`, which colours a terminal's text.
fn without_terminal_escapes(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match rest.strip_prefix(|c: char| c.is_ascii_alphabetic()) {
            Some(rest) => out.push_str(rest),
            None => {
                out.push('[');
                out.push_str(part);
            }
        }
    }
    out
}

/// Characters that show nothing and mean nothing in a sentence.
fn is_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
    )
}

fn normalized(form: &impl Normalizer, text: String) -> String {
    let mut string = NormalizedString::from(text);
    // The Unicode forms have no way to fail; the text as it is would do.
    let _ = form.normalize(&mut string);
    string.get().into()
}
