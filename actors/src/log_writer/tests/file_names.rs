//! Which files belong to a log, by their names alone.

use super::names::{HOLES, finish_interrupted, half_moved, index_name, log_name, remove, remove_files, shift};
use super::*;

/// An empty directory and the name of a log in it.
fn empty() -> (TestDir, PathBuf) {
    let dir = TestDir::new();
    let log = dir.path().join("a.log");
    (dir, log)
}

/// Makes files whose content is their name.
fn make(names: &[PathBuf]) {
    for name in names {
        fs::write(name, name.to_str().unwrap()).unwrap();
    }
}

/// The log that was rotated away from `n` when only its index had been renamed.
fn half_rotated(log: &Path, n: u32) -> [PathBuf; 2] {
    [log_name(log, n), index_name(log, n + 1)]
}

fn pair(log: &Path, n: u32) -> [PathBuf; 2] {
    [log_name(log, n), index_name(log, n)]
}

fn present(log: &Path, n: u32) -> [bool; 2] {
    pair(log, n).map(|path| path.exists())
}

#[test]
fn the_current_file_has_the_logs_own_name_and_rotated_ones_a_number() {
    let log = Path::new("/l/a.log");
    let names = |n| pair(log, n).map(|path| path.to_str().unwrap().to_owned());
    assert_eq!(names(0), ["/l/a.log", "/l/a.log.idx"]);
    assert_eq!(names(1), ["/l/a.log.1", "/l/a.log.1.idx"]);
    assert_eq!(names(12), ["/l/a.log.12", "/l/a.log.12.idx"]);
}

#[test]
fn only_a_log_without_index_below_an_index_without_log_was_cut_off() {
    for below in [(false, false), (false, true), (true, false), (true, true)] {
        for above in [(false, false), (false, true), (true, false), (true, true)] {
            let expected = below == (true, false) && above == (false, true);
            assert_eq!(half_moved(below, above), expected, "{below:?} {above:?}");
        }
    }
}

#[test]
fn an_interrupted_rotation_is_found_wherever_it_was() {
    for n in 0..HOLES {
        let (_dir, log) = empty();
        make(&half_rotated(&log, n));
        finish_interrupted(&log).unwrap();
        assert_eq!((present(&log, n), present(&log, n + 1)), ([false; 2], [true; 2]), "at {n}");
        assert_eq!(fs::read_to_string(log_name(&log, n + 1)).unwrap(), log_name(&log, n).to_str().unwrap());
    }
}

/// Else a log of which a person deleted some files by hand would not be repaired, or not be removed.
#[test]
fn holes_are_counted_in_a_row() {
    let (dir, log) = empty();
    // As many in a row as may be, twice.
    let (second, third) = (HOLES, 2 * HOLES);
    make(&pair(&log, 0));
    make(&pair(&log, second));
    make(&half_rotated(&log, third));
    finish_interrupted(&log).unwrap();
    assert_eq!((present(&log, third), present(&log, third + 1)), ([false; 2], [true; 2]));
    assert_eq!((present(&log, 0), present(&log, second)), ([true; 2], [true; 2]), "whole ones stay where they are");

    fs::rename(log_name(&log, third + 1), log_name(&log, third)).unwrap();
    remove_files(&log).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_lies_behind_too_many_holes_is_not_the_logs() {
    let (_dir, log) = empty();
    make(&half_rotated(&log, HOLES));
    finish_interrupted(&log).unwrap();
    remove_files(&log).unwrap();
    assert!(half_rotated(&log, HOLES).iter().all(|path| path.exists()));
}

#[test]
fn a_file_that_cannot_be_renamed_or_removed_is_said() {
    // A regular file where nobody can do that, whoever they are.
    let log = Path::new("/sys/kernel/uevent_seqnum");
    assert!(matches!(shift(log, 3), Err(LogError::File { action: "renaming", path, .. }) if path == log));
    assert!(matches!(remove(log), Err(LogError::File { action: "deleting", path, .. }) if path == log));
}

#[test]
fn a_removal_goes_on_after_a_file_that_cannot_be_removed_and_says_so() {
    let (_dir, log) = empty();
    make(&[pair(&log, 0), pair(&log, 1), pair(&log, 2)].concat());
    fs::remove_file(log_name(&log, 1)).unwrap();
    fs::create_dir(log_name(&log, 1)).unwrap();
    let error = remove_files(&log).unwrap_err().to_string();
    assert!(error.contains("deleting") && error.contains("a.log.1"), "{error}");
    assert_eq!([0, 1, 2].map(|n| present(&log, n)), [[false, false], [true, false], [false, false]]);
    assert!(remove(&log).is_ok(), "one that is not there");
    assert!(remove(&log_name(&log, 1)).is_err());
}

#[test]
fn names_that_cannot_be_looked_at_are_no_free_names() {
    let (dir, _) = empty();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Not "no such file": what is there cannot be known.
    let error = shift(&file.join("a.log"), 3).unwrap_err().to_string();
    assert!(error.contains("looking at"), "{error}");
}

#[test]
fn a_rotation_moves_every_file_up_and_refuses_what_is_no_file() {
    let (_dir, log) = empty();
    make(&[pair(&log, 0), pair(&log, 1)].concat());
    shift(&log, 3).unwrap();
    assert_eq!([0, 1, 2, 3].map(|n| present(&log, n)), [[false; 2], [true; 2], [true; 2], [false; 2]]);
    assert_eq!(fs::read_to_string(log_name(&log, 1)).unwrap(), log.to_str().unwrap());

    make(&pair(&log, 0));
    fs::create_dir(log_name(&log, 3)).unwrap();
    assert!(matches!(shift(&log, 3), Err(LogError::NotRegular(path)) if path == log_name(&log, 3)));
    assert!([0, 1, 2].iter().all(|n| present(&log, *n) == [true; 2]), "nothing was moved");
}
