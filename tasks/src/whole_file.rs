//! Files that appear whole or not at all. Knows nothing of what they hold.

use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` beside `path`, syncs, and renames over `path`: a reader, or
/// a crash, never meets half a file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    // A temporary file is private by default; the result is an ordinary file,
    // whose mode the user's umask decides.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}
