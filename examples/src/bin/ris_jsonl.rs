//! Turns folders of RefCOCO's form into one data file of referring
//! segmentation. Owns the reading of `refs.json`; the data file's own form is
//! [`twinspan_tasks::jsonl`]'s.
//!
//! ```text
//! ris_jsonl testA_mini testB_mini --out mini.jsonl
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Deserialize;
use twinspan_tasks::jsonl::{self, Record, Records, Region};

/// Write a JSONL data file from folders that hold a refs.json, pictures and masks
#[derive(Parser)]
#[command(name = "ris_jsonl")]
struct Arguments {
    /// Folders with a refs.json: a list of {file_name, mask, sentences: [{sent}], split}
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// The data file to write; its paths are relative to it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Give every line this split, whatever refs.json says
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
}

/// What is needed of an entry; the others of RefCOCO's fields are let be.
#[derive(Deserialize)]
struct Reference {
    file_name: PathBuf,
    mask: PathBuf,
    sentences: Vec<Sentence>,
    split: String,
}

#[derive(Deserialize)]
struct Sentence {
    sent: String,
}

fn read(folder: &Path, split: Option<&str>) -> Result<Vec<Record>, String> {
    let file = folder.join("refs.json");
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let bytes = std::fs::read(&file).map_err(|error| named(&error))?;
    let references: Vec<Reference> =
        serde_json::from_slice(&bytes).map_err(|error| named(&error))?;
    let records = references.into_iter().map(|reference| Record {
        image: folder.join(reference.file_name),
        region: Region::Mask(folder.join(reference.mask)),
        sentences: reference
            .sentences
            .into_iter()
            .map(|s| s.sent.into())
            .collect(),
        split: split.map_or(reference.split, String::from),
    });
    Ok(records.collect())
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut records = Vec::new();
    for folder in &arguments.folders {
        records.extend(read(folder, arguments.split.as_deref())?);
    }
    jsonl::write(&arguments.out, &records).map_err(|error| error.to_string())?;
    let sentences: usize = records.iter().map(|record| record.sentences.len()).sum();
    println!(
        "{}: {} objects, {sentences} sentences",
        arguments.out.display(),
        records.len()
    );
    let written = Records {
        file: arguments.out.clone(),
        records,
        notes: Vec::new(),
    };
    for (split, count) in written.splits() {
        println!("  {split}: {count} objects");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("ris_jsonl: {said}");
            ExitCode::FAILURE
        }
    }
}
