//! Limits hold to the byte: what just fits passes, and one byte more is refused.

use std::fmt::Debug;

use super::*;

const MIB: usize = 1 << 20;

/// `make(n)` has `n` bytes of content, and each more makes its frame one byte longer from `from` on.
fn holds_to_the_byte<M: Message + Debug + PartialEq>(make: impl Fn(usize) -> M, from: usize, largest: usize) {
    let around = encode(&make(from)).unwrap().len() - from;
    let most = make(largest - around);
    let frame = encode(&most).unwrap();
    assert_eq!(frame.len(), largest);
    let mut reader = FrameReader::<M>::new(Garbage::Refuse);
    assert_eq!(reader.push(&frame), largest, "a reader has room for it");
    assert_eq!(reader.next().unwrap(), Some(most));

    let max = largest - HEADER_LEN;
    assert_eq!(encode(&make(largest - around + 1)), Err(FrameError::TooLong { len: max + 1, max }));
    let mut frame = frame;
    frame[6..10].copy_from_slice(&u32::try_from(max + 1).unwrap().to_le_bytes());
    let mut reader = FrameReader::<M>::new(Garbage::Refuse);
    let _ = reader.push(&frame[..HEADER_LEN]);
    assert_eq!(reader.next(), Err(FrameError::TooLong { len: max + 1, max }), "at its header");
}

#[test]
fn the_largest_frame_of_each_kind() {
    let bytes = |n| Bytes::from(vec![0xFF; n]);
    let probe = |n| HostMessage::Probe(Probe { id: 1, command: vec![bytes(n)], limit: Duration::ZERO });
    holds_to_the_byte(probe, 20_000, MIB + (64 << 10) + HEADER_LEN);
    // A pipe holds it.
    holds_to_the_byte(|n| GuestMessage::Faulted { message: "x".repeat(n) }, 20_000, 64 << 10);
    holds_to_the_byte(|n| StdinMessage::Bytes(bytes(n)), 1000, ATOMIC_FRAME);
}

#[test]
fn a_reader_holds_one_largest_frame_and_has_room_for_another_once_it_was_read() {
    let around = encode(&StdinMessage::Bytes(Bytes::from(vec![0; 1000]))).unwrap().len() - 1000;
    let message = StdinMessage::Bytes(Bytes::from(vec![7; ATOMIC_FRAME - around]));
    let frame = encode(&message).unwrap();
    let mut reader = FrameReader::<StdinMessage>::new(Garbage::Refuse);
    for _ in 0..3 {
        assert_eq!(reader.push(&frame[..100]), 100);
        assert_eq!((reader.next().unwrap(), reader.buffered()), (None, 100));
        let rest = [&frame[100..], &frame].concat();
        assert_eq!(reader.push(&rest), ATOMIC_FRAME - 100, "not a byte of the frame after it");
        assert_eq!(reader.buffered(), ATOMIC_FRAME);
        assert_eq!((reader.next().unwrap(), reader.buffered()), (Some(message.clone()), 0));
    }
}

#[test]
fn what_was_read_does_not_count_as_held() {
    let started = encode(&GuestMessage::Started).unwrap();
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
    assert_eq!(reader.push(&started.repeat(3)), 3 * started.len());
    for left in [2, 1, 0] {
        assert_eq!(reader.next().unwrap(), Some(GuestMessage::Started));
        assert_eq!(reader.buffered(), left * started.len());
    }
}

#[test]
fn a_late_reader_skips_as_much_as_it_may_and_not_a_byte_more() {
    let mut stream = b"tail".to_vec();
    stream.extend(frames(&[GuestMessage::Started]));
    let read = |limit| read_all(&mut FrameReader::<GuestMessage>::new(Garbage::SkipFirst(limit)), &stream, &[500]);
    assert_eq!(read(4).unwrap(), [GuestMessage::Started]);
    assert_eq!(read(3), Err(FrameError::NoFrame { skipped: 4 }));
}

#[test]
fn a_workload_that_did_not_start_has_the_code_that_shells_give() {
    assert_eq!(StartFailureCode::NotExecutable.code(), 126);
    assert_eq!(StartFailureCode::NotFound.code(), 127);
}
