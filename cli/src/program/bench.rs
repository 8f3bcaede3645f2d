//! `twinspan bench`: how fast the operations are here, and how soon and in how much memory a
//! frozen base is ready.
//!
//! Owns the table of the operations; the base's measurement is in `base.rs`.

mod base;

use twinspan::sdk::device;
use twinspan::sdk::ops::bench;

pub use base::BaseArgs;
pub use base::run as run_base;

use super::failure::{Failure, print, print_json};

pub fn run_ops(filter: Option<&str>, on: &str, json: bool) -> Result<(), Failure> {
    let device = device::device(on)?;
    let timings = bench::run(filter, &device, &mut |what| eprintln!("{what}"))?;
    if timings.is_empty() {
        return Err(Failure::Usage(format!(
            "no operation is called like `{}`",
            filter.unwrap_or_default()
        )));
    }
    if json {
        return print_json(&timings);
    }
    for t in &timings {
        print(&format!(
            "{:28} {:36} {:18} {:9.2} ms (best {:.2}, of {})",
            t.name, t.shape, t.pass, t.milliseconds_median, t.milliseconds_best, t.repeats
        ))?;
    }
    Ok(())
}
