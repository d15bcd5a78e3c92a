//! Frames: what goes in comes out, whatever lies before it; nothing else is taken for one.

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::protocol::Bytes;

const EPOCH: u64 = 0x0102_0304_0506_0708;

fn all<D: Direction>(reader: &mut SessionFrameReader<D>, mut bytes: &[u8]) -> Vec<SessionFrame<D::Message>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        bytes = &bytes[reader.push(bytes)..];
        while let Some(frame) = reader.next().unwrap() {
            frames.push(frame);
        }
    }
    frames
}

fn output(epoch: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    encode_bytes::<GuestFrame>(epoch, 7, SessionStream::Stdout, offset, &[bytes]).unwrap()
}

#[test]
fn the_layout_is_what_it_was() {
    let frame = encode_bytes::<HostFrame>(EPOCH, 0x11, SessionStream::Stdin, 0x22, &[b"a", b"bc"]).unwrap();
    let expected = [
        &[0xF5, b'S', b's', 0xFF, 1, 2, 0, 0][..],
        &[8, 7, 6, 5, 4, 3, 2, 1],
        &[0x11, 0, 0, 0, 0, 0, 0, 0],
        &[0x22, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0],
        &crc32fast::hash(&frame[4..36]).to_le_bytes(),
        b"abc",
    ];
    assert_eq!(frame, expected.concat());
}

#[test]
fn messages_are_encoded_as_they_were() {
    let commands = [
        (SessionCommand::Resume, vec![0]),
        (SessionCommand::Open { len: 300 }, vec![1, 0xac, 2]),
        (SessionCommand::Taken { stream: SessionStream::Stderr, taken: 1, limit: 2 }, vec![2, 2, 1, 2]),
        (SessionCommand::EndInput { total: 5 }, vec![3, 5]),
        (SessionCommand::Signal(15), vec![5, 30]),
        (SessionCommand::HangUp, vec![6]),
        (SessionCommand::Forget, vec![7]),
        (SessionCommand::Detach, vec![8]),
    ];
    for (command, bytes) in commands {
        let frame = encode_message::<HostFrame>(0, 0, &command).unwrap();
        assert_eq!(frame[SESSION_HEADER_LEN..], bytes, "{command:?}");
    }
    let reports = [
        (SessionReport::Resumed { sessions: 3 }, vec![0, 3]),
        (SessionReport::Refused(SessionRefusal::Closing), vec![2, 2]),
        (SessionReport::Started, vec![3]),
        (SessionReport::InputWindow { received: 1, limit: 2 }, vec![4, 1, 2]),
        (SessionReport::InputClosed, vec![5]),
        (SessionReport::StreamEnded { stream: SessionStream::Stdout, total: 9 }, vec![6, 1, 9]),
        (SessionReport::Ended(SessionEnd::TimedOut), vec![7, 2]),
        (SessionReport::Closing, vec![8]),
    ];
    for (report, bytes) in reports {
        let frame = encode_message::<GuestFrame>(0, 0, &report).unwrap();
        assert_eq!(frame[SESSION_HEADER_LEN..], bytes, "{report:?}");
    }
}

#[test]
fn what_a_session_runs_is_encoded_as_it_was() {
    let port = NonZeroU16::new(300).unwrap();
    let programs = [
        (SessionProgram::Command(vec![Bytes::from(b"sh".to_vec())]), vec![0, 1, 2, b's', b'h']),
        (SessionProgram::Shell, vec![1]),
        (SessionProgram::Processes, vec![2]),
        (SessionProgram::Tool(Tool::Connect { port }), vec![3, 0, 0xac, 2]),
        (SessionProgram::Tool(Tool::Changes), vec![3, 1]),
        (SessionProgram::Tool(Tool::Files), vec![3, 2]),
        (
            SessionProgram::Tool(Tool::Watch { path: Bytes::from(b"/a".to_vec()), recursive: true }),
            vec![3, 3, 2, 47, 97, 1],
        ),
        (
            SessionProgram::Tool(Tool::Pack { path: Bytes::from(b"/a".to_vec()), follow: true, archive: false }),
            vec![3, 4, 2, b'/', b'a', 1, 0],
        ),
        (
            SessionProgram::Tool(Tool::Unpack { path: Bytes::from(b"/a".to_vec()), directory: false, archive: true }),
            vec![3, 5, 2, b'/', b'a', 0, 1],
        ),
    ];
    for (program, bytes) in programs {
        assert_eq!(postcard::to_stdvec(&program).unwrap(), bytes, "{program:?}");
    }
}

#[test]
fn a_host_frame_is_written_whole_on_a_pipe() {
    let largest = vec![0; HOST_PAYLOAD_MAX];
    let frame = encode_bytes::<HostFrame>(1, 1, SessionStream::Spec, 0, &[&largest]).unwrap();
    assert_eq!(frame.len(), 4096);
    assert!(encode_bytes::<HostFrame>(1, 1, SessionStream::Spec, 0, &[&largest, b"x"]).is_err());
    assert!(encode_bytes::<HostFrame>(1, 1, SessionStream::Stdin, 0, &[b""]).is_err());
}

#[test]
fn what_does_not_belong_is_refused() {
    let good = output(EPOCH, 5, b"abc");
    let forged = |place: usize, value: u8| {
        let mut frame = good.clone();
        frame[place] = value;
        let crc = crc32fast::hash(&frame[4..36]).to_le_bytes();
        frame[36..40].copy_from_slice(&crc);
        let mut reader = SessionFrameReader::<GuestFrame>::new();
        assert_eq!(reader.push(&frame), frame.len());
        reader.next().unwrap_err()
    };
    assert_eq!(forged(4, 2), SessionFrameError::Version { theirs: 2 });
    assert_eq!(forged(5, 2), SessionFrameError::Kind { kind: 2, stream: 1 });
    assert_eq!(forged(6, 0), SessionFrameError::Kind { kind: 4, stream: 0 });
    assert_eq!(forged(6, 9), SessionFrameError::Kind { kind: 4, stream: 9 });
    assert_eq!(forged(7, 1), SessionFrameError::Kind { kind: 4, stream: 1 });
    assert_eq!(forged(5, 3), SessionFrameError::Kind { kind: 3, stream: 1 });
    assert_eq!(forged(32, 0), SessionFrameError::Length { len: 0, max: GUEST_PAYLOAD_MAX });
    assert!(matches!(forged(35, 1), SessionFrameError::Length { .. }));
    let mut reader = SessionFrameReader::<GuestFrame>::new();
    let mut flipped = good;
    flipped[20] ^= 1;
    let _ = reader.push(&flipped);
    assert_eq!(reader.next(), Err(SessionFrameError::Checksum));
    assert_eq!(reader.next(), Err(SessionFrameError::Checksum), "for ever");
    let mut message = encode_message::<GuestFrame>(EPOCH, 1, &SessionReport::Started).unwrap();
    message[SESSION_HEADER_LEN] = 200;
    let mut reader = SessionFrameReader::<GuestFrame>::new();
    let _ = reader.push(&message);
    assert_eq!(reader.next(), Err(SessionFrameError::Payload));
}

#[test]
fn a_frame_of_another_epoch_hides_none_of_ours() {
    // What a program writes may look like the begin of a long frame, with a header that is right.
    let decoy = &output(EPOCH - 1, 0, &vec![7; GUEST_PAYLOAD_MAX])[..SESSION_HEADER_LEN + 10];
    let ours = output(EPOCH, 0, b"ours");
    let mut reader = SessionFrameReader::<GuestFrame>::join(EPOCH, 1 << 20);
    let frames = all(&mut reader, &[decoy, &ours].concat());
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].content, Content::Bytes { stream: SessionStream::Stdout, offset: 0, bytes: b"ours".to_vec() });
}

proptest! {
    #[test]
    fn whoever_is_believed_is_found_again_behind_garbage(
        parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..600)), 1..20),
        pieces in 1..700_usize,
    ) {
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (garbage, bytes) in parts {
            if garbage {
                // No other frame's begin: that would be waited for.
                wire.extend(bytes.iter().map(|byte| byte & 0x7F));
            } else {
                wire.extend(encode_bytes::<HostFrame>(EPOCH, 7, SessionStream::Stdin, 3, &[&bytes]).unwrap());
                expected.push(bytes);
            }
        }
        let mut reader = SessionFrameReader::<HostFrame>::lenient();
        let mut got = Vec::new();
        for mut rest in wire.chunks(pieces) {
            while !rest.is_empty() {
                rest = &rest[reader.push(rest)..];
                while let Some(frame) = reader.next().unwrap() {
                    let Content::Bytes { bytes, .. } = frame.content else { panic!("{frame:?}") };
                    got.push(bytes);
                }
            }
        }
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn frames_come_out_as_they_went_in(
        parts in proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 1..6000)), 1..20),
        pieces in 1..5000_usize,
    ) {
        let wire: Vec<u8> = parts.iter().flat_map(|(offset, bytes)| output(EPOCH, *offset, bytes)).collect();
        let mut reader = SessionFrameReader::<GuestFrame>::new();
        let frames: Vec<_> = wire.chunks(pieces).flat_map(|piece| all(&mut reader, piece)).collect();
        let got: Vec<_> = frames.into_iter().map(|frame| match frame.content {
            Content::Bytes { offset, bytes, .. } => (offset, bytes),
            Content::Message(message) => panic!("{message:?}"),
        }).collect();
        prop_assert_eq!(got, parts);
    }

    #[test]
    fn whoever_joins_finds_the_first_frame_of_its_epoch(
        old in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..8),
        cut in 0..3000_usize,
        pieces in 1..4000_usize,
    ) {
        let mut before: Vec<u8> = old.iter().flat_map(|bytes| output(EPOCH ^ 1, 0, bytes)).collect();
        before.drain(..cut.min(before.len()));
        let resumed = encode_message::<GuestFrame>(EPOCH, 0, &SessionReport::Resumed { sessions: 0 }).unwrap();
        let wire = [before, resumed].concat();
        let mut reader = SessionFrameReader::<GuestFrame>::join(EPOCH, 1 << 20);
        let frames: Vec<_> = wire.chunks(pieces).flat_map(|piece| all(&mut reader, piece)).collect();
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(&frames[0].content, &Content::Message(SessionReport::Resumed { sessions: 0 }));
    }

    #[test]
    fn any_bytes_are_bounded_in_memory(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let mut reader = SessionFrameReader::<HostFrame>::join(EPOCH, 10_000);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            rest = &rest[reader.push(rest)..];
            prop_assert!(reader.buffered() <= SessionFrameReader::<HostFrame>::CAPACITY);
            while let Ok(Some(_)) = reader.next() {}
            if reader.next().is_err() {
                break;
            }
        }
        prop_assert!(bytes.len() <= 10_000 || reader.next().is_err());
    }
}
