//! What lies in a stream is found again, and what lies wrong harms nobody.

use proptest::prelude::*;

use super::*;
use crate::answer::{Answer, Entry, FileKind, Stat, Time};
use crate::error::{FileError, FileErrorKind};
use crate::event::WatchEvent;
use crate::request::{Change, OpenFlags, Request};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), any::<u32>()).prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

fn change() -> impl Strategy<Value = Change> {
    let numbers = (any::<Option<u64>>(), any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<u32>>());
    (numbers, prop::option::of(time()), prop::option::of(time()))
        .prop_map(|((size, mode, uid, gid), accessed, modified)| Change { size, mode, uid, gid, accessed, modified })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (bytes(), any::<[bool; 7]>(), any::<u32>()).prop_map(|(path, flags, mode)| {
            let [read, write, append, create, truncate, exclusive, no_follow] = flags;
            let flags = OpenFlags { read, write, append, create, truncate, exclusive, no_follow };
            Request::Open { path, flags, mode }
        }),
        (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(handle, offset, length)| Request::ReadAt {
            handle,
            offset,
            length
        }),
        (any::<u32>(), any::<u64>(), bytes()).prop_map(|(handle, offset, data)| Request::WriteAt {
            handle,
            offset,
            data
        }),
        (bytes(), any::<bool>(), change()).prop_map(|(path, follow, change)| Request::Change { path, follow, change }),
        (bytes(), bytes(), any::<bool>()).prop_map(|(from, to, replace)| Request::Rename { from, to, replace }),
        (bytes(), any::<Option<u32>>(), any::<u32>()).prop_map(|(path, mode, new_mode)| Request::Replace {
            path,
            mode,
            new_mode
        }),
        any::<u32>().prop_map(|handle| Request::Commit { handle }),
    ]
}

fn stat(size: u64) -> Stat {
    let time = Time { seconds: -1, nanos: 999_999_999 };
    Stat {
        kind: FileKind::Symlink,
        mode: 0o777,
        uid: 1,
        gid: 2,
        size,
        links: 1,
        inode: 7,
        device: 8,
        allocated: 4096,
        accessed: time,
        modified: time,
        changed: time,
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        (any::<i32>(), bytes())
            .prop_map(|(errno, path)| Answer::Error(FileError { kind: FileErrorKind::Other(errno), path })),
        Just(Answer::Done),
        any::<u32>().prop_map(|handle| Answer::Opened { handle }),
        bytes().prop_map(Answer::Data),
        any::<u64>().prop_map(|size| Answer::Stat(stat(size))),
        prop::collection::vec((bytes(), any::<u64>(), prop::option::of(bytes())), 0..5).prop_map(|entries| {
            let entry = |(name, size, target): (_, _, Option<Vec<u8>>)| Entry { name, stat: stat(size), target };
            Answer::Entries(entries.into_iter().map(entry).collect())
        }),
        bytes().prop_map(Answer::Path),
    ]
}

/// All frames of a stream that comes in pieces.
fn read(stream: &[u8], pieces: &[usize]) -> (Vec<Frame>, FrameReader) {
    let (mut reader, mut frames, mut rest) = (FrameReader::default(), Vec::new(), stream);
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(pieces.next().unwrap().clamp(1, rest.len()));
        reader.push(piece);
        while let Some(frame) = reader.next_frame().unwrap() {
            frames.push(frame);
        }
        rest = more;
    }
    (frames, reader)
}

proptest! {
    #[test]
    fn all_that_is_said_arrives(
        said in prop::collection::vec((any::<u32>(), request(), answer()), 0..10),
        pieces in prop::collection::vec(1..200_usize, 0..50),
    ) {
        let stream: Vec<u8> = said.iter().flat_map(|(number, request, answer)| {
            [encode(*number, request).unwrap(), encode(*number, answer).unwrap()].concat()
        }).collect();
        let (frames, reader) = read(&stream, &pieces);
        prop_assert!(reader.is_between_frames());
        prop_assert_eq!(frames.len(), 2 * said.len());
        for (pair, (number, request, answer)) in frames.chunks(2).zip(&said) {
            prop_assert_eq!(pair[0].number, *number);
            prop_assert_eq!(&pair[0].message::<Request>().unwrap(), request);
            prop_assert_eq!(&pair[1].message::<Answer>().unwrap(), answer);
        }
    }

    #[test]
    fn any_bytes_do_no_harm(stream in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut reader = FrameReader::default();
        reader.push(&stream);
        while let Ok(Some(frame)) = reader.next_frame() {
            let _ = frame.message::<Request>();
            let _ = frame.message::<Answer>();
            let _ = frame.message::<WatchEvent>();
        }
        let frame = Frame { number: 0, payload: stream };
        let _ = frame.message::<Request>();
        let _ = frame.message::<Answer>();
        let _ = frame.message::<WatchEvent>();
    }
}

#[test]
fn a_frame_is_as_long_as_it_may_be() {
    let most = Request::WriteAt { handle: u32::MAX, offset: u64::MAX, data: vec![7; DATA_MAX] };
    let frame = encode(1, &most).unwrap();
    assert_eq!(read(&frame, &[9]).0[0].message(), Ok(most));
    let most = Request::Rename { from: vec![b'/'; crate::PATH_MAX], to: vec![b'/'; crate::PATH_MAX], replace: true };
    assert!(encode(1, &most).is_ok());
    let more = Request::WriteAt { handle: 0, offset: 0, data: vec![7; PAYLOAD_MAX] };
    assert!(matches!(encode(1, &more), Err(FrameError::TooLong(_))));
    let mut reader = FrameReader::default();
    let announced = u32::try_from(PAYLOAD_MAX).unwrap() + 1;
    reader.push(&[announced.to_le_bytes(), [0; 4]].concat());
    assert_eq!(reader.next_frame(), Err(FrameError::TooLong(PAYLOAD_MAX + 1)));
    reader.push(&frame);
    assert_eq!(reader.next_frame(), Err(FrameError::TooLong(PAYLOAD_MAX + 1)), "nothing that follows is understood");
    assert!(reader.bytes.is_empty() && !reader.is_between_frames());
}

#[test]
fn what_follows_a_message_makes_it_none() {
    let mut payload = encode(1, &Request::Close { handle: 3 }).unwrap().split_off(HEADER_LEN);
    payload.push(0);
    assert_eq!(Frame { number: 1, payload }.message::<Request>(), Err(FrameError::Malformed));
    assert_eq!(Frame { number: 1, payload: vec![] }.message::<Request>(), Err(FrameError::Malformed));
    // A length beyond what is there, and a variant of the future.
    for payload in [vec![0, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![100]] {
        assert_eq!(Frame { number: 1, payload }.message::<Request>(), Err(FrameError::Malformed));
    }
}

/// A guest of before is spoken with in these bytes: no change, only more at the end.
#[test]
fn golden_bytes() {
    let path = b"/a".to_vec();
    let change = Change { mode: Some(0o644), modified: Some(Time { seconds: 1, nanos: 2 }), ..Change::default() };
    let requests: [(Request, &[u8]); 23] = [
        (
            Request::Open { path: path.clone(), flags: OpenFlags::READ, mode: 0o644 },
            &[0, 2, 47, 97, 1, 0, 0, 0, 0, 0, 0, 164, 3],
        ),
        (Request::ReadAt { handle: 1, offset: 2, length: 3 }, &[1, 1, 2, 3]),
        (Request::WriteAt { handle: 1, offset: 2, data: vec![9] }, &[2, 1, 2, 1, 9]),
        (Request::Close { handle: 1 }, &[3, 1]),
        (Request::Stat { path: path.clone(), follow: true }, &[4, 2, 47, 97, 1]),
        (Request::StatOpen { handle: 1 }, &[5, 1]),
        (
            Request::Change { path: path.clone(), follow: false, change },
            &[6, 2, 47, 97, 0, 0, 1, 164, 3, 0, 0, 0, 1, 2, 2],
        ),
        (Request::ChangeOpen { handle: 1, change: Change::default() }, &[7, 1, 0, 0, 0, 0, 0, 0]),
        (Request::OpenDirectory { path: path.clone() }, &[8, 2, 47, 97]),
        (Request::ReadDirectory { handle: 1 }, &[9, 1]),
        (Request::MakeDirectory { path: path.clone(), mode: 1, parents: true }, &[10, 2, 47, 97, 1, 1]),
        (Request::RemoveDirectory { path: path.clone() }, &[11, 2, 47, 97]),
        (Request::Remove { path: path.clone() }, &[12, 2, 47, 97]),
        (Request::RemoveTree { path: path.clone() }, &[13, 2, 47, 97]),
        (Request::Rename { from: path.clone(), to: b"/".to_vec(), replace: true }, &[14, 2, 47, 97, 1, 47, 1]),
        (Request::Symlink { target: b"b".to_vec(), path: path.clone() }, &[15, 1, 98, 2, 47, 97]),
        (Request::ReadLink { path: path.clone() }, &[16, 2, 47, 97]),
        (Request::Link { from: path.clone(), to: b"/".to_vec() }, &[17, 2, 47, 97, 1, 47]),
        (Request::RealPath { path: path.clone() }, &[18, 2, 47, 97]),
        (Request::Sync { handle: 1 }, &[19, 1]),
        (Request::Space { path: path.clone() }, &[20, 2, 47, 97]),
        (Request::Replace { path: path.clone(), mode: None, new_mode: 1 }, &[21, 2, 47, 97, 0, 1]),
        (Request::Commit { handle: 1 }, &[22, 1]),
    ];
    for (request, bytes) in requests {
        assert_eq!(&encode(0, &request).unwrap()[HEADER_LEN..], bytes, "{request:?}");
    }
    let error = |kind| FileError { kind, path: path.clone() };
    let answers: [(Answer, &[u8]); 6] = [
        (Answer::Error(error(FileErrorKind::NotFound)), &[0, 0, 2, 47, 97]),
        (Answer::Error(error(FileErrorKind::Other(-1))), &[0, 14, 1, 2, 47, 97]),
        (Answer::Done, &[1]),
        (Answer::Opened { handle: 1 }, &[2, 1]),
        (Answer::Data(vec![9]), &[3, 1, 9]),
        (Answer::Path(path.clone()), &[6, 2, 47, 97]),
    ];
    for (answer, bytes) in answers {
        assert_eq!(&encode(0, &answer).unwrap()[HEADER_LEN..], bytes, "{answer:?}");
    }
    let stat = encode(0x0403_0201, &Answer::Stat(stat(1))).unwrap();
    let expected = [
        &[30, 0, 0, 0, 1, 2, 3, 4, 4, 2, 255, 3, 1, 2, 1, 1, 7, 8, 128, 32][..],
        &[1, 255, 147, 235, 220, 3].repeat(3),
    ];
    assert_eq!(stat, expected.concat());
    let events: [(WatchEvent, &[u8]); 5] = [
        (WatchEvent::Watching, &[0]),
        (WatchEvent::Created { path: path.clone(), is_directory: true }, &[1, 2, 47, 97, 1]),
        (WatchEvent::Renamed { from: path.clone(), to: b"/".to_vec(), is_directory: false }, &[6, 2, 47, 97, 1, 47, 0]),
        (WatchEvent::Overflow, &[7]),
        (WatchEvent::Failed(error(FileErrorKind::NotFound)), &[8, 0, 2, 47, 97]),
    ];
    for (event, bytes) in events {
        assert_eq!(&encode(0, &event).unwrap()[HEADER_LEN..], bytes, "{event:?}");
    }
}
