//! What an index may hold and what is no part of one, though its checksum is right.

use std::io::Write as _;

use super::*;

const HEADER: Header = Header { base: 7, generation: 2, generation_start: 3, stdout: 4, stderr: 5, at_us: 6 };

/// The header with one place changed, and its checksum made right again.
fn forged_header(at: usize, byte: u8) -> [u8; HEADER_BYTES] {
    let mut bytes = HEADER.encode();
    bytes[at] = byte;
    let sum = checksum(&bytes[..12], &bytes[16..]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn forged_record(record: Record, at: usize, byte: u8) -> [u8; RECORD_BYTES] {
    let mut bytes = record.encode();
    bytes[at] = byte;
    let sum = checksum(&bytes[..4], &bytes[8..]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn chunk(position: u64) -> Record {
    Record::Chunk { position, stream: OutputStream::Stderr, at_us: position + 1 }
}

#[test]
fn a_header_of_another_format_is_none() {
    assert_eq!(Header::decode(&forged_header(8, 1)), Some(HEADER), "the forger knows the checksum");
    for (at, what) in [(0, "magic"), (8, "version"), (9, "version"), (10, "length of a record")] {
        assert_eq!(Header::decode(&forged_header(at, 0xEE)), None, "{what}");
    }
    assert_eq!(Header::decode(&HEADER.encode()[..HEADER_BYTES - 1]), None);
}

#[test]
fn a_record_of_another_format_is_none() {
    let generation = Record::Generation { position: 8, generation: 3 };
    assert_eq!(Record::decode(&forged_record(generation, 1, 0)), Some(generation), "the forger knows the checksum");
    assert_eq!(Record::decode(&forged_record(generation, 1, 1)), None, "a generation is of no stream");
    assert_eq!(Record::decode(&forged_record(chunk(8), 1, 2)), None, "no such stream");
    assert_eq!(Record::decode(&forged_record(chunk(8), 0, 0)), None, "no such kind");
    assert_eq!(Record::decode(&forged_record(chunk(8), 0, 6)), None, "no such kind");
    let lost = Record::LostCount { position: 8 };
    assert_eq!(Record::decode(&lost.encode()), Some(lost));
    assert_eq!(Record::decode(&forged_record(lost, 1, 1)), None, "it is of no stream");
    assert_eq!(Record::decode(&chunk(8).encode()[..RECORD_BYTES - 1]), None);
    assert_eq!(Record::decode(&[chunk(8).encode(), chunk(9).encode()].concat()), None);
}

/// Readers add lengths to positions.
#[test]
fn no_position_is_so_large_that_a_sum_could_overflow() {
    let header = |base| Header { base, ..HEADER };
    for position in [0, POSITION_MAX] {
        assert_eq!(Record::decode(&chunk(position).encode()), Some(chunk(position)));
        assert_eq!(Header::decode(&header(position).encode()), Some(header(position)));
    }
    assert_eq!(Record::decode(&chunk(POSITION_MAX + 1).encode()), None);
    assert_eq!(Header::decode(&header(POSITION_MAX + 1).encode()), None);
}

#[test]
fn an_index_is_scanned_to_its_last_whole_record() {
    // More than are read at once, a damaged one among them, and half a record at the end.
    let count = 2 * BLOCK_RECORDS as u64 + 3;
    let mut bytes = HEADER.encode().to_vec();
    for n in 0..count {
        bytes.extend(chunk(HEADER.base + n * 10).encode());
    }
    bytes[HEADER_BYTES + RECORD_BYTES] ^= 1;
    bytes.extend(&chunk(HEADER.base + count * 10).encode()[..RECORD_BYTES - 1]);
    let mut index = tempfile::tempfile().unwrap();
    index.write_all(&bytes).unwrap();

    assert_eq!(Header::read(&index).unwrap(), Some(HEADER));
    let scan = |log_len| scan(&index, &HEADER, log_len).unwrap();
    let whole = scan(count * 10);
    assert_eq!((whole.index_len, whole.missing), (HEADER_LEN + count * RECORD_LEN, 0));
    // Ten bytes before the damaged record are of stderr, so its own go on with that.
    assert_eq!((whole.end.position, whole.end.stdout), (HEADER.base + count * 10, HEADER.stdout));
    assert_eq!(whole.end.stderr, HEADER.stderr + count * 10);
    let last = HEADER.base + (count - 1) * 10;
    assert_eq!((whole.end.stream, whole.end.at_us), (OutputStream::Stderr, last + 1));
    // The log lost its last bytes: those of the last record and four of the one before.
    let shorter = scan(count * 10 - 14);
    assert_eq!((shorter.missing, shorter.end.position), (4, last));
}

#[test]
fn an_index_without_a_whole_header_has_none() {
    let mut index = tempfile::tempfile().unwrap();
    assert_eq!(Header::read(&index).unwrap(), None);
    index.write_all(&HEADER.encode()[..HEADER_BYTES - 1]).unwrap();
    assert_eq!(Header::read(&index).unwrap(), None);
}

#[test]
fn a_record_that_goes_backwards_is_passed_over() {
    let mut walk = Walk::new(&HEADER);
    walk.apply(&chunk(17));
    let before = walk;
    walk.apply(&Record::Generation { position: 16, generation: 9 });
    assert_eq!(walk, before);
    walk.apply(&Record::Generation { position: 17, generation: 9 });
    assert_eq!((walk.generation, walk.generation_start, walk.stderr), (9, 17, 0), "at the same place it counts");
}

/// Else the log would be taken for one without an index, and all of it for stdout.
#[test]
fn an_index_that_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let write_only = File::create(dir.path().join("x.log.idx")).unwrap();
    assert!(Header::read(&write_only).is_err());
    assert!(scan(&write_only, &HEADER, 0).is_err());
}
