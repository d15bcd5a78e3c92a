//! Positions of times, on logs whose indexes are written by hand.

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::index::{Header, Record};
use super::*;

/// Ten bytes for each time, so many of them to a file; the oldest file first.
fn log_of(place: &Place, files: &[Vec<u64>]) {
    fs::create_dir_all(place.log().parent().unwrap()).unwrap();
    let mut base = 0;
    for (i, times) in files.iter().enumerate() {
        let n = u32::try_from(files.len() - 1 - i).unwrap();
        let at_us = times.first().copied().unwrap_or(0);
        let header = Header { base, generation: 1, generation_start: 0, stdout: base, stderr: 0, at_us };
        let mut index = header.encode().to_vec();
        for at_us in times {
            index.extend(Record::Chunk { position: base, stream: OutputStream::Stdout, at_us: *at_us }.encode());
            base += 10;
        }
        fs::write(place.index(n), index).unwrap();
        fs::write(place.numbered(n), vec![b'x'; times.len() * 10]).unwrap();
    }
}

fn at(us: u64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(i64::try_from(us).unwrap()).unwrap()
}

fn until(log: &Path, us: u64) -> (u64, bool) {
    let EndOfTime { position, is_end } = position_until(log, at(us)).unwrap();
    (position, is_end)
}

#[test]
fn times_are_found_over_files_and_beyond_their_ends() {
    let place = Place::new(4096, 5);
    log_of(&place, &[vec![10, 20, 30], vec![40], vec![50, 60]]);
    let log = place.log();
    for (time, since, before) in [
        (0, Some(0), (0, false)),
        (10, Some(0), (0, false)),
        (11, Some(10), (10, false)),
        (30, Some(20), (20, false)),
        (31, Some(30), (30, false)),
        (40, Some(30), (30, false)),
        (45, Some(40), (40, false)),
        (60, Some(50), (50, false)),
        (61, None, (60, true)),
    ] {
        assert_eq!(position_since(&log, at(time)).unwrap(), since, "since {time}");
        assert_eq!(until(&log, time), before, "until {time}");
    }
    for extreme in ["0000-01-01T00:00:00Z", "1969-12-31T23:59:59Z"] {
        let time = DateTime::parse_from_rfc3339(extreme).unwrap().to_utc();
        assert_eq!(position_since(&log, time).unwrap(), Some(0), "{extreme}");
        assert_eq!(position_until(&log, time).unwrap(), EndOfTime { position: 0, is_end: false }, "{extreme}");
    }
    assert_eq!(position_since(&log, DateTime::<Utc>::MAX_UTC).unwrap(), None);
    assert_eq!(position_until(&log, DateTime::<Utc>::MAX_UTC).unwrap(), EndOfTime { position: 60, is_end: true });
}

#[test]
fn a_log_without_a_file_has_no_times() {
    let place = Place::new(4096, 5);
    assert_eq!(position_since(&place.log(), at(0)).unwrap(), None);
    assert_eq!(until(&place.log(), 5), (0, true));
}

#[test]
fn more_files_than_are_held_open_are_all_looked_at() {
    let place = Place::new(4096, 200);
    let files: Vec<Vec<u64>> = (0..150).map(|i| vec![i * 10 + 10, i * 10 + 15]).collect();
    log_of(&place, &files);
    for i in [0, 3, 64, 86, 100, 149] {
        assert_eq!(position_since(&place.log(), at(i * 10 + 15)).unwrap(), Some(i * 20 + 10), "{i}");
        assert_eq!(until(&place.log(), i * 10 + 15), (i * 20 + 10, false), "{i}");
        assert_eq!(until(&place.log(), i * 10 + 10), (i * 20, false), "{i}");
    }
}

#[test]
fn where_the_clock_was_set_back_rather_more_is_found() {
    let place = Place::new(4096, 5);
    log_of(&place, &[vec![100, 110], vec![50, 60]]);
    assert_eq!(position_since(&place.log(), at(55)).unwrap(), Some(0), "100 is later");
    assert_eq!(position_since(&place.log(), at(105)).unwrap(), Some(10));
    assert_eq!(until(&place.log(), 105), (40, true), "60 is before");
}

#[test]
fn what_has_lost_its_index_is_older_than_all() {
    let place = Place::new(4096, 5);
    log_of(&place, &[vec![10, 20], vec![30, 40], vec![50, 60]]);
    fs::remove_file(place.index(1)).unwrap();
    assert_eq!(position_since(&place.log(), at(30)).unwrap(), Some(40));
    assert_eq!(position_since(&place.log(), at(15)).unwrap(), Some(10));
    assert_eq!(until(&place.log(), 50), (40, false));
    fs::write(place.index(0), b"rubbish").unwrap();
    assert_eq!(position_since(&place.log(), at(50)).unwrap(), None);
}

#[test]
fn a_tail_can_be_of_what_is_before_a_position() {
    let place = Place::new(4096, 5);
    log_of(&place, &[vec![10], vec![20]]);
    fs::write(place.numbered(1), "a\nbb\nccc\nd").unwrap();
    fs::write(place.numbered(0), "d\neeeeee\nf").unwrap();
    let tail = |lines, before| position_of_tail_before(&place.log(), lines, None, before).unwrap();
    assert_eq!((tail(1, u64::MAX), tail(2, u64::MAX)), (19, 12));
    assert_eq!((tail(1, 12), tail(2, 12), tail(9, 12)), (9, 5, 0));
    assert_eq!((tail(1, 9), tail(0, 9), tail(3, 0)), (5, 9, 0));
}

proptest! {
    #[test]
    fn times_that_only_grow_are_found_exactly(
        steps in prop::collection::vec(prop::collection::vec(0..3_u64, 1..6), 1..6),
        time in 0..40_u64,
    ) {
        let place = Place::new(4096, 9);
        let mut now = 1;
        let files: Vec<Vec<u64>> = steps.iter().map(|file| file.iter().map(|step| { now += step; now }).collect()).collect();
        log_of(&place, &files);
        let all: Vec<u64> = files.concat();
        let first = all.iter().position(|at| *at >= time).map(|i| i as u64 * 10);
        prop_assert_eq!(position_since(&place.log(), at(time)).unwrap(), first);
        let end = all.len() as u64 * 10;
        prop_assert_eq!(until(&place.log(), time), (first.unwrap_or(end), first.is_none()));
    }
}
