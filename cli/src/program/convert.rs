//! `twinspan convert`: data from one form to the other.

use std::path::Path;

use twinspan::sdk::task::DataSource;
use twinspan::tasks::record::Records;
use twinspan::tasks::{jsonl, refcoco};

use super::ConvertArgs;
use super::failure::{Failure, print};
use super::progress::Progress;

pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let source = args.data.source();
    let records = match source.path.is_file() {
        true => to_folder(&source, &args.out)?,
        // Also what is not there at all, which is said by who opens it.
        false => to_file(&source, &args.out)?,
    };
    for note in &records.notes {
        eprintln!("warning: {note}");
    }
    let sentences: usize = records.records.iter().map(|r| r.sentences.len()).sum();
    print(&format!(
        "{}: {} objects, {sentences} sentences",
        args.out.display(),
        records.records.len()
    ))?;
    for (split, count) in records.splits() {
        print(&format!("  {split}: {count} objects"))?;
    }
    Ok(())
}

/// A folder of the RefCOCO family to a JSONL file.
fn to_file(source: &DataSource, out: &Path) -> Result<Records, Failure> {
    if out.is_dir() {
        return Err(Failure::Usage(format!(
            "--out {} is a folder; a folder of the RefCOCO family is converted to a JSONL file: give it a name",
            out.display()
        )));
    }
    let records = Records::of(source)?;
    jsonl::write(out, &records.records).map_err(twinspan::sdk::Error::plugin)?;
    Ok(records)
}

/// A JSONL file to a folder of the RefCOCO family.
fn to_folder(source: &DataSource, out: &Path) -> Result<Records, Failure> {
    let (Some(dataset), Some(split_by)) = (&source.dataset, &source.split_by) else {
        return Err(Failure::Usage(
            "a JSONL file is converted to a folder of the RefCOCO family: name the data set with --dataset and the division with --split-by"
                .into(),
        ));
    };
    if out.is_file() {
        return Err(Failure::Usage(format!(
            "--out {} is a file; a JSONL file is converted to a folder",
            out.display()
        )));
    }
    let records = Records::of(&source.path.clone().into())?;
    let mut progress: Option<Progress> = None;
    refcoco::write(
        out,
        dataset,
        split_by,
        &records.records,
        &mut |done, steps| {
            progress
                .get_or_insert_with(|| Progress::new("convert", steps))
                .at(done, String::new());
        },
    )?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(records)
}
