//! Signals that stop a training: the first asks, the second exits at once.
//!
//! Owns what the process does on them. What is saved then is the run's business.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::failure::Failure;

/// Signals that ask a run to stop.
const STOPPING: [i32; 2] = [SIGINT, SIGTERM];

/// Whether a signal has asked to stop, and which.
pub struct Signals {
    /// Its number; 0 before.
    asked: Arc<AtomicUsize>,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        let listen = || -> io::Result<()> {
            for signal in STOPPING {
                // In this order: the first signal sets what the second one finds.
                flag::register_conditional_shutdown(signal, 128 + signal, again.clone())?;
                flag::register(signal, again.clone())?;
                flag::register_usize(signal, asked.clone(), signal as usize)?;
            }
            // Unheard, it would end the process where a limit on file sizes is reached; heard,
            // writing fails like any other.
            #[cfg(unix)]
            flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
            Ok(())
        };
        listen().map_err(|source| Failure::Io {
            what: "cannot listen to signals".into(),
            source,
        })?;
        Ok(Self { asked })
    }

    /// The number of the signal that asked to stop.
    pub fn asked(&self) -> Option<u8> {
        u8::try_from(self.asked.load(Ordering::Relaxed))
            .ok()
            .filter(|signal| *signal > 0)
    }
}
