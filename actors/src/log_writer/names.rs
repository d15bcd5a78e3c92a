//! The files of one log by their names, and how rotation renames them.
//!
//! `X.log` is the current file, `X.log.1` the newest rotated one; beside each its index, `X.log.idx`,
//! `X.log.1.idx`. A rotation moves pairs up into the lowest free number (at most one of the oldest is
//! deleted for it), index first, then log. So after a crash in between, one index stands a number
//! above its log: [`finish_interrupted`] brings them together again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::LogError;

/// Numbers without any file after which a log is taken to have no more. A crash leaves at most one
/// hole, a person who deletes files by hand perhaps some.
pub(super) const HOLES: u32 = 8;

/// The `n`th file of a log: 0 the current one, 1 the newest rotated one.
pub(super) fn log_name(log: &Path, n: u32) -> PathBuf {
    with_suffix(log, n, "")
}

/// The index of the `n`th file.
pub(super) fn index_name(log: &Path, n: u32) -> PathBuf {
    with_suffix(log, n, ".idx")
}

fn with_suffix(log: &Path, n: u32, suffix: &str) -> PathBuf {
    let mut name = OsString::from(log);
    if n > 0 {
        name.push(format!(".{n}"));
    }
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a regular file has this name.
fn exists(path: &Path) -> Result<bool, LogError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(_) => Err(LogError::NotRegular(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(LogError::file("looking at", path)(e)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), LogError> {
    match fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LogError::file("renaming", from)(e)),
        _ => Ok(()),
    }
}

/// Deletes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<(), LogError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LogError::file("deleting", path)(e)),
        _ => Ok(()),
    }
}

/// Makes the current name free by moving every file up by one, `keep` rotated ones at most.
///
/// When it fails, every index is still beside its log and nothing but surplus old files is gone.
pub(super) fn shift(log: &Path, keep: u32) -> Result<(), LogError> {
    let keep = keep.max(1);
    let mut hole = None;
    for n in 1..=keep {
        // A directory in the way is found before anything is moved.
        let free = !exists(&log_name(log, n))?;
        exists(&index_name(log, n))?;
        if free && hole.is_none() {
            hole = Some(n);
        }
    }
    // A limit that was lowered leaves surplus files. The oldest first: a crash in between leaves no hole.
    let mut free = keep + 1;
    while exists(&log_name(log, free)).unwrap_or(false) {
        free += 1;
    }
    for n in (keep + 1..free).rev() {
        remove(&log_name(log, n))?;
        remove(&index_name(log, n))?;
    }
    let top = if let Some(hole) = hole {
        hole
    } else {
        remove(&log_name(log, keep))?;
        keep
    };
    // An index without its log would be taken for an interrupted rotation.
    remove(&index_name(log, top))?;
    for n in (0..top).rev() {
        rename(&index_name(log, n), &index_name(log, n + 1))?;
        if let Err(e) = rename(&log_name(log, n), &log_name(log, n + 1)) {
            // Best effort: if this fails as well, the next start finds and repairs it.
            let _ = rename(&index_name(log, n + 1), &index_name(log, n));
            return Err(e);
        }
    }
    Ok(())
}

/// Renames the log whose index a crash left one number above it.
pub(super) fn finish_interrupted(log: &Path) -> Result<(), LogError> {
    let present = |n: u32| (log_name(log, n).exists(), index_name(log, n).exists());
    let mut below = present(0);
    let mut holes = u32::from(below == (false, false));
    let mut n = 1;
    while holes < HOLES {
        let here = present(n);
        if half_moved(below, here) {
            return rename(&log_name(log, n - 1), &log_name(log, n));
        }
        holes = if here == (false, false) { holes + 1 } else { 0 };
        below = here;
        n += 1;
    }
    Ok(())
}

/// Whether a rotation was cut off between its two renames: (log, index) present at `n` and `n + 1`.
pub(super) fn half_moved(below: (bool, bool), above: (bool, bool)) -> bool {
    below == (true, false) && above == (false, true)
}

/// Removes a log: the current file, the rotated ones and their indexes. Blocks.
///
/// # Errors
/// The first [`LogError::File`], after everything else was removed.
pub fn remove_files(log: &Path) -> Result<(), LogError> {
    let mut first = Ok(());
    for path in files(log) {
        first = first.and(remove(&path));
    }
    first
}

/// The files of a log, the oldest first: when we die while they are removed in this order, there is no hole
/// that hides the rest from the next one.
fn files(log: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut holes = 0;
    let mut n = 0;
    while holes < HOLES {
        let before = found.len();
        let pair = [index_name(log, n), log_name(log, n)];
        found.extend(pair.into_iter().filter(|path| fs::symlink_metadata(path).is_ok()));
        holes = if found.len() > before { 0 } else { holes + 1 };
        n += 1;
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_that_was_cut_off_anywhere_is_finished_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let make = || (0..2 * HOLES).flat_map(|n| [log_name(&log, n), index_name(&log, n)]);
        let count = || fs::read_dir(dir.path()).unwrap().count();
        for cut in 0..=make().count() {
            for path in make() {
                fs::write(path, "").unwrap();
            }
            for path in &files(&log)[..cut] {
                remove(path).unwrap();
            }
            assert_eq!(count(), make().count() - cut);
            remove_files(&log).unwrap();
            assert_eq!(count(), 0, "cut off after {cut} files");
        }
    }
}
