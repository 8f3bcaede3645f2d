//! A few thousand changed files for each reader: what `examples/fuzz_readers` does a million times.

#[path = "../examples/fuzz_readers/allocations.rs"]
mod allocations;
#[path = "../examples/fuzz_readers/archives.rs"]
mod archives;
#[path = "../examples/fuzz_readers/draws.rs"]
mod draws;
#[path = "../examples/fuzz_readers/mutate.rs"]
mod mutate;
#[path = "../examples/fuzz_readers/pickles.rs"]
mod pickles;
#[path = "../examples/fuzz_readers/readers.rs"]
mod readers;
#[path = "../examples/fuzz_readers/run.rs"]
mod run;

use readers::{READERS, Valid};

#[global_allocator]
static ALLOCATOR: allocations::Counted = allocations::Counted;

const INPUTS: u64 = 3000;

/// One test, as memory is counted for the whole process.
#[test]
fn no_reader_panics_or_holds_more_than_a_small_multiple_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let valid = Valid::new(folder.path());
    for reader in &READERS {
        let kept = std::env::temp_dir().join("fuzz-findings");
        let report = run::run(reader, &valid, folder.path(), 7, 0..INPUTS, &kept);
        assert_eq!(report.findings, [], "{}", reader.name);
        // Some get through: what is refused at once tests nothing.
        assert!(
            report.read * 50 > INPUTS,
            "{}: {} read",
            reader.name,
            report.read
        );
        assert!(report.read < INPUTS, "{}: nothing was damaged", reader.name);
    }
}
