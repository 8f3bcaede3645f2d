//! The hub's cache on the disk, as `huggingface_hub` lays it out.
//!
//! Owns where blobs, references and snapshots are, and that each is there whole or not at all:
//!
//! ```text
//! models--org--name/
//!   blobs/ETAG                          the files, by the hub's mark of their content
//!   blobs/ETAG.incomplete               what an interrupted download left
//!   refs/main                           the commit of a branch or tag
//!   snapshots/COMMIT/model.safetensors  a link to a blob
//!   .no_exist/COMMIT/vocab.json         a file that the commit does not have
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::{HubId, Part};
use crate::source::{Folder, SourceError, layout};

/// A model's place in the cache.
#[derive(Debug)]
pub(super) struct Cache {
    /// The folder of the model.
    model: PathBuf,
    /// The folder of its locks.
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "nobody writes"))]
    locks: PathBuf,
    id: HubId,
}

/// What the cache has of a commit.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Its files.
    pub folder: Folder,
    /// Where the files are marked that it does not have.
    absent: PathBuf,
}

impl Cache {
    pub fn new(cache: &Path, id: &HubId) -> Self {
        let name = format!("models--{}", id.model().replace('/', "--"));
        Self {
            model: cache.join(&name),
            locks: cache.join(".locks").join(name),
            id: id.clone(),
        }
    }

    /// What there is of the id's revision.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, SourceError> {
        let commit = self.commit();
        if !self.path(&commit).is_dir() {
            return Ok(None);
        }
        Ok(Some(Snapshot {
            folder: self.folder(&commit)?,
            absent: self.absent(&commit),
        }))
    }

    /// The files of a commit.
    pub fn folder(&self, commit: &str) -> Result<Folder, SourceError> {
        Folder::open(&self.path(commit), format!("`{}`", self.id))
    }

    /// Where files belong that are put into place by hand.
    pub fn place(&self) -> PathBuf {
        self.path(&self.commit())
    }

    /// The commit that the id's revision stood for last. A revision that nobody looked up stands
    /// for itself: a whole commit does, and so does a folder that was filled by hand.
    fn commit(&self) -> String {
        let revision = self.id.revision();
        let stored = fs::read_to_string(self.reference()).unwrap_or_default();
        match stored.trim() {
            commit if layout::is_plain(commit) => commit.into(),
            _ => revision.into(),
        }
    }

    fn reference(&self) -> PathBuf {
        self.model.join("refs").join(self.id.revision())
    }

    fn path(&self, commit: &str) -> PathBuf {
        self.model.join("snapshots").join(commit)
    }

    fn absent(&self, commit: &str) -> PathBuf {
        self.model.join(".no_exist").join(commit)
    }
}

impl Snapshot {
    /// Whether a part is there, as far as can be told without the hub.
    pub fn holds(&self, part: Part) -> bool {
        let weights = || self.folder.weights().is_ok();
        match part {
            Part::Description => !self.folder.names().is_empty(),
            Part::Tokenizer => self.folder.tokenizer().is_some() || weights(),
            Part::Everything => weights(),
        }
    }

    /// Whether a part is there, and the hub is known to have no more of it.
    pub fn settles(&self, part: Part) -> bool {
        let names = self.folder.names();
        let known = |name: &str| names.contains(name) || self.absent.join(name).exists();
        let worded = || self.folder.tokenizer().is_some() || layout::vocabularies().all(known);
        self.holds(part)
            && layout::DESCRIPTIONS.into_iter().all(known)
            && (part == Part::Description || worded())
    }
}

#[cfg(feature = "hub")]
mod writing {
    //! The half of the cache that downloads need.

    use std::fs::{File, OpenOptions, TryLockError};
    use std::io;

    use super::*;
    use crate::file;
    use crate::hub::HubError;

    impl Cache {
        /// Notes which commit the id's revision stands for. The commit has a folder then, even
        /// where nothing of it was wanted.
        pub fn refer(&self, commit: &str) -> Result<(), HubError> {
            let folder = self.path(commit);
            std::fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
            if self.id.is_pinned() || self.commit() == commit {
                return Ok(());
            }
            let path = self.reference();
            make_parent(&path)?;
            file::write_whole(&path, |out| out.write_all(commit.as_bytes()))?;
            Ok(())
        }

        /// Marks files that a commit does not have. Only saves time, so that a cache which cannot
        /// be written still can be read.
        pub fn mark_absent<'a>(&self, commit: &str, names: impl Iterator<Item = &'a str>) {
            let folder = self.absent(commit);
            for path in names.map(|name| folder.join(name)) {
                if !path.exists() && make_parent(&path).is_ok() {
                    let _ = File::create(path);
                }
            }
        }

        /// Whether a commit's file is there.
        pub fn has(&self, commit: &str, name: &str) -> bool {
            self.path(commit).join(name).is_file()
        }

        /// Where the content with the mark `etag` is, once it is whole.
        pub fn blob(&self, etag: &str) -> PathBuf {
            self.model.join("blobs").join(etag)
        }

        /// Where it grows.
        pub fn growing(&self, etag: &str) -> PathBuf {
            self.model.join("blobs").join(format!("{etag}.incomplete"))
        }

        /// Waits until nobody else downloads this content; holds it until dropped. `waits` is
        /// called where it takes a while.
        pub fn lock(&self, etag: &str, waits: impl FnOnce()) -> Result<File, HubError> {
            let path = self.locks.join(format!("{etag}.lock"));
            make_parent(&path)?;
            let lock = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(failed("open", &path))?;
            let taken = match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    waits();
                    lock.lock()
                }
                Err(TryLockError::Error(error)) => Err(error),
                Ok(()) => Ok(()),
            };
            match taken {
                // Some network file systems know no locks; of two downloads at once there one may
                // fail, and the next goes on with what it left.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(lock),
                Err(error) => Err(failed("lock", &path)(error)),
                Ok(()) => Ok(lock),
            }
        }

        /// Makes the content with the mark `etag` a commit's file.
        pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
            let path = self.path(commit).join(name);
            make_parent(&path)?;
            // A link to a blob that is gone is in the way of one to a blob that is there.
            if path.is_symlink() && !path.exists() {
                std::fs::remove_file(&path).map_err(failed("replace", &path))?;
            }
            match link_file(&self.blob(etag), etag, &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(failed("link", &path)(error))
                }
                _ => Ok(()),
            }
        }
    }

    #[cfg(unix)]
    fn link_file(_: &Path, etag: &str, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), path)
    }

    /// Elsewhere links to files by path need a privilege.
    #[cfg(not(unix))]
    fn link_file(blob: &Path, _: &str, path: &Path) -> io::Result<()> {
        std::fs::hard_link(blob, path)
    }

    /// Makes the folder that `path` goes into.
    pub fn make_parent(path: &Path) -> Result<(), HubError> {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder).map_err(failed("make", folder))
    }

    pub fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> HubError {
        move |source| HubError::Io {
            action,
            path: path.into(),
            source,
        }
    }
}
#[cfg(feature = "hub")]
pub(super) use writing::{failed, make_parent};
