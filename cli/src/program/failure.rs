//! Why a command failed, and with which exit code.

use twinspan::sdk;
use twinspan::tasks::picture::PictureError;
use twinspan::tasks::refcoco::RefcocoError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The SDK says why.
    #[error(transparent)]
    Sdk(#[from] sdk::Error),
    /// A picture cannot be read or written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A folder of the RefCOCO family cannot be written.
    #[error(transparent)]
    Refcoco(#[from] RefcocoError),
    /// Results cannot be printed or written.
    #[error("{what}: {source}")]
    Io {
        /// The file or stream.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The command was called wrongly.
    #[error("{0}")]
    Usage(String),
    /// A signal stopped the command, which has saved what it was at.
    #[error("{message}")]
    Stopped {
        /// What was saved, and how to go on.
        message: String,
        /// The signal's number.
        signal: u8,
    },
}

impl Failure {
    /// The exit code: 2 where the call or the recipe is wrong, 128 and the signal's number after
    /// a signal, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Sdk(error) if error.is_wrong_use() => 2,
            Failure::Refcoco(error) if error.is_wrong_use() => 2,
            Failure::Usage(_) => 2,
            Failure::Stopped { signal, .. } => 128 + signal,
            Failure::Sdk(_) | Failure::Refcoco(_) | Failure::Picture(_) | Failure::Io { .. } => 1,
        }
    }
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Failure::Sdk(error.into())
    }
}

impl From<sdk::file::FileError> for Failure {
    fn from(error: sdk::file::FileError) -> Self {
        Failure::Sdk(error.into())
    }
}

/// Prints to stdout; a closed pipe (`| head`) is a failure, not a panic.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{text}").map_err(|source| Failure::Io {
        what: "stdout".into(),
        source,
    })
}

/// Prints JSON to stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(sdk::Error::plugin)?;
    print(&text)
}
