//! Property tests: the index codec, and the store against a model that crashes at will.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::index::{HEADER_LEN, Header, RECORD_LEN, Record};
use super::segment::now_us;
use super::store::Store;
use super::*;

fn stream() -> impl Strategy<Value = OutputStream> {
    prop_oneof![Just(OutputStream::Stdout), Just(OutputStream::Stderr)]
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (0..=1_u64 << 62, stream(), any::<u64>()).prop_map(|(position, stream, at_us)| Record::Chunk {
            position,
            stream,
            at_us
        }),
        (0..=1_u64 << 62, any::<u64>()).prop_map(|(position, generation)| Record::Generation { position, generation }),
        (0..=1_u64 << 62, stream(), any::<u64>()).prop_map(|(position, stream, bytes)| Record::Dropped {
            position,
            stream,
            bytes
        }),
        (0..=1_u64 << 62, stream(), any::<u64>()).prop_map(|(position, stream, bytes)| Record::DroppedBefore {
            position,
            stream,
            bytes
        }),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    (0..=1_u64 << 62, any::<[u64; 5]>()).prop_map(|(base, [generation, generation_start, stdout, stderr, at_us])| {
        Header { base, generation, generation_start, stdout, stderr, at_us }
    })
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        stream: OutputStream,
        len: usize,
    },
    /// The index entry was written, its bytes were not.
    Prepare(OutputStream),
    /// So many bytes are dropped, after more were claimed.
    Drop {
        stream: OutputStream,
        bytes: u64,
        claimed: u64,
    },
    /// The process dies; this many bytes of a further index record were written before.
    Crash {
        partial: usize,
    },
    NextGeneration,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (stream(), 1_usize..3000).prop_map(|(stream, len)| Step::Write { stream, len }),
        1 => stream().prop_map(Step::Prepare),
        3 => (stream(), 0_u64..5000, 0_u64..100).prop_map(|(stream, bytes, more)| Step::Drop { stream, bytes, claimed: bytes + more }),
        2 => (0_usize..24).prop_map(|partial| Step::Crash { partial }),
        1 => Just(Step::NextGeneration),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_come_back(record in record(), header in header()) {
        prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        prop_assert_eq!(Header::decode(&header.encode()), Some(header));
    }

    #[test]
    fn one_wrong_byte_is_noticed(record in record(), header in header(), at in 0_usize..64, flip in 1_u8..) {
        let mut bytes = record.encode();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip;
            prop_assert_eq!(Record::decode(&bytes), None);
        }
        let mut bytes = header.encode();
        bytes[at] ^= flip;
        prop_assert_eq!(Header::decode(&bytes), None);
    }

    #[test]
    fn garbage_is_read_without_harm(
        index in proptest::collection::vec(any::<u8>(), 0..500),
        records in proptest::collection::vec(record(), 0..20),
        header in header(),
        log in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let _ = Record::decode(&index);
        let _ = Header::decode(&index);
        // A valid header before it, and valid records with any numbers in between.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, &log).unwrap();
        let mut bytes = header.encode().to_vec();
        bytes.extend(records.iter().flat_map(Record::encode));
        bytes.extend(&index);
        fs::write(dir.path().join("x.log.idx"), bytes).unwrap();
        let got = run(collect(LogFollower::of_files(&path, FollowFrom::Oldest).unwrap())).unwrap();
        prop_assert_eq!(got.all, log);
        let _ = position_of_tail(&path, 3, Some(OutputStream::Stderr)).unwrap();
    }

    #[test]
    fn the_store_keeps_its_counters_over_crashes(steps in proptest::collection::vec(step(), 1..60)) {
        let place = Place::new(4096, 100);
        let mut generation = 1;
        let mut store = Store::new(place.config(generation));
        let mut expected = Got::default();
        let (mut out, mut err) = (0, 0);
        let mut lost = [0_u64; 2];
        let mut gaps = BTreeMap::new();
        let bytes = pattern(11, 3000);
        for step in steps {
            match step {
                Step::Write { stream, len } => {
                    let mut rest = &bytes[..len];
                    while !rest.is_empty() {
                        let room = store.prepare(stream, now_us(), 1).unwrap();
                        let n = rest.len().min(usize::try_from(room.free).unwrap());
                        room.segment.log.write_all_at(&rest[..n], room.offset).unwrap();
                        let position = store.advance(stream, n as u64);
                        prop_assert_eq!(position, expected.all.len() as u64);
                        expected.all.extend(&rest[..n]);
                        match stream {
                            OutputStream::Stdout => (out += n, expected.stdout.extend(&rest[..n])).1,
                            OutputStream::Stderr => (err += n, expected.stderr.extend(&rest[..n])).1,
                        }
                        rest = &rest[n..];
                    }
                }
                Step::Drop { stream, bytes, claimed } => {
                    store.prepare_to_drop(now_us()).unwrap();
                    store.drop_bytes(stream, claimed);
                    store.undrop_bytes(stream, claimed - bytes);
                    lost[usize::from(stream == OutputStream::Stderr)] += bytes;
                    if bytes > 0 {
                        let at = (expected.all.len() as u64, stream == OutputStream::Stderr);
                        *gaps.entry(at).or_insert(0) += bytes;
                    }
                }
                Step::Prepare(stream) => drop(store.prepare(stream, now_us(), 1).unwrap()),
                Step::Crash { partial } => {
                    drop(store);
                    if let Ok(index) = File::options().write(true).open(place.index(0)) {
                        let record = Record::Generation { position: 0, generation: 99 }.encode();
                        let len = index.metadata().unwrap().len();
                        let whole = len - (len - HEADER_LEN) % RECORD_LEN;
                        index.write_all_at(&record[..partial], whole).unwrap();
                    }
                    store = Store::new(place.config(generation));
                }
                Step::NextGeneration => {
                    drop(store);
                    generation += 1;
                    (out, err) = (0, 0);
                    lost = [0; 2];
                    store = Store::new(place.config(generation));
                }
            }
            store.recover().unwrap();
            prop_assert!(store.take_notes().is_empty());
            let totals = StreamTotals { stdout: out as u64, stderr: err as u64, position: expected.all.len() as u64, dropped_stdout: lost[0], dropped_stderr: lost[1] };
            prop_assert_eq!(store.totals(), totals);
        }
        drop(store);
        let mut got = run(files(&place.log(), FollowFrom::Oldest));
        let mut read = BTreeMap::new();
        for (position, stream, bytes) in std::mem::take(&mut got.dropped) {
            *read.entry((position, stream == OutputStream::Stderr)).or_insert(0) += bytes;
        }
        prop_assert_eq!(read, gaps);
        prop_assert!(got == expected);
    }
}
