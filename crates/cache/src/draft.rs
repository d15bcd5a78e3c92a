//! Files in the making: locked by whoever writes to them, so that one which nobody holds is told from others, and
//! goes.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What their names begin with.
const PREFIX: &str = ".draft-";

/// A file in the making. Locked for as long as it, or a copy of its descriptor, is open: a program that is given one
/// keeps it for as long as it may write. Dropping it removes it.
#[derive(Debug)]
pub struct Draft(NamedTempFile);

impl Draft {
    /// A new one, empty, for our user alone.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(directory: &Path) -> io::Result<Self> {
        Self::with_mode(directory, 0o600)
    }

    /// A new one with this mode, which has to have its owner's right to read.
    ///
    /// # Errors
    /// What the system said.
    pub fn with_mode(directory: &Path, mode: u32) -> io::Result<Self> {
        loop {
            let permissions = Permissions::from_mode(mode);
            let draft =
                tempfile::Builder::new().prefix(PREFIX).permissions(permissions.clone()).tempfile_in(directory)?;
            // Whatever the process's umask is.
            draft.as_file().set_permissions(permissions)?;
            // Shared, so that the lock can be taken over by another descriptor; a sweep takes it alone.
            draft.as_file().lock_shared()?;
            // Somebody may have removed it in between.
            if draft.as_file().metadata()?.nlink() > 0 {
                return Ok(Self(draft));
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        self.0.as_file()
    }

    /// Gives it its name: all that was written is on the disk then, and this process has it open no more, so that a
    /// program can be executed at once. What had the name before is replaced.
    ///
    /// # Errors
    /// What the system said; the draft is gone, and what had the name is unchanged, but for a last step that fails: the
    /// name is there then, and may not outlive a power failure.
    pub fn commit(self, path: &Path) -> io::Result<()> {
        self.file().sync_all()?;
        // Nobody may take it for abandoned between the end of writing and the renaming.
        let held = File::open(self.path())?;
        held.lock_shared()?;
        self.0.into_temp_path().persist(path).map_err(|error| error.error)?;
        drop(held);
        File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
    }
}

/// Removes those that nobody writes to, their makers died; says which.
pub fn sweep(directory: &Path) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    for path in drafts(directory) {
        match remove_abandoned(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::debug!(%error, ?path, "a file that was never finished stays"),
        }
    }
    removed
}

/// Removes one, unless somebody holds it: [`io::ErrorKind::WouldBlock`].
pub(crate) fn remove_abandoned(path: &Path) -> io::Result<()> {
    // Locked until it is removed: whoever has just made it and waits for the lock sees that it is gone.
    let file = open(path)?;
    file.try_lock()?;
    fs::remove_file(path)
}

/// Whether somebody writes to one.
pub(crate) fn is_held(path: &Path) -> bool {
    open(path).is_ok_and(|file| file.try_lock().is_err())
}

/// Those that are there, held by somebody or not.
pub(crate) fn drafts(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_draft(path)).collect()
}

/// Whether a path is named as those are.
pub fn is_draft(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

/// A file, without waiting for what is none.
fn open(path: &Path) -> io::Result<File> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_file() { File::open(path) } else { Err(io::ErrorKind::InvalidInput.into()) }
}
