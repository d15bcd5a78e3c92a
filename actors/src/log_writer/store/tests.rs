//! When a file is full, and which rotated ones are known.

use std::os::unix::fs::FileExt as _;

use super::super::index::HEADER_LEN;
use super::super::segment::now_us;
use super::*;

const KIB: u64 = 1 << 10;

#[test]
fn a_file_is_full_when_what_comes_does_not_fit() {
    let is_full = |len, need| is_full(len, HEADER_LEN, 4096, need);
    assert!(!is_full(4000, 96), "just");
    assert!(is_full(4000, 97));
    assert!(is_full(4096, 1));
    assert!(is_full(5000, 1), "one that could not be rotated in time");
    assert!(is_full(1, u64::MAX));
}

#[test]
fn an_empty_file_takes_what_is_larger_than_any_file() {
    assert!(!is_full(0, HEADER_LEN, 4096, 5000));
    assert!(!is_full(0, 64 * KIB, 4096, 1), "a new file would be no emptier");
}

#[test]
fn an_index_may_be_as_large_as_its_log_and_64_kib_in_any_case() {
    let is_full = |index_len, max| is_full(1, index_len, max, 1);
    assert!(!is_full(64 * KIB - 1, 4096));
    assert!(is_full(64 * KIB, 4096));
    assert!(!is_full(KIB * KIB - 1, KIB * KIB));
    assert!(is_full(KIB * KIB, KIB * KIB));
}

/// A follower that comes later shares a rotated file that somebody still reads; others are forgotten, or a log
/// that rotates for months would grow in memory.
#[test]
fn only_rotated_files_that_somebody_reads_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let limits = sandpen_types::spec::LogLimits { max_bytes: 4096, keep: 3, ..Default::default() };
    let mut store = Store::new(LogConfig::new(dir.path().join("a.log"), limits, 1));
    let fill = |store: &mut Store| {
        let room = store.prepare(OutputStream::Stdout, now_us(), 4096).unwrap();
        room.segment.log.write_all_at(&[b'x'; 4096], room.offset).unwrap();
        store.advance(OutputStream::Stdout, 4096);
        room.segment
    };
    let held = fill(&mut store);
    for _ in 0..5 {
        drop(fill(&mut store));
    }
    let rotated = store.segments.rotated();
    assert_eq!(rotated.len(), 2, "the one that is held, and the last one");
    assert!(rotated.iter().flatten().any(|known| Arc::ptr_eq(known, &held)));
}
