//! Guests that do not keep to the protocol.

use proptest::prelude::*;

use super::*;

/// A guest that answers what somebody wants it to.
fn lied_to<T>(lie: impl Fn(u32, Request) -> Vec<u8> + Send + 'static, ask: impl AsyncFnOnce(&FilesClient) -> T) -> T {
    let (client, mut stream, carrier) = carried();
    let guest = thread::spawn(move || {
        let (mut reader, mut buffer) = (FrameReader::default(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            reader.push(&buffer[..count]);
            while let Some(frame) = reader.next_frame().unwrap() {
                if stream.write_all(&lie(frame.number, frame.message().unwrap())).is_err() {
                    return;
                }
            }
        }
    });
    let told = block_on(ask(&client));
    drop(client);
    carrier.join().unwrap();
    guest.join().unwrap();
    told
}

fn stat_of(mode: u32, nanos: u32) -> Stat {
    let time = Time { seconds: 0, nanos };
    Stat {
        kind: FileKind::File,
        mode,
        uid: 0,
        gid: 0,
        size: u64::MAX,
        links: 0,
        inode: 0,
        device: 0,
        allocated: 0,
        accessed: time,
        modified: time,
        changed: time,
    }
}

/// Answers this page for ever.
fn listing(page: Vec<Entry>) -> impl Fn(u32, Request) -> Vec<u8> + Send {
    move |number, request| match request {
        Request::OpenDirectory { .. } => answer(number, &Answer::Opened { handle: 7 }),
        Request::ReadDirectory { .. } => answer(number, &Answer::Entries(page.clone())),
        _ => answer(number, &Answer::Done),
    }
}

#[test]
fn lies_are_found_out() {
    let stat = async |client: &FilesClient| client.stat(b"/", true).await.unwrap_err();
    // Numbers that nobody asked under, answers twice, none that is one, and frames without end.
    let lies: [fn(u32, Request) -> Vec<u8>; 6] = [
        |number, _| answer(number + 1, &Answer::Done),
        |number, _| [answer(number, &Answer::Path(b"x".to_vec())), answer(number, &Answer::Done)].concat(),
        |number, _| encode(number, &0xff_u8).unwrap(),
        |number, _| [[4, 0, 0, 0], number.to_le_bytes(), [3, 0xff, 0xff, 0x03]].concat(),
        |_, _| vec![0xff; 100],
        |number, _| answer(number, &Answer::Done),
    ];
    for lie in lies {
        let error = lied_to(lie, stat);
        assert!(matches!(error, FilesError::Nonsense(_) | FilesError::Frame(_)), "{error:?}");
    }
    for odd in [stat_of(0o10000, 0), stat_of(0, 1_000_000_000)] {
        let error = lied_to(move |number, _| answer(number, &Answer::Stat(odd)), stat);
        assert!(matches!(error, FilesError::Nonsense(_)), "{error:?}");
    }
    // More than was asked for.
    let read = async |client: &FilesClient| {
        client.open(b"/a", OpenFlags::READ, 0).await.unwrap().read_at(0, 10).await.unwrap_err()
    };
    let more = |number, request| match request {
        Request::Open { .. } => answer(number, &Answer::Opened { handle: 7 }),
        _ => answer(number, &Answer::Data(vec![0; 11])),
    };
    assert!(matches!(lied_to(more, read), FilesError::Nonsense(_)));
    // Names that would lead elsewhere, or are longer than any, and directories without an end.
    let list = async |client: &FilesClient| client.list(b"/").await.map(|entries| entries.len()).unwrap_err();
    let entry = |name: &[u8], target: Option<Vec<u8>>| Entry { name: name.to_vec(), stat: stat_of(0, 0), target };
    let long = [b'n'; NAME_MAX + 1];
    let names = [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &long].map(|name| entry(name, None));
    let targets = [b"a\0".to_vec(), vec![b'x'; PATH_MAX + 1]].map(|target| entry(b"a", Some(target)));
    for odd in names.into_iter().chain(targets) {
        let error = lied_to(listing(vec![odd.clone()]), list);
        assert!(matches!(error, FilesError::Nonsense(_)), "{odd:?}");
    }
    for (entry, count) in [(entry(b"a", None), 2000), (entry(b"a", Some(vec![b'x'; PATH_MAX])), 15)] {
        let error = lied_to(listing(vec![entry; count]), list);
        assert!(matches!(error, FilesError::TooMuch { .. }), "more than {ENTRIES_MAX} or {NAMES_MAX} bytes: {error:?}");
    }
    let paths = async |client: &FilesClient| client.real_path(b"/").await.unwrap_err();
    for path in [&b""[..], b"relative", b"/\0", &[b'/'; 5000]] {
        let odd = move |number, _| answer(number, &Answer::Path(path.to_vec()));
        assert!(matches!(lied_to(odd, paths), FilesError::Nonsense(_)));
    }
}

/// A guest that has something opened with every answer has nobody ask for ever.
#[test]
fn what_nobody_has_opened_is_not_closed_without_end() {
    let (client, carrier) = FilesClient::new();
    for _ in 0..10 {
        drop(client.call(Request::Close { handle: 1 }));
        drop(client.call(Request::OpenDirectory { path: b"/".to_vec() }));
    }
    drop(client);
    let (mut reader, mut asked) = (FrameReader::default(), 0);
    while let Some(bytes) = block_on(carrier.outgoing()) {
        reader.push(&bytes);
        while let Some(frame) = reader.next_frame().unwrap() {
            asked += 1;
            carrier.received(&answer(frame.number, &Answer::Opened { handle: 7 })).unwrap();
        }
    }
    assert_eq!(asked, 30, "each once, and what was to be opened is closed");
}

proptest! {
    #[test]
    fn any_guest_is_survived(
        stream in prop::collection::vec(any::<u8>(), 0..500),
        answers in prop::collection::vec((0..5_u32, 0..4_usize), 0..20),
    ) {
        let (client, carrier) = FilesClient::new();
        let calls: Vec<_> = (0..4).map(|_| client.call(Request::Stat { path: b"/".to_vec(), follow: true })).collect();
        for (number, kind) in answers {
            let said = [Answer::Done, Answer::Opened { handle: 3 }, Answer::Data(vec![1]), Answer::Entries(vec![])];
            let _ = carrier.received(&answer(number, &said[kind]));
        }
        let _ = carrier.received(&stream);
        drop(carrier);
        for call in calls {
            let _ = block_on(call);
        }
    }
}
