//! The program, run as at a terminal: arguments in, exit code and both streams out.
#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Runs `twinspan` with arguments of any kind of text or path.
#[macro_export]
macro_rules! twinspan {
    ($($argument:expr),* $(,)?) => {
        $crate::terminal::run(vec![$(std::ffi::OsString::from($argument)),*])
    };
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn run(arguments: Vec<OsString>) -> Said {
    run_in(Path::new("."), arguments)
}

/// Runs with `folder` as the working directory.
pub fn run_in(folder: &Path, arguments: Vec<OsString>) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_twinspan"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Said {
    /// The results of a run that went well.
    pub fn results(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(!self.stderr.contains("error: "), "{self:?}");
        self.stdout
    }

    /// The results of a run that went well, as JSON.
    pub fn json(self) -> serde_json::Value {
        let results = self.results();
        serde_json::from_str(&results).unwrap_or_else(|e| panic!("{e}: {results}"))
    }

    /// The message of a run that ended with `code` and no result: the end of stderr, one line,
    /// or more where a list is indented below it.
    pub fn error(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let errors: Vec<_> = self.stderr.match_indices("error: ").collect();
        let [(at, start)] = errors[..] else {
            panic!("{self:?}")
        };
        assert!(self.stderr[..at].is_empty() || self.stderr[..at].ends_with('\n'));
        let message = self.stderr[at + start.len()..].trim_end();
        let indented = |line: &str| line.starts_with("  ");
        assert!(message.lines().skip(1).all(indented), "{self:?}");
        message.to_string()
    }
}

/// Asserts that a message has each of some parts.
#[track_caller]
pub fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}
