//! `twinspan synth`: made-up scenes as a data set.

use twinspan::scenes::files::{self, DATASET, SPLIT_BY};

use super::SynthArgs;
use super::failure::{Failure, print};
use super::progress::Progress;

pub fn run(args: &SynthArgs) -> Result<(), Failure> {
    let mut progress = Progress::new("synth", args.images as usize);
    files::write(&args.out, args.seed, args.images, args.size, &mut |done| {
        progress.at(done as usize, String::new());
    })?;
    progress.finish();
    let out = args.out.display();
    print(&format!(
        "{out}: {} scenes of seed {}",
        args.images, args.seed
    ))?;
    print(&format!(
        "to train on them: twinspan train RECIPE --data {out} --dataset {DATASET} --split-by {SPLIT_BY} --out MODEL"
    ))
}
