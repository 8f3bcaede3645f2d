//! The program `twinspan`.
//!
//! Owns the command line and the exit codes: 0, 1 (failed), 2 (wrong use or recipe), 128 and the
//! number of a signal that stopped it. Messages go to stderr, results to stdout. What the commands
//! do is in [`program`].

mod program;

use std::process::ExitCode;

use clap::Parser;

/// Training asks for the same large tensors at every step; the system gives their pages back and
/// clears them anew each time.
#[global_allocator]
static MEMORY: twinspan::sdk::ops::Recycler = twinspan::sdk::ops::Recycler::new();

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    unsafe { twinspan::sdk::ops::sleep_soon() };
    let command = program::Program::parse();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(stopped @ program::Failure::Stopped { .. }) => {
            eprintln!("{stopped}");
            ExitCode::from(stopped.exit_code())
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
