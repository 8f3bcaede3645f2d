//! `twinspan import etris`: a released checkpoint to a model folder.

use twinspan::etris::{self, Untold};
use twinspan::sdk::artifact;

use super::EtrisArgs;
use super::failure::{Failure, print};
use super::model;
use super::plan::grouped;

pub fn run(args: &EtrisArgs) -> Result<(), Failure> {
    artifact::check(&args.out)?;
    model::spares(&args.out, [args.checkpoint.as_path(), &args.tokenizer])?;
    let untold = Untold {
        bridge_heads: args.bridge_heads,
        input_size: args.input_size,
        words: args.words,
    };
    let imported = etris::import(&args.checkpoint, &args.tokenizer, &args.out, &untold)?;
    print(&format!(
        "{}: {} with {} values, of which {} were trained",
        args.out.display(),
        imported.kind,
        grouped(imported.values),
        grouped(imported.trained)
    ))
}
