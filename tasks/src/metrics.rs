//! Scores of referring segmentation, by the names this field reports. Owns
//! what is counted and how it is averaged; does not sample masks to a common
//! size (see [`letterbox`](crate::letterbox)).

/// A pixel belongs to the answer if its probability exceeds this, as in ETRIS.
pub const THRESHOLD: f32 = 0.35;

/// Names of the scores, in the order in which they are reported.
///
/// `mIoU` is the mean over sentences of I/(U + 1e-6) (large models' papers
/// call it gIoU); `oIoU` is ΣI/ΣU (also cIoU); `Pr@X` is the share of
/// sentences with IoU > X, as ETRIS counts (LAVT counts >=). All in percent.
pub const NAMES: [&str; 7] = [
    "mIoU", "oIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9",
];

const PRECISIONS: [f64; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];

/// The pixels whose probability exceeds `threshold`; NaN does not.
pub fn above(probability: &[f32], threshold: f32) -> Vec<bool> {
    probability.iter().map(|&p| p > threshold).collect()
}

/// Intersection and union in pixels of two masks of one size; `None` if their
/// lengths differ.
pub fn overlap(answer: &[bool], truth: &[bool]) -> Option<(u64, u64)> {
    if answer.len() != truth.len() {
        return None;
    }
    let pairs = answer.iter().zip(truth);
    Some(pairs.fold((0, 0), |(both, any), (&a, &b)| {
        (both + u64::from(a && b), any + u64::from(a || b))
    }))
}

/// IoU of one sentence, I/(U + 1e-6), in 0..1: two empty masks give 0, as in
/// ETRIS.
pub fn iou(intersection: u64, union: u64) -> f64 {
    intersection as f64 / (union as f64 + 1e-6)
}

/// Counts of the sentences seen so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    sentences: u64,
    intersection: u64,
    union: u64,
    iou: f64,
    precise: [u64; PRECISIONS.len()],
}

impl Scores {
    /// Counts one sentence, by its intersection and union in pixels.
    pub fn add(&mut self, intersection: u64, union: u64) {
        let iou = iou(intersection, union);
        self.sentences += 1;
        self.intersection += intersection;
        self.union += union;
        self.iou += iou;
        for (count, least) in self.precise.iter_mut().zip(PRECISIONS) {
            *count += u64::from(iou > least);
        }
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Self) {
        self.sentences += other.sentences;
        self.intersection += other.intersection;
        self.union += other.union;
        self.iou += other.iou;
        for (count, more) in self.precise.iter_mut().zip(other.precise) {
            *count += more;
        }
    }

    /// How many sentences were counted.
    pub fn sentences(&self) -> u64 {
        self.sentences
    }

    /// The scores in percent under their [`NAMES`]; `None` before the first
    /// sentence. If every answer and every mask was empty, `oIoU` is 0.
    pub fn finish(&self) -> Option<[(&'static str, f64); NAMES.len()]> {
        if self.sentences == 0 {
            return None;
        }
        let share = |sum: f64| 100.0 * sum / self.sentences as f64;
        let overall = 100.0 * self.intersection as f64 / self.union.max(1) as f64;
        let [p5, p6, p7, p8, p9] = self.precise.map(|count| share(count as f64));
        let values = [share(self.iou), overall, p5, p6, p7, p8, p9];
        Some(std::array::from_fn(|i| (NAMES[i], values[i])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(sentences: &[(u64, u64)]) -> Scores {
        let mut scores = Scores::default();
        for &(intersection, union) in sentences {
            scores.add(intersection, union);
        }
        scores
    }

    fn values(scores: &Scores) -> [f64; NAMES.len()] {
        scores.finish().unwrap().map(|(_, value)| value)
    }

    #[test]
    fn the_two_means_differ() {
        let scores = counted(&[(1, 2), (30, 40)]);
        let names = scores.finish().unwrap().map(|(name, _)| name);
        assert_eq!(
            names,
            [
                "mIoU", "oIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9"
            ]
        );
        let [mean, overall, p5, p6, p7, p8, _] = values(&scores);
        assert!((mean - 62.5).abs() < 1e-4);
        assert!((overall - 100.0 * 31.0 / 42.0).abs() < 1e-12);
        // An IoU of one half is not above one half.
        assert_eq!([p5, p6, p7, p8], [50.0, 50.0, 50.0, 0.0]);
    }

    #[test]
    fn nothing_counted_gives_no_scores() {
        assert_eq!(Scores::default().finish(), None);
        assert_eq!(values(&counted(&[(0, 0)])), [0.0; 7]);
    }

    #[test]
    fn overlap_counts_pixels() {
        let (a, b) = ([true, true, false, false], [true, false, true, false]);
        assert_eq!(overlap(&a, &b), Some((1, 3)));
        assert_eq!(overlap(&a, &b[..3]), None);
        assert_eq!(
            above(&[0.35, 0.36, f32::NAN], THRESHOLD),
            [false, true, false]
        );
    }

    fn sentence() -> impl Strategy<Value = (u64, u64)> {
        (0u64..100_000).prop_flat_map(|union| (0..=union, Just(union)))
    }

    proptest! {
        #[test]
        fn scores_are_percentages(sentences in prop::collection::vec(sentence(), 1..50)) {
            let values = values(&counted(&sentences));
            prop_assert!(values.iter().all(|value| (0.0..=100.0).contains(value)));
            prop_assert!(values[2..].windows(2).all(|pair| pair[0] >= pair[1]));
        }

        #[test]
        fn a_perfect_answer_scores_full(areas in prop::collection::vec(1u64..100_000, 1..50)) {
            let perfect: Vec<_> = areas.iter().map(|&area| (area, area)).collect();
            let values = values(&counted(&perfect));
            prop_assert!((values[0] - 100.0).abs() < 1e-3);
            prop_assert_eq!(&values[1..], &[100.0; 6]);
        }

        #[test]
        fn the_order_does_not_matter(
            (sentences, shuffled) in prop::collection::vec(sentence(), 1..50)
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
            cut in 0usize..50,
        ) {
            let one = values(&counted(&sentences));
            let cut = cut.min(shuffled.len());
            let mut parts = counted(&shuffled[..cut]);
            parts.merge(&counted(&shuffled[cut..]));
            for (a, b) in one.into_iter().zip(values(&parts)) {
                prop_assert!((a - b).abs() < 1e-9);
            }
        }
    }
}
