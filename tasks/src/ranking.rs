//! Who comes before whom by similarity: places of right answers, and the
//! nearest of many vectors.
//!
//! Owns unit vectors on the CPU and what is counted over them. What is similar
//! to what, and which answers are right, is its callers'.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use twinspan_sdk::{Error, Result};

/// How many of `others` come before one that scores `own`. A tie counts
/// against it, and so does what is not a number: a model that says the same of
/// everything is right about nothing.
pub fn before(others: impl IntoIterator<Item = f32>, own: f32) -> usize {
    let others = others.into_iter();
    others.filter(|other| is_before(*other, own)).count()
}

fn is_before(other: f32, own: f32) -> bool {
    other >= own || other.is_nan() || own.is_nan()
}

/// The share of `places`, counted from 0, that are among the first `k`, in
/// percent; 0 without any.
pub fn recall(places: &[usize], k: usize) -> f64 {
    let hits = places.iter().filter(|place| **place < k).count();
    100.0 * hits as f64 / places.len().max(1) as f64
}

/// Vectors of length 1, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    width: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Adds the rows of `[N, E]`, each brought to length 1.
    ///
    /// # Errors
    /// The rows are not as wide as those that are there.
    pub fn push(&mut self, rows: &Tensor) -> Result<()> {
        let (count, width) = rows.dims2()?;
        if self.width != width && !self.values.is_empty() || width == 0 {
            return Err(Error::Shape {
                what: "vectors to rank".into(),
                expected: vec![count, self.width],
                got: vec![count, width],
            });
        }
        self.width = width;
        let rows = rows.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        for row in rows
            .contiguous()?
            .flatten_all()?
            .to_vec1::<f32>()?
            .chunks_exact(width)
        {
            let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            let length = square.sqrt();
            let unit = row.iter().map(|x| (f64::from(*x) / length) as f32);
            self.values.extend(unit);
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width.max(1))
    }

    fn row(&self, index: usize) -> &[f32] {
        self.rows().nth(index).unwrap_or_default()
    }

    /// The `top` rows most similar to row `index` of `queries`, each with its
    /// cosine, the most similar first; of equals the earlier first. Rows
    /// without a direction are left out.
    pub fn nearest(&self, queries: &Vectors, index: usize, top: usize) -> Vec<(usize, f32)> {
        let query = queries.row(index);
        let cosines = self.rows().map(|row| dot(row, query)).enumerate();
        let mut all: Vec<(usize, f32)> = cosines.filter(|(_, cosine)| !cosine.is_nan()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(top);
        all
    }
}

/// Places of right answers over a whole split, counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Of each picture's most similar own sentence among all sentences but its
    /// other own ones.
    pub sentences: Vec<usize>,
    /// Of each sentence's picture among all pictures.
    pub pictures: Vec<usize>,
}

/// Pictures that are compared with all sentences together.
const TOGETHER: usize = 64;

/// Ranks all pictures against all sentences; `owners` names the picture of
/// each sentence. What is held beside the vectors are some rows of
/// similarities, never all of them.
///
/// # Errors
/// There are not as many owners as sentences, one is not there, or pictures
/// and sentences are not equally wide.
pub fn places(pictures: &Vectors, sentences: &Vectors, owners: &[usize]) -> Result<Places> {
    let (count, said) = (pictures.len(), sentences.len());
    let strange = owners.iter().any(|owner| *owner >= count);
    if owners.len() != said || strange || pictures.width != sentences.width {
        return Err(Error::Shape {
            what: "sentences to rank with their pictures".into(),
            expected: vec![owners.len(), pictures.width],
            got: vec![said, sentences.width],
        });
    }
    let own = owners.iter().zip(sentences.rows());
    let own: Vec<f32> = own
        .map(|(owner, sentence)| dot(pictures.row(*owner), sentence))
        .collect();
    let numbers: Vec<usize> = (0..count).collect();
    let parts: Vec<(Vec<usize>, Vec<usize>)> = numbers
        .par_chunks(TOGETHER)
        .map(|numbers| {
            let mut before_picture = vec![0; said];
            let places = numbers.iter().map(|&number| {
                let picture = pictures.row(number);
                let row: Vec<f32> = sentences.rows().map(|s| dot(picture, s)).collect();
                let others = || (0..said).filter(|s| owners[*s] != number);
                for sentence in others() {
                    before_picture[sentence] +=
                        usize::from(is_before(row[sentence], own[sentence]));
                }
                let best = (0..said).filter(|s| owners[*s] == number).map(|s| row[s]);
                let best = best.fold(f32::NAN, f32::max);
                before(others().map(|s| row[s]), best)
            });
            let places = places.collect();
            (places, before_picture)
        })
        .collect();
    let mut all = Places {
        sentences: Vec::with_capacity(count),
        pictures: vec![0; said],
    };
    for (places, before_picture) in parts {
        all.sentences.extend(places);
        for (sum, part) in all.pictures.iter_mut().zip(before_picture) {
            *sum += part;
        }
    }
    Ok(all)
}

/// In a fixed order, so that equal vectors tie to the last bit.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
