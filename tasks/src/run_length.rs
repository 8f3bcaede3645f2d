//! Masks as run lengths, the way COCO writes them.
//!
//! Pixels are counted column by column, from the top left downwards: so many
//! outside the object, then so many inside, and so on in turn. `{"size":
//! [height, width], "counts": …}` holds the counts as a list, or packed into
//! letters. Owns both forms and what makes them wrong; masks in rows are
//! [`mask`](crate::mask)'s.

use serde::{Deserialize, Serialize};

use crate::mask::Mask;

/// Most pixels that run lengths may cover: what a picture of
/// [`MOST_BYTES`](crate::picture::MOST_BYTES) has at 4 bytes each.
pub const MOST_PIXELS: u64 = 1 << 28;

/// Why run lengths are none. Every message is the end of a sentence that
/// begins with what holds them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunLengthError {
    /// The size is that of no picture.
    #[error(
        "has a size of {height} x {width} (height, width); sides are above 0, and {MOST_PIXELS} pixels the most"
    )]
    Size {
        /// Pixels down.
        height: u64,
        /// Pixels across.
        width: u64,
    },
    /// A count is below 0.
    #[error("has {count} as count {number}; counts are of pixels, 0 or more")]
    Negative {
        /// Which count, from 1.
        number: usize,
        /// The count.
        count: i64,
    },
    /// The counts do not fill the size.
    #[error(
        "has counts of {} pixels in all, and {height} x {width} are {}",
        beyond(*sum, *height, *width), u64::from(*height) * u64::from(*width)
    )]
    Sum {
        /// The sum of the counts, as far as it was taken.
        sum: u64,
        /// Pixels down.
        height: u32,
        /// Pixels across.
        width: u32,
    },
    /// A packed letter is none of the 64.
    #[error("has {letter:?} as letter {number} of its packed counts; letters run from '0' to 'o'")]
    Letter {
        /// Which letter, from 1.
        number: usize,
        /// The letter.
        letter: char,
    },
    /// The packed counts end within one.
    #[error("has packed counts that end within count {number} (cut short?)")]
    CutShort {
        /// Which count, from 1.
        number: usize,
    },
    /// A packed count is longer than any can be.
    #[error("has a packed count {number} of more letters than any count takes")]
    Long {
        /// Which count, from 1.
        number: usize,
    },
}

/// Adding stops at the first count too many.
fn beyond(sum: u64, height: u32, width: u32) -> String {
    match sum > u64::from(height) * u64::from(width) {
        true => format!("{sum} or more"),
        false => sum.to_string(),
    }
}

/// A mask as run lengths: as large as its outline is long, whatever its size.
///
/// ```
/// use twinspan_tasks::run_length::RunLengths;
///
/// let runs = RunLengths::new(2, 3, &[1, 3, 2])?;
/// assert_eq!(runs.packed(), "132");
/// assert_eq!(RunLengths::unpack(2, 3, "132")?, runs);
/// assert_eq!(runs.mask().inside(), [false, true, false, true, true, false]);
/// # Ok::<(), twinspan_tasks::run_length::RunLengthError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct RunLengths {
    height: u32,
    width: u32,
    /// Outside, inside, outside and so on; their sum is height times width.
    counts: Vec<u32>,
}

impl RunLengths {
    /// From counts as a list.
    ///
    /// # Errors
    /// [`RunLengthError::Size`], [`RunLengthError::Negative`] and
    /// [`RunLengthError::Sum`].
    pub fn new(height: u32, width: u32, counts: &[i64]) -> Result<Self, RunLengthError> {
        let mut filled = Filled::new(height, width)?;
        for &count in counts {
            filled.push(count)?;
        }
        filled.finish()
    }

    /// From counts packed into letters.
    ///
    /// Each letter from `'0'` on holds five bits, the lowest first, and a
    /// sixth where more follow; from the fourth count on, what is written is
    /// the difference from the count before the last.
    ///
    /// # Errors
    /// All of [`RunLengthError`].
    pub fn unpack(height: u32, width: u32, packed: &str) -> Result<Self, RunLengthError> {
        /// Five bits each: 35, more than a count has and fewer than overflow.
        const MOST_LETTERS: u32 = 7;
        let mut filled = Filled::new(height, width)?;
        let (mut value, mut letters) = (0i64, 0u32);
        for (index, letter) in packed.chars().enumerate() {
            let number = filled.counts.len() + 1;
            let bits = match letter {
                '0'..='o' => i64::from(u32::from(letter) - u32::from('0')),
                _ => {
                    return Err(RunLengthError::Letter {
                        number: index + 1,
                        letter,
                    });
                }
            };
            if letters == MOST_LETTERS {
                return Err(RunLengthError::Long { number });
            }
            value |= (bits & 0x1f) << (5 * letters);
            letters += 1;
            if bits & 0x20 != 0 {
                continue;
            }
            if bits & 0x10 != 0 {
                value |= -1 << (5 * letters);
            }
            if let [_, .., before, _] = filled.counts[..] {
                value += i64::from(before);
            }
            filled.push(value)?;
            (value, letters) = (0, 0);
        }
        match letters {
            0 => filled.finish(),
            _ => Err(RunLengthError::CutShort {
                number: filled.counts.len() + 1,
            }),
        }
    }

    /// Of a mask.
    ///
    /// # Errors
    /// [`RunLengthError::Size`].
    pub fn of(mask: &Mask) -> Result<Self, RunLengthError> {
        let mut filled = Filled::new(mask.height, mask.width)?;
        let (width, area) = (mask.width as usize, mask.values.len());
        let (mut inside, mut count) = (false, 0);
        for column in 0..width {
            for place in (column..area).step_by(width) {
                if (mask.values[place] > 0) != inside {
                    filled.push(count)?;
                    (inside, count) = (!inside, 0);
                }
                count += 1;
            }
        }
        filled.push(count)?;
        filled.finish()
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The counts: outside, inside, outside and so on.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// How many pixels are inside.
    pub fn area(&self) -> u64 {
        let inside = self.counts.iter().skip(1).step_by(2);
        inside.map(|&count| u64::from(count)).sum()
    }

    /// Left, top, width and height of the smallest box around the pixels
    /// inside; zeros for an empty mask, as in COCO's tools.
    pub fn bounds(&self) -> [u32; 4] {
        let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
        let mut start = 0u32;
        for (index, &count) in self.counts.iter().enumerate() {
            if index % 2 == 1 && count > 0 {
                let last = start + (count - 1);
                let (first_column, last_column) = (start / self.height, last / self.height);
                left = left.min(first_column);
                right = right.max(last_column + 1);
                match first_column == last_column {
                    true => {
                        top = top.min(start % self.height);
                        bottom = bottom.max(last % self.height + 1);
                    }
                    false => (top, bottom) = (0, self.height),
                }
            }
            start += count;
        }
        match right {
            0 => [0; 4],
            _ => [left, top, right - left, bottom - top],
        }
    }

    /// The counts packed into letters, as [`unpack`](Self::unpack) takes them.
    pub fn packed(&self) -> String {
        let mut packed = String::new();
        for (index, &count) in self.counts.iter().enumerate() {
            let mut value = i64::from(count);
            if index > 2 {
                value -= i64::from(self.counts[index - 2]);
            }
            loop {
                let bits = (value & 0x1f) as u8;
                value >>= 5;
                let sign = if bits & 0x10 == 0 { 0 } else { -1 };
                let more = value != sign;
                packed.push(char::from(b'0' + bits + if more { 0x20 } else { 0 }));
                if !more {
                    break;
                }
            }
        }
        packed
    }

    /// The mask, in rows.
    pub fn mask(&self) -> Mask {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut values = vec![0; width * height];
        let mut place = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            let end = place + count as usize;
            if index % 2 == 1 {
                for at in place..end {
                    values[at % height * width + at / height] = 255;
                }
            }
            place = end;
        }
        Mask {
            width: self.width,
            height: self.height,
            values,
        }
    }
}

/// Counts that have not yet filled their size.
struct Filled {
    height: u32,
    width: u32,
    counts: Vec<u32>,
    sum: u64,
}

impl Filled {
    fn new(height: u32, width: u32) -> Result<Self, RunLengthError> {
        let (height, width) = (u64::from(height), u64::from(width));
        match (1..=MOST_PIXELS).contains(&height.saturating_mul(width)) {
            true => Ok(Self {
                height: height as u32,
                width: width as u32,
                counts: Vec::new(),
                sum: 0,
            }),
            false => Err(RunLengthError::Size { height, width }),
        }
    }

    fn push(&mut self, count: i64) -> Result<(), RunLengthError> {
        let Ok(pixels) = u64::try_from(count) else {
            return Err(RunLengthError::Negative {
                number: self.counts.len() + 1,
                count,
            });
        };
        self.sum = self.sum.saturating_add(pixels);
        match u32::try_from(pixels) {
            Ok(count) if self.sum <= u64::from(self.height) * u64::from(self.width) => {
                self.counts.push(count);
                Ok(())
            }
            _ => Err(self.wrong_sum()),
        }
    }

    fn finish(self) -> Result<RunLengths, RunLengthError> {
        if self.sum != u64::from(self.height) * u64::from(self.width) {
            return Err(self.wrong_sum());
        }
        Ok(RunLengths {
            height: self.height,
            width: self.width,
            counts: self.counts,
        })
    }

    fn wrong_sum(&self) -> RunLengthError {
        RunLengthError::Sum {
            sum: self.sum,
            height: self.height,
            width: self.width,
        }
    }
}

/// As in COCO's files, unchecked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// Height and width.
    size: [u32; 2],
    counts: Counts,
}

#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`counts` is a list of whole numbers or a text of packed ones"
)]
enum Counts {
    Packed(String),
    List(Vec<i64>),
}

impl TryFrom<Written> for RunLengths {
    type Error = RunLengthError;

    fn try_from(written: Written) -> Result<Self, RunLengthError> {
        Self::try_from(&written)
    }
}

impl TryFrom<&Written> for RunLengths {
    type Error = RunLengthError;

    fn try_from(written: &Written) -> Result<Self, RunLengthError> {
        let [height, width] = written.size;
        match &written.counts {
            Counts::Packed(packed) => Self::unpack(height, width, packed),
            Counts::List(counts) => Self::new(height, width, counts),
        }
    }
}

impl From<RunLengths> for Written {
    fn from(runs: RunLengths) -> Self {
        Self {
            size: [runs.height, runs.width],
            counts: Counts::Packed(runs.packed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mask(width: u32, height: u32, inside: &[bool]) -> Mask {
        let values = inside.iter().map(|&inside| 255 * u8::from(inside));
        Mask {
            width,
            height,
            values: values.collect(),
        }
    }

    /// Counts and letters, worked out by hand from COCO's rules.
    #[test]
    fn known_letters_are_known_counts() {
        for (height, width, counts, packed) in [
            (2, 3, &[6][..], "6"),
            (2, 3, &[0, 6], "06"),
            (2, 3, &[1, 3, 2], "132"),
            // 16 needs a second letter for its sign: 10000 would be -16.
            (4, 4, &[16], "`0"),
            (8, 4, &[15, 1, 16], "?1`0"),
            // From the fourth on, differences: 4 - 4, 3 - 2.
            (4, 4, &[3, 4, 2, 4, 3], "34201"),
            (4, 4, &[3, 4, 2, 1, 6], "342M4"),
            (30, 40, &[600, 600], "hb0hb0"),
        ] {
            let runs = RunLengths::new(height, width, counts).unwrap();
            assert_eq!(runs.packed(), packed, "{counts:?}");
            assert_eq!(RunLengths::unpack(height, width, packed).unwrap(), runs);
        }
    }

    #[test]
    fn columns_come_first() {
        let runs = RunLengths::new(2, 3, &[1, 2, 3]).unwrap();
        let drawn = mask(3, 2, &[false, true, false, true, false, false]);
        assert_eq!(runs.mask(), drawn);
        assert_eq!(RunLengths::of(&drawn).unwrap(), runs);
        assert_eq!(runs.area(), 2);
        assert_eq!(runs.bounds(), [0, 0, 2, 2]);
        let inner = RunLengths::new(4, 3, &[5, 2, 5]).unwrap();
        assert_eq!(inner.bounds(), [1, 1, 1, 2]);
        let empty = RunLengths::new(4, 3, &[12]).unwrap();
        assert_eq!((empty.area(), empty.bounds()), (0, [0; 4]));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let listed = |counts: &[i64]| RunLengths::new(2, 3, counts).unwrap_err().to_string();
        let packed = |text: &str| RunLengths::unpack(2, 3, text).unwrap_err().to_string();
        assert_eq!(
            listed(&[1, -3, 8]),
            "has -3 as count 2; counts are of pixels, 0 or more"
        );
        assert_eq!(
            listed(&[1, 3]),
            "has counts of 4 pixels in all, and 2 x 3 are 6"
        );
        assert_eq!(
            listed(&[1, 7, 1]),
            "has counts of 8 or more pixels in all, and 2 x 3 are 6"
        );
        assert_eq!(
            listed(&[i64::MAX, i64::MAX, i64::MAX]),
            format!(
                "has counts of {} or more pixels in all, and 2 x 3 are 6",
                i64::MAX
            )
        );
        assert_eq!(packed(""), "has counts of 0 pixels in all, and 2 x 3 are 6");
        assert_eq!(
            packed("13p"),
            "has 'p' as letter 3 of its packed counts; letters run from '0' to 'o'"
        );
        assert_eq!(
            packed("13P"),
            "has packed counts that end within count 3 (cut short?)"
        );
        assert_eq!(
            packed("PPPPPPPPPP0"),
            "has a packed count 1 of more letters than any count takes"
        );
        assert_eq!(
            packed("1O"),
            "has -1 as count 2; counts are of pixels, 0 or more"
        );
        for (height, width) in [(0, 3), (3, 0), (u32::MAX, u32::MAX), (1 << 15, 1 << 14)] {
            assert_eq!(
                RunLengths::new(height, width, &[]).unwrap_err(),
                RunLengthError::Size {
                    height: height.into(),
                    width: width.into()
                }
            );
        }
    }

    #[test]
    fn both_forms_are_read_from_json_and_the_packed_one_is_written() {
        let listed: RunLengths =
            serde_json::from_str(r#"{"size": [2, 3], "counts": [1, 3, 2]}"#).unwrap();
        let text = serde_json::to_string(&listed).unwrap();
        assert_eq!(text, r#"{"size":[2,3],"counts":"132"}"#);
        assert_eq!(serde_json::from_str::<RunLengths>(&text).unwrap(), listed);
        let said = |text: &str| {
            let error = serde_json::from_str::<RunLengths>(text).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            said(r#"{"size": [2, 3], "counts": [7]}"#),
            "has counts of 7 or more pixels in all, and 2 x 3 are 6"
        );
        assert!(said(r#"{"size": [2, 3], "counts": 7}"#).starts_with("`counts` is a list"));
        assert!(said(r#"{"size": [-2, 3], "counts": [6]}"#).contains("expected u32"));
    }

    fn masks() -> impl Strategy<Value = Mask> {
        (1..9u32, 1..9u32).prop_flat_map(|(width, height)| {
            prop::collection::vec(any::<bool>(), (width * height) as usize)
                .prop_map(move |inside| mask(width, height, &inside))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_mask_comes_back_from_both_forms(mask in masks()) {
            let runs = RunLengths::of(&mask).unwrap();
            prop_assert_eq!(runs.mask(), mask.clone());
            prop_assert_eq!(runs.area(), mask.area() as u64);
            let (height, width) = (runs.height(), runs.width());
            let listed: Vec<i64> = runs.counts().iter().map(|&count| count.into()).collect();
            let packed = runs.packed();
            prop_assert_eq!(&RunLengths::new(height, width, &listed).unwrap(), &runs);
            prop_assert_eq!(&RunLengths::unpack(height, width, &packed).unwrap(), &runs);

            let inside = |x: u32, y: u32| mask.values[(y * width + x) as usize] > 0;
            let columns: Vec<_> = (0..width).filter(|&x| (0..height).any(|y| inside(x, y))).collect();
            let rows: Vec<_> = (0..height).filter(|&y| (0..width).any(|x| inside(x, y))).collect();
            let expected = match (&columns[..], &rows[..]) {
                ([left, ..], [top, ..]) => {
                    let (right, bottom) = (columns[columns.len() - 1], rows[rows.len() - 1]);
                    [*left, *top, right + 1 - left, bottom + 1 - top]
                }
                _ => [0; 4],
            };
            prop_assert_eq!(runs.bounds(), expected);
        }

        #[test]
        fn counts_of_any_length_are_packed_and_unpacked(
            counts in prop::collection::vec(0..100_000i64, 1..40)
        ) {
            let sum: i64 = counts.iter().sum();
            prop_assume!(sum > 0);
            let runs = RunLengths::new(sum as u32, 1, &counts).unwrap();
            prop_assert_eq!(RunLengths::unpack(sum as u32, 1, &runs.packed()).unwrap(), runs);
        }

        #[test]
        fn no_letters_bring_it_down(packed in "[0-~]{0,40}") {
            if let Ok(runs) = RunLengths::unpack(5, 7, &packed) {
                prop_assert_eq!(runs.mask().values.len(), 35);
            }
        }
    }
}
