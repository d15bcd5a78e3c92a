//! Files in the making: locked by whoever writes to them, so that one which nobody holds is told from others, and
//! goes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

/// What their names begin with.
const PREFIX: &str = ".draft-";

/// A new one, locked for as long as it, or a copy of its descriptor, is open. Dropping it removes it.
pub(super) fn create(directory: &Path) -> io::Result<NamedTempFile> {
    loop {
        let draft = tempfile::Builder::new().prefix(PREFIX).tempfile_in(directory)?;
        draft.as_file().lock()?;
        // Somebody may have removed it in between.
        if draft.as_file().metadata()?.nlink() > 0 {
            return Ok(draft);
        }
    }
}

/// Removes those that nobody writes to: dead daemons'.
pub(super) fn sweep(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // Locked until it is removed: whoever has just made it and waits for the lock sees that it is gone.
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock().is_ok()
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::debug!(%error, path = ?entry.path(), "a file that was never finished stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_goes() {
        let dir = tempfile::tempdir().unwrap();
        let held = create(dir.path()).unwrap();
        let (_, abandoned) = create(dir.path()).unwrap().keep().unwrap();
        let copied = create(dir.path()).unwrap();
        let copy = copied.as_file().try_clone().unwrap();
        let (_, copied) = copied.keep().unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        sweep(dir.path());
        assert_eq!([held.path(), &abandoned, &copied].map(Path::exists), [true, false, true]);
        drop(copy);
        sweep(dir.path());
        assert!(!copied.exists() && dir.path().join("other").exists());
    }
}
