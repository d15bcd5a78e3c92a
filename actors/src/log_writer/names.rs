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

use sandpen_types::spec::LOG_KEEP_MAX;

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

/// What a rotation does, told by what is there.
#[derive(Debug, PartialEq, Eq)]
struct Shift {
    /// Everything below this number moves up by one; what stands here is the oldest one and goes.
    top: u32,
    /// Numbers above the limit that have files, the oldest last.
    surplus: Vec<u32>,
}

impl Shift {
    /// For a log that keeps `keep` rotated files; `look` says which of log and index a number has. It looks at
    /// the numbers that have files, one more, and [`HOLES`] above the limit, however high that is.
    fn plan(keep: u32, mut look: impl FnMut(u32) -> Result<(bool, bool), LogError>) -> Result<Self, LogError> {
        let mut top = 1;
        // A directory in the way is found before anything is moved.
        while look(top)?.0 && top < keep {
            top += 1;
        }
        // A limit that was lowered leaves surplus files.
        let mut surplus = Vec::new();
        let mut holes = 0;
        let mut n = keep + 1;
        while holes < HOLES {
            if matches!(look(n), Ok((false, false)) | Err(_)) {
                holes += 1;
            } else {
                holes = 0;
                surplus.push(n);
            }
            n += 1;
        }
        Ok(Self { top, surplus })
    }
}

/// Makes the current name free by moving every file up by one, `keep` rotated ones at most, of which there are
/// 1 to [`LOG_KEEP_MAX`]: a sandbox that an older sandpen recorded may ask for more.
///
/// When it fails, every index is still beside its log and nothing but surplus old files is gone.
pub(super) fn shift(log: &Path, keep: u32) -> Result<(), LogError> {
    let look = |n| Ok((exists(&log_name(log, n))?, exists(&index_name(log, n))?));
    let Shift { top, surplus } = Shift::plan(keep.clamp(1, LOG_KEEP_MAX), look)?;
    // The oldest first: a crash in between leaves no hole.
    for n in surplus.into_iter().rev().chain([top]) {
        remove(&log_name(log, n))?;
        // An index without its log would be taken for an interrupted rotation.
        remove(&index_name(log, n))?;
    }
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
    for path in files_of(log) {
        first = first.and(remove(&path));
    }
    first
}

/// The files of a log, the oldest first: when we die while they are removed in this order, there is no hole
/// that hides the rest from the next one.
pub fn files_of(log: &Path) -> Vec<PathBuf> {
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Files by number: who wrote the log and the index, each told by the number that it began with.
    type Files = BTreeMap<u32, [Option<u32>; 2]>;

    fn names(log: &Path, n: u32) -> [PathBuf; 2] {
        [log_name(log, n), index_name(log, n)]
    }

    fn write(log: &Path, files: &Files) {
        for (n, pair) in files {
            for (path, text) in names(log, *n).iter().zip(pair) {
                if let Some(text) = text {
                    fs::write(path, text.to_string()).unwrap();
                }
            }
        }
    }

    /// What stands at the numbers below `end`.
    fn read(log: &Path, end: u32) -> Files {
        let text = |path: PathBuf| Some(fs::read_to_string(path).ok()?.parse().unwrap());
        let all = (0..end).map(|n| (n, names(log, n).map(text)));
        all.filter(|(_, pair)| *pair != [None; 2]).collect()
    }

    /// A rotation of files that are only thought of.
    fn shifted(files: &Files, keep: u32) -> Files {
        let has_log = |n: u32| files.get(&n).is_some_and(|pair| pair[0].is_some());
        let top = (1..keep).find(|n| !has_log(*n)).unwrap_or(keep);
        let mut holes = 0;
        let mut gone = vec![top];
        for n in (keep + 1).. {
            holes = if files.contains_key(&n) { 0 } else { holes + 1 };
            if holes == HOLES {
                break;
            }
            gone.push(n);
        }
        let moved = |n: u32| if n < top { n + 1 } else { n };
        files.iter().filter(|(n, _)| !gone.contains(n)).map(|(n, pair)| (moved(*n), *pair)).collect()
    }

    proptest! {
        #[test]
        fn a_rotation_is_as_the_model_says(
            present in proptest::collection::btree_map(0_u32..40, any::<[bool; 2]>(), 0..40),
            keep in prop_oneof![1_u32..45, Just(LOG_KEEP_MAX), Just(u32::MAX - 1), Just(u32::MAX)],
        ) {
            let dir = tempfile::tempdir().unwrap();
            let log = dir.path().join("a.log");
            let pairs = present.into_iter().map(|(n, present)| (n, present.map(|here| here.then_some(n))));
            let files: Files = pairs.filter(|(_, pair)| *pair != [None; 2]).collect();
            write(&log, &files);
            shift(&log, keep).unwrap();
            prop_assert_eq!(read(&log, 60), shifted(&files, keep.min(LOG_KEEP_MAX)));
            prop_assert!(!log.exists(), "the current name is free");
        }

        #[test]
        fn a_rotation_looks_at_what_is_there_and_little_more(
            files in 0_u32..50, surplus in 0_u32..50, keep in 60..=LOG_KEEP_MAX,
        ) {
            let mut looks = 0;
            let there = |n: u32| (1..=files).contains(&n) || (keep + 1..=keep + surplus).contains(&n);
            let look = |n| { looks += 1; Ok((there(n), there(n))) };
            let shift = Shift::plan(keep, look).unwrap();
            let above: Vec<u32> = (keep + 1..=keep + surplus).collect();
            prop_assert_eq!(shift, Shift { top: files + 1, surplus: above });
            prop_assert_eq!(looks, files + 1 + surplus + HOLES);
        }
    }

    #[test]
    fn what_is_in_the_way_is_found_before_anything_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let files: Files = [0, 1, 2, 5].into_iter().map(|n| (n, [Some(n); 2])).collect();
        write(&log, &files);
        let in_the_way = index_name(&log, 3);
        fs::create_dir(&in_the_way).unwrap();
        assert!(matches!(shift(&log, 4), Err(LogError::NotRegular(path)) if path == in_the_way));
        fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(read(&log, 60), files);
    }

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
            for path in &files_of(&log)[..cut] {
                remove(path).unwrap();
            }
            assert_eq!(count(), make().count() - cut);
            remove_files(&log).unwrap();
            assert_eq!(count(), 0, "cut off after {cut} files");
        }
    }
}
