//! Writing files and folders whole or not at all.
//!
//! Owns the order write beside, sync, rename, sync the folder, and the clearing up after a writer
//! that was killed. Does not know what is written.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

/// Letters that a temporary name draws.
const DRAWN: usize = 6;

/// Why something was not written. Nothing half-written is left at the path it names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused one step.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "write", "replace".
        action: &'static str,
        /// The file or folder that was asked for.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The path has no last part to write under, like `/` or `..`.
    #[error("cannot write {}: the path does not end in a name", path.display())]
    NoName {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// Something else lies where the folder should go; it is left alone.
    #[error(
        "will not replace {}: it holds no {mark}, so it was not written by this program; \
         choose another folder or remove it", path.display()
    )]
    NotOurs {
        /// The folder that was asked for.
        path: PathBuf,
        /// The file that every folder of this kind holds.
        mark: String,
    },
    /// The folder was written without the file by which it is recognised.
    #[error("{} was not written: its content lacks {mark}", path.display())]
    Unmarked {
        /// The folder that was asked for.
        path: PathBuf,
        /// The file that every folder of this kind holds.
        mark: String,
    },
}

/// Writes the file `path` in one step: a reader sees the old content or the new, never a part.
///
/// `write` gets a buffered writer to a temporary file in the same folder, which must exist. The
/// file is synced, renamed to `path`, and the folder is synced. If anything fails, `write`
/// included, the temporary file is removed and `path` is as before.
///
/// # Errors
/// [`FileError::Io`] with the step that failed, [`FileError::NoName`].
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let failed = |action| move |source| io_error(action, path, source);
    let (folder, prefix) = beside(path)?;
    let mut builder = temporary(&prefix);
    share(&mut builder, 0o666);
    let mut temporary = builder.tempfile_in(&folder).map_err(failed("write"))?;
    {
        let mut buffered = BufWriter::new(temporary.as_file_mut());
        write(&mut buffered)
            .and_then(|()| buffered.flush())
            .map_err(failed("write"))?;
    }
    temporary.as_file().sync_all().map_err(failed("sync"))?;
    temporary
        .persist(path)
        .map_err(|e| io_error("replace", path, e.error))?;
    sync_folder(&folder).map_err(failed("sync the folder of"))
}

/// Writes the folder `path` in one step; `mark` is a file that every folder of its kind holds.
///
/// `write` fills a hidden folder beside `path`. When it is done everything is synced and the
/// folder is renamed to `path`. A folder that is already there is replaced only if it is empty
/// or holds `mark`: the two are exchanged in one step of the file system, so that `path` is the
/// old or the new folder at any moment, and the old one is removed.
///
/// Where the file system cannot exchange, the old folder is renamed away and the new one in. A
/// crash between these two leaves no folder at `path`, and both complete beside it; [`settle`]
/// puts the old one back. If a step fails rather than crashes, it is put back at once.
///
/// # Errors
/// [`FileError::NotOurs`] before anything is written; [`FileError::Unmarked`];
/// [`FileError::Io`] with the step that failed; [`FileError::NoName`].
pub fn write_folder(
    path: &Path,
    mark: &str,
    write: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), FileError> {
    let failed = |action| move |source| io_error(action, path, source);
    let (folder, prefix) = beside(path)?;
    check_replaceable(path, mark)?;
    let mut builder = temporary(&prefix);
    share(&mut builder, 0o777);
    let temporary = builder.tempdir_in(&folder).map_err(failed("write"))?;
    write(temporary.path()).map_err(failed("write"))?;
    if !temporary.path().join(mark).exists() {
        return Err(FileError::Unmarked {
            path: path.into(),
            mark: mark.into(),
        });
    }
    sync_tree(temporary.path()).map_err(failed("sync"))?;
    // A second look: `write` may have taken hours.
    if !check_replaceable(path, mark)? {
        fs::rename(temporary.path(), path).map_err(failed("write"))?;
        let _ = temporary.keep();
        return sync_folder(&folder).map_err(failed("sync the folder of"));
    }
    if exchange(temporary.path(), path).map_err(failed("replace"))? {
        sync_folder(&folder).map_err(failed("sync the folder of"))?;
        return temporary
            .close()
            .map_err(failed("remove the old content of"));
    }
    let old = temporary.path().with_extension("old");
    fs::rename(path, &old).map_err(failed("replace"))?;
    if let Err(source) = fs::rename(temporary.path(), path) {
        // The rename's own error is the one to report.
        let _ = fs::rename(&old, path);
        return Err(io_error("replace", path, source));
    }
    let _ = temporary.keep();
    sync_folder(&folder).map_err(failed("sync the folder of"))?;
    fs::remove_dir_all(&old).map_err(failed("remove the old content of"))
}

/// Makes `a` what `b` is and `b` what `a` is, in one step; false where this cannot be done.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Clears up after a writer of `path` that was killed: removes what it had begun beside `path`,
/// and puts back an old folder that it had renamed away. Nobody may be writing `path` meanwhile.
///
/// # Errors
/// [`FileError::Io`], [`FileError::NoName`].
pub fn settle(path: &Path) -> Result<(), FileError> {
    let failed = |action| move |source| io_error(action, path, source);
    let (folder, prefix) = beside(path)?;
    let prefix = prefix.as_encoded_bytes();
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("look beside"))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("look beside"))?;
        let name = entry.file_name();
        let Some(rest) = name.as_encoded_bytes().strip_prefix(prefix) else {
            continue;
        };
        let (old, drawn) = match (rest.strip_suffix(b".old"), rest.strip_suffix(b".tmp")) {
            (Some(drawn), _) => (true, drawn),
            (_, Some(drawn)) => (false, drawn),
            _ => continue,
        };
        if drawn.len() != DRAWN || !drawn.iter().all(u8::is_ascii_alphanumeric) {
            continue;
        }
        let found = entry.path();
        if old && !path.exists() {
            fs::rename(&found, path).map_err(failed("restore"))?;
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&found).map_err(failed("clear up beside"))?;
        } else {
            fs::remove_file(&found).map_err(failed("clear up beside"))?;
        }
    }
    Ok(())
}

/// Whether something of ours lies at `path`; an error if something else does.
fn check_replaceable(path: &Path, mark: &str) -> Result<bool, FileError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(io_error("look at", path, source)),
        Ok(found) if !found.is_dir() => {}
        Ok(_) => {
            let mut entries = fs::read_dir(path).map_err(|e| io_error("look at", path, e))?;
            if path.join(mark).exists() || entries.next().is_none() {
                return Ok(true);
            }
        }
    }
    Err(FileError::NotOurs {
        path: path.into(),
        mark: mark.into(),
    })
}

/// The folder that holds `path`, and the hidden prefix of temporary siblings.
fn beside(path: &Path) -> Result<(PathBuf, OsString), FileError> {
    let name = path
        .file_name()
        .ok_or_else(|| FileError::NoName { path: path.into() })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    Ok((folder.into(), prefix))
}

/// A maker of hidden siblings that [`settle`] knows again.
fn temporary(prefix: &OsString) -> Builder<'_, 'static> {
    let mut builder = Builder::new();
    builder.prefix(prefix).suffix(".tmp").rand_bytes(DRAWN);
    builder
}

/// Temporary files are private by default; what is renamed into place must not be.
#[cfg(unix)]
fn share(builder: &mut Builder<'_, '_>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(fs::Permissions::from_mode(mode));
}

#[cfg(not(unix))]
fn share(_: &mut Builder<'_, '_>, _: u32) {}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file; the rename is as durable as the system makes it.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io {
        action,
        path: path.into(),
        source,
    }
}
