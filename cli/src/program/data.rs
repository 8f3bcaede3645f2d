//! The options that name data, for the commands that take some.

use std::path::PathBuf;

use clap::Args;
use twinspan::sdk::task::DataSource;

/// Where data lies.
#[derive(Args)]
pub struct DataArgs {
    /// The data. Of segmentation and retrieval: a JSONL file of {image, mask | polygons | rle, sentences, split}, or a folder of the RefCOCO family with refcoco+/refs(unc).p, refcoco+/instances.json and images/train2014; retrieval needs no masks. Of classification: a folder with a folder of pictures for each class, in train, val and test or not, or a JSONL file of {image, label, split}
    #[arg(long, value_name = "FILE|FOLDER")]
    data: PathBuf,
    /// The folder's data set, as refcoco+ or refcocog; may be left out where there is one
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Whose division into splits, as unc, umd or google; may be left out where there is one
    #[arg(long, value_name = "NAME")]
    split_by: Option<String>,
}

impl DataArgs {
    /// What is named.
    pub fn source(&self) -> DataSource {
        DataSource {
            path: self.data.clone(),
            dataset: self.dataset.clone(),
            split_by: self.split_by.clone(),
        }
    }
}
