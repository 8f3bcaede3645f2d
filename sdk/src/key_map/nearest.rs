//! The name that was probably meant.

/// Names longer than this are no typing errors, and comparing them takes quadratic time.
const LONGEST: usize = 256;

/// The candidate with the smallest edit distance to `name`, the first of several; `None` if
/// even that differs in more than a third of its characters.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|candidate| name.len().max(candidate.len()) <= LONGEST)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, candidate)| d * 3 <= name.len().max(candidate.len()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn only_a_near_name_is_offered() {
        assert_eq!(
            nearest("visual.proj", ["visual.prog", "text"]),
            Some("visual.prog")
        );
        assert_eq!(nearest("visual.proj", ["text", "logit_scale"]), None);
    }
}
