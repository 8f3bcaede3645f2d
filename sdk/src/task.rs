//! The contract of a task: data, head, loss and scores.
//!
//! Owns the traits a task implements and the batch they share. Training and evaluation loops are
//! in [`crate::train`] and [`crate::evaluate`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::error::Result;
use crate::parameter::Params;
use crate::pass::Pass;
use crate::preparation::Preparation;
use crate::site::Tap;
use crate::stream::Stream;
use crate::tokenizer::Tokenizer;
use crate::topology::Topology;

/// A task, implemented by the serde struct of its options.
pub trait Task: Send + Sync {
    /// The features its head reads, in the order in which it is given them.
    ///
    /// # Errors
    /// The backbone does not have what the head needs.
    fn reads(&self, topology: &Topology) -> Result<Vec<Tap>>;

    /// Whether the head sees pairs of picture and sentence, as opposed to items of each.
    fn per_pair(&self) -> bool {
        true
    }

    /// Its head on a backbone.
    ///
    /// # Errors
    /// The options do not fit the backbone.
    fn head(&self, topology: &Topology, params: &mut Params) -> Result<Box<dyn Head>>;

    /// Ids a sentence is cut or padded to; 0 for as many as the backbone takes.
    fn words(&self) -> usize;

    /// Its options, with what they leave open filled in from data: the names of classes. What
    /// the options say stays. `None` where data tells it nothing.
    ///
    /// # Errors
    /// There is no data of this task.
    fn fitted(&self, _source: &DataSource) -> Result<Option<toml::Table>> {
        Ok(None)
    }

    /// Opens data.
    ///
    /// # Errors
    /// There is no data of this task; what it names is not there.
    fn open(&self, source: &DataSource, kit: Kit) -> Result<Arc<dyn Dataset>>;
}

/// Where data lies. What a path may be, and whether it takes more than a path, is the task's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSource {
    /// A file or a folder.
    pub path: PathBuf,
    /// Which data set, where the folder holds several; `None` takes the only one.
    pub dataset: Option<String>,
    /// Whose division into splits, where the data set has several; `None` takes the only one.
    pub split_by: Option<String>,
}

impl From<PathBuf> for DataSource {
    fn from(path: PathBuf) -> Self {
        Self {
            path,
            dataset: None,
            split_by: None,
        }
    }
}

impl From<&Path> for DataSource {
    fn from(path: &Path) -> Self {
        path.to_path_buf().into()
    }
}

/// What data needs of a model: how to prepare pictures and sentences, where to put them.
#[derive(Clone)]
pub struct Kit {
    /// How pictures are prepared.
    pub preparation: Preparation,
    /// How sentences are.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Most ids of a sentence that the text tower takes.
    pub context: usize,
    /// Element type of prepared pictures.
    pub dtype: DType,
    /// Where batches go.
    pub device: Device,
}

/// The trainable end of a task.
pub trait Head: Send + Sync {
    /// Logits from the features that [`Task::reads`] names.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, features: &[Stream], pass: &mut Pass) -> Result<Tensor>;

    /// What the head computes on the way, by name, the logits last: for those who look inside.
    ///
    /// # Errors
    /// An operation failed.
    fn trace(&self, features: &[Stream], pass: &mut Pass) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("logits", self.forward(features, pass)?)])
    }

    /// The scalar loss.
    ///
    /// # Errors
    /// The batch has no target.
    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor>;
}

/// Pictures, sentences, and the pairs between them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[I, 3, H, W]`, prepared.
    pub images: Tensor,
    /// `u32 [S, L]`.
    pub tokens: Tensor,
    /// (picture, sentence) of each pair.
    pub pairs: Vec<(u32, u32)>,
    /// What the loss compares with, by pair.
    pub target: Option<Tensor>,
    /// Which example of the split each pair comes from.
    pub examples: Vec<usize>,
}

impl Batch {
    /// A batch in which picture and sentence `i` are a pair.
    ///
    /// # Errors
    /// There are not as many pictures as sentences.
    pub fn aligned(images: Tensor, tokens: Tensor, target: Option<Tensor>) -> Result<Self> {
        let (n, m) = (images.dim(0)?, tokens.dim(0)?);
        if n != m {
            return Err(crate::Error::Shape {
                what: "a batch of pairs".into(),
                expected: vec![n],
                got: vec![m],
            });
        }
        Ok(Self {
            images,
            tokens,
            pairs: (0..n as u32).map(|i| (i, i)).collect(),
            target,
            examples: (0..n).collect(),
        })
    }
}

/// Data of a task, opened.
pub trait Dataset: Send + Sync {
    /// Splits and their number of examples.
    fn splits(&self) -> BTreeMap<String, usize>;

    /// Examples of a split.
    ///
    /// # Errors
    /// There is no such split; the message lists them.
    fn len(&self, split: &str) -> Result<usize>;

    /// Examples `indices` of a split for training; choices (which sentence) follow from `seed`.
    ///
    /// # Errors
    /// A file is not what it should be.
    fn train(&self, split: &str, indices: &[usize], seed: u64) -> Result<Batch>;

    /// Examples `indices` of a split for evaluation: every sentence of each.
    ///
    /// # Errors
    /// A file is not what it should be.
    fn evaluate(&self, split: &str, indices: &[usize]) -> Result<Batch>;

    /// Empty scores for a split.
    ///
    /// # Errors
    /// There is no such split.
    fn scores(&self, split: &str) -> Result<Box<dyn Scores + '_>>;

    /// What a user should know of the data before training, one line each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Scores that grow batch by batch.
pub trait Scores {
    /// Adds a batch: the features that the task reads, and what its head makes of them.
    ///
    /// # Errors
    /// A truth cannot be read.
    fn add(&mut self, batch: &Batch, features: &[Stream], logits: &Tensor) -> Result<()>;

    /// The scores so far.
    ///
    /// # Errors
    /// Nothing was added.
    fn report(&self) -> Result<Report>;
}

/// Scores by name, in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// How much was scored.
    pub count: usize,
    /// What was scored, in the plural: sentences, pictures.
    #[serde(skip)]
    pub unit: &'static str,
    /// Name and value.
    pub scores: Vec<(String, f64)>,
    /// The same of parts of what was scored, where the data names parts (kinds of sentences,
    /// classes), sorted by name. What belongs to no part is in none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// What a part is, in the singular: kind, class.
    #[serde(skip)]
    pub part: &'static str,
}

/// Scores of a part of what was scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What the data calls it.
    pub name: String,
    /// How much of what was scored it is.
    pub count: usize,
    /// Name and value, as in [`Report::scores`].
    pub scores: Vec<(String, f64)>,
}
