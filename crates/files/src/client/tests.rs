//! A client with a real server, and with guests that lie.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};

use super::calls::{ENTRIES_MAX, NAMES_MAX};
use super::*;
use crate::answer::{Answer, Entry, FileKind, Stat, Time};
use crate::error::FileErrorKind;
use crate::frame::{FrameReader, encode};
use crate::request::{Change, OpenFlags, Request};
use crate::serve::serve;
use crate::{DATA_MAX, HANDLES_MAX, NAME_MAX, PATH_MAX};

mod lies;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Unpark(thread::current()))));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Carries bytes over a socket, as a session does.
fn carried() -> (FilesClient, UnixStream, JoinHandle<()>) {
    let (client, carrier) = FilesClient::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        let carrier = &carrier;
        thread::scope(|scope| {
            let (mut writer, mut reader) = (ours.try_clone().unwrap(), ours);
            scope.spawn(move || {
                while let Some(bytes) = block_on(carrier.outgoing()) {
                    if writer.write_all(&bytes).is_err() {
                        break;
                    }
                }
                let _ = writer.shutdown(std::net::Shutdown::Write);
            });
            let mut buffer = [0; 5000];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if carrier.received(&buffer[..count]).is_err() {
                    break;
                }
            }
            carrier.shared.state().fail(FilesError::Gone("it ended".into()));
        });
    });
    (client, theirs, thread)
}

fn served() -> (FilesClient, JoinHandle<()>) {
    let (client, stream, carrier) = carried();
    let server = thread::spawn(move || {
        serve(stream.try_clone().unwrap(), stream).unwrap();
        carrier.join().unwrap();
    });
    (client, server)
}

fn bytes(path: &std::path::Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

const NEW: OpenFlags = OpenFlags { write: true, create: true, ..OpenFlags::READ };

#[test]
fn a_file_goes_there_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = bytes(&dir.path().join("a"));
    let (client, server) = served();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    block_on(async {
        let mut writer = FileWriter::new(client.replace(&path, None, 0o600).await.unwrap(), 0);
        for piece in content.chunks(100_001) {
            writer.write(piece).await.unwrap();
        }
        assert_eq!(client.stat(&path, true).await.unwrap_err().kind(), Some(FileErrorKind::NotFound));
        writer.finish().await.unwrap().commit().await.unwrap();
        assert_eq!(client.stat(&path, true).await.unwrap().size, content.len() as u64);
        for (begin, part) in [(0, None), (1_000_000, None), (17, Some(500_000)), (17, Some(0)), (3_000_000, None)] {
            let file = client.open(&path, OpenFlags::READ, 0).await.unwrap();
            let (mut reader, mut read) =
                (FileReader::new(file, begin as u64, part.map(|part| part as u64)), Vec::new());
            while let Some(piece) = reader.next().await.unwrap() {
                read.extend(piece);
            }
            let end = part.map_or(content.len(), |part: usize| begin + part);
            assert!(read == content[begin..end], "{begin} {part:?}");
            assert_eq!(reader.position(), end as u64);
        }
        let append = OpenFlags { append: true, ..OpenFlags::default() };
        let mut writer = FileWriter::new(client.open(&path, append, 0).await.unwrap(), 0);
        writer.write(b"more").await.unwrap();
        writer.finish().await.unwrap().close().await.unwrap();
    });
    let written = fs::read(dir.path().join("a")).unwrap();
    assert!(written[..content.len()] == content && written.ends_with(b"more"));
    drop(client);
    server.join().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Each kind of request once, so that each has the answer that suits it.
#[test]
fn all_that_can_be_asked_for_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| bytes(&dir.path().join(name));
    let (client, server) = served();
    block_on(async {
        client.make_directory(&at("a/b"), 0o700, true).await.unwrap();
        let file = client.open(&at("a/file"), NEW, 0o600).await.unwrap();
        file.write_at(1, b"x".to_vec()).await.unwrap();
        assert_eq!(file.read_at(0, 9).await.unwrap(), b"\0x");
        file.change(Change { size: Some(1), ..Change::default() }).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(file.stat().await.unwrap().size, 1);
        file.close().await.unwrap();
        client.change(&at("a/file"), true, Change { mode: Some(0o640), ..Change::default() }).await.unwrap();
        client.link(&at("a/file"), &at("a/name")).await.unwrap();
        client.symlink(b"file", &at("a/link")).await.unwrap();
        assert_eq!(client.read_link(&at("a/link")).await.unwrap(), b"file");
        assert!(client.real_path(&at("a/b/../link")).await.unwrap().ends_with(b"/a/file"));
        assert_eq!(client.stat(&at("a/link"), false).await.unwrap().kind, FileKind::Symlink);
        assert!(client.is_directory(&at("a")).await.unwrap());
        let names: Vec<_> = client.list(&at("a")).await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [&b"b"[..], b"file", b"link", b"name"]);
        assert!(client.open_directory(&at("a")).await.unwrap().stat().await.unwrap().links > 0);
        client.rename(&at("a/file"), &at("a/other"), false).await.unwrap();
        client.remove(&at("a/other")).await.unwrap();
        client.remove_directory(&at("a/b")).await.unwrap();
        client.remove_tree(&at("a")).await.unwrap();
        assert!(client.space(&at("")).await.unwrap().blocks > 0);
        // Refused before the guest is asked.
        for path in [&b""[..], b"a", b"/\0"] {
            assert_eq!(client.remove_tree(path).await.unwrap_err().kind(), Some(FileErrorKind::InvalidName));
        }
        assert!(client.symlink(b"", &at("x")).await.is_err());
    });
    drop(client);
    server.join().unwrap();
}

#[test]
fn what_nobody_has_any_more_is_closed() {
    let (client, server) = served();
    block_on(async {
        for _ in 0..3 * HANDLES_MAX {
            // Dropped when it is open, when it may be, and before anybody has heard of it.
            drop(client.open(b"/dev/null", OpenFlags::READ, 0).await.unwrap());
            let mut open = Box::pin(client.open(b"/dev/null", OpenFlags::READ, 0));
            let waker = Waker::noop();
            let _ = open.as_mut().poll(&mut Context::from_waker(waker));
            drop(open);
            drop(client.call(Request::OpenDirectory { path: b"/".to_vec() }));
        }
        let open: Vec<_> = {
            let mut open = Vec::new();
            for _ in 0..HANDLES_MAX {
                open.push(client.open(b"/dev/null", OpenFlags::READ, 0).await.unwrap());
            }
            open
        };
        let one_more = client.open(b"/dev/null", OpenFlags::READ, 0).await.unwrap_err();
        assert_eq!(one_more.kind(), Some(FileErrorKind::TooManyOpen));
        drop(open);
    });
    drop(client);
    server.join().unwrap();
}

#[test]
fn many_may_ask_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (client, server) = served();
    thread::scope(|scope| {
        for number in 0..2 * CALLS_MAX {
            let (client, path) = (client.clone(), bytes(&dir.path().join(number.to_string())));
            scope.spawn(move || {
                block_on(async {
                    for _ in 0..4 {
                        let file = client.replace(&path, None, 0o600).await.unwrap();
                        file.write_at(0, path.clone()).await.unwrap();
                        file.commit().await.unwrap();
                        let file = client.open(&path, OpenFlags::READ, 0).await.unwrap();
                        assert_eq!(file.read_at(0, 4096).await.unwrap(), path);
                    }
                });
            });
        }
    });
    drop(client);
    server.join().unwrap();
}

fn answer(number: u32, answer: &Answer) -> Vec<u8> {
    encode(number, answer).unwrap()
}

#[test]
fn nothing_is_answered_after_the_end() {
    let (client, carrier) = FilesClient::new();
    let call = client.call(Request::Close { handle: 1 });
    let full: Vec<_> = (1..=CALLS_MAX).map(|_| client.call(Request::Close { handle: 1 })).collect();
    carrier.ended("the sandbox has ended");
    let gone = Err(FilesError::Gone("the sandbox has ended".into()));
    assert_eq!(block_on(call), gone);
    for call in full {
        assert_eq!(block_on(call), gone);
    }
    assert_eq!(block_on(client.call(Request::Close { handle: 1 })), gone);
    let (client, carrier) = FilesClient::new();
    drop(carrier);
    assert!(matches!(block_on(client.stat(b"/", true)), Err(FilesError::Gone(_))));
    // And nothing asked.
    let (client, carrier) = FilesClient::new();
    let call = client.call(Request::Close { handle: 1 });
    drop(client);
    assert!(block_on(carrier.outgoing()).is_some());
    assert!(block_on(carrier.outgoing()).is_none());
    carrier.received(&answer(0, &Answer::Done)).unwrap();
    assert_eq!(block_on(call), Ok(Answer::Done));
}

/// A file that changes while it is read is read as it is then, without a gap and without an end.
#[test]
fn a_file_may_shrink_and_grow_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, vec![1; 20 * DATA_MAX]).unwrap();
    let (client, server) = served();
    block_on(async {
        let open = async || client.open(&bytes(&file), OpenFlags::READ, 0).await.unwrap();
        let mut reader = FileReader::new(open().await, 0, None);
        assert_eq!(reader.next().await.unwrap().unwrap().len(), DATA_MAX);
        fs::write(&file, vec![2; 3 * DATA_MAX + 5]).unwrap();
        let mut read = DATA_MAX;
        while let Some(piece) = reader.next().await.unwrap() {
            read += piece.len();
        }
        assert_eq!(read, 3 * DATA_MAX + 5);
        assert_eq!(reader.next().await.unwrap(), None);
        let mut reader = FileReader::new(open().await, 3 * DATA_MAX as u64, None);
        assert_eq!(reader.next().await.unwrap().unwrap(), [2; 5]);
        fs::write(&file, vec![3; 3 * DATA_MAX + 9]).unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), [3; 4]);
        assert_eq!(reader.next().await.unwrap(), None);
    });
    drop(client);
    server.join().unwrap();
}
