//! HTML character references.
//!
//! Owns the numeric ones and those names that sentences hold: HTML 4's Latin-1 and typographic
//! sets. Other names stay as they are written.

use super::clean::windows;

/// U+00A0 to U+00FF; these names and the four below count without a semicolon too.
const LATIN_1: [&str; 96] = [
    "nbsp", "iexcl", "cent", "pound", "curren", "yen", "brvbar", "sect", "uml", "copy", "ordf",
    "laquo", "not", "shy", "reg", "macr", "deg", "plusmn", "sup2", "sup3", "acute", "micro",
    "para", "middot", "cedil", "sup1", "ordm", "raquo", "frac14", "frac12", "frac34", "iquest",
    "Agrave", "Aacute", "Acirc", "Atilde", "Auml", "Aring", "AElig", "Ccedil", "Egrave", "Eacute",
    "Ecirc", "Euml", "Igrave", "Iacute", "Icirc", "Iuml", "ETH", "Ntilde", "Ograve", "Oacute",
    "Ocirc", "Otilde", "Ouml", "times", "Oslash", "Ugrave", "Uacute", "Ucirc", "Uuml", "Yacute",
    "THORN", "szlig", "agrave", "aacute", "acirc", "atilde", "auml", "aring", "aelig", "ccedil",
    "egrave", "eacute", "ecirc", "euml", "igrave", "iacute", "icirc", "iuml", "eth", "ntilde",
    "ograve", "oacute", "ocirc", "otilde", "ouml", "divide", "oslash", "ugrave", "uacute", "ucirc",
    "uuml", "yacute", "thorn", "yuml",
];

const MARKUP: [(&str, char); 8] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("AMP", '&'),
    ("LT", '<'),
    ("GT", '>'),
    ("QUOT", '"'),
];

/// Names that need their semicolon.
const CLOSED: [(&str, char); 26] = [
    ("apos", '\''),
    ("hellip", '…'),
    ("ndash", '–'),
    ("mdash", '—'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("sbquo", '‚'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("bdquo", '„'),
    ("lsaquo", '‹'),
    ("rsaquo", '›'),
    ("bull", '•'),
    ("trade", '™'),
    ("euro", '€'),
    ("hearts", '♥'),
    ("larr", '←'),
    ("uarr", '↑'),
    ("rarr", '→'),
    ("darr", '↓'),
    ("minus", '−'),
    ("infin", '∞'),
    ("ne", '≠'),
    ("le", '≤'),
    ("ge", '≥'),
    ("thinsp", '\u{2009}'),
];

/// The longest name above.
const LONGEST: usize = 6;

/// Python's `html.unescape`: references with or without their semicolon.
pub(super) fn unescape(text: &str) -> String {
    replace(text, false)
}

/// ftfy's unescaping, which touches only references that end with a semicolon.
pub(super) fn unescape_closed(text: &str) -> String {
    replace(text, true)
}

fn replace(text: &str, closed: bool) -> String {
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let found = number(part).or_else(|| name(part));
        match found.filter(|(_, length)| !closed || part[..*length].ends_with(';')) {
            Some((character, length)) => {
                out.extend(character);
                out.push_str(&part[length..]);
            }
            None => {
                out.push('&');
                out.push_str(part);
            }
        }
    }
    out
}

/// The character of `#233;` or `#xe9;` at the front of `part`, and how much of `part` it takes.
/// A control character is no character.
fn number(part: &str) -> Option<(Option<char>, usize)> {
    let digits = part.strip_prefix('#')?;
    let (digits, radix) = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16),
        None => (digits, 10),
    };
    let rest = digits.trim_start_matches(|c: char| c.is_digit(radix));
    let digits = &digits[..digits.len() - rest.len()];
    if digits.is_empty() {
        return None;
    }
    let character = match u32::from_str_radix(digits, radix)
        .ok()
        .and_then(char::from_u32)
    {
        None | Some('\0') => Some('\u{fffd}'),
        Some('\u{1}'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{b}') => None,
        Some(character) => Some(windows(character)),
    };
    let rest = rest.strip_prefix(';').unwrap_or(rest);
    Some((character, part.len() - rest.len()))
}

/// The character of a name at the front of `part`, and how much of `part` it takes; the longest
/// name counts.
fn name(part: &str) -> Option<(Option<char>, usize)> {
    let letters = part
        .bytes()
        .take(LONGEST)
        .take_while(u8::is_ascii_alphanumeric)
        .count();
    let closed = |length: usize| part[length..].starts_with(';');
    (2..=letters).rev().find_map(|length| {
        let name = &part[..length];
        let character = match closed(length) {
            true => open_named(name).or_else(|| named(&CLOSED, name)),
            false => open_named(name),
        };
        character.map(|c| (Some(c), length + usize::from(closed(length))))
    })
}

fn open_named(name: &str) -> Option<char> {
    let latin = LATIN_1.iter().position(|latin| *latin == name);
    latin
        .and_then(|place| char::from_u32(0xa0 + place as u32))
        .or_else(|| named(&MARKUP, name))
}

fn named(table: &[(&str, char)], name: &str) -> Option<char> {
    table
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, character)| *character)
}
