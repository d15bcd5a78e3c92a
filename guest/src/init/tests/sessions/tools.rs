//! What PID 1 does itself in a session.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use sandpen_files::frame::{self, FrameReader};
use sandpen_files::{Answer, DATA_MAX, FileError, FileErrorKind, OpenFlags, Request, WatchEvent};
use sandpen_guest::protocol::session::Tool;

use super::*;

fn connect(listener: &TcpListener) -> RunSession {
    let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
    RunSession { stdin: true, ..session(SessionProgram::Tool(Tool::Connect { port })) }
}

/// Answers one connection.
fn serve(listener: TcpListener, answer: impl FnOnce(TcpStream) + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || answer(listener.accept().unwrap().0))
}

#[test]
fn a_connection_is_input_and_output() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    // Who has said all still gets the whole answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    link.open(1, connect(&listener));
    let server = serve(listener, |mut stream| {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).unwrap();
        stream.write_all(&asked.repeat(3)).unwrap();
    });
    let question: Vec<u8> = (0..100_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    link.feed(1, &question);
    link.tell(1, SessionCommand::EndInput { total: question.len() as u64 });
    let (end, stdout, stderr) = link.end(1);
    server.join().unwrap();
    assert_eq!((end, stderr), (code(0), vec![]));
    assert!(stdout == question.repeat(3));
    // And who has been answered may still say more; over IPv6 as well.
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    link.open(2, connect(&listener));
    let server = serve(listener, |mut stream| {
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "and bye");
    });
    link.until(|link| link.seen[&2].stdout.total == Some(5));
    link.feed(2, b"and bye");
    link.tell(2, SessionCommand::EndInput { total: 7 });
    assert_eq!(link.end(2), (code(0), b"hello".to_vec(), vec![]));
    server.join().unwrap();
    host.done();
}

#[test]
fn nobody_listens() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = connect(&listener);
    drop(listener);
    let (end, stdout, stderr) = link.run(1, asked);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((end, stdout), (code(1), vec![]));
    assert!(
        said.starts_with(&format!("nothing in the sandbox listens on port {port}: ")) && said.ends_with('\n'),
        "{said}"
    );
    host.done();
}

/// What is asked of the files, as a session's input.
fn asked(requests: &[Request]) -> Vec<u8> {
    (0..).zip(requests).flat_map(|(number, request)| frame::encode(number, request).unwrap()).collect()
}

fn answers(stdout: &[u8]) -> Vec<Answer> {
    let mut reader = FrameReader::default();
    reader.push(stdout);
    let frames = std::iter::from_fn(|| reader.next_frame().unwrap());
    let answers = (0..).zip(frames).map(|(number, frame)| {
        assert_eq!(frame.number, number);
        frame.message().unwrap()
    });
    answers.collect()
}

fn files() -> RunSession {
    RunSession { stdin: true, ..session(SessionProgram::Tool(Tool::Files)) }
}

#[test]
fn files_are_served() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).into_os_string().into_encoded_bytes();
    let write = OpenFlags { write: true, create: true, ..OpenFlags::READ };
    let requests = [
        Request::MakeDirectory { path: path("a/b"), mode: 0o777, parents: true },
        Request::Open { path: path("a/file"), flags: write, mode: 0o666 },
        Request::WriteAt { handle: 0, offset: 0, data: vec![7; DATA_MAX] },
        Request::ReadAt { handle: 0, offset: 1, length: u32::try_from(DATA_MAX).unwrap() },
        Request::Replace { path: path("never"), mode: None, new_mode: 0o600 },
        Request::Stat { path: path("none"), follow: true },
    ];
    let input = asked(&requests);
    link.open(1, files());
    link.feed(1, &input);
    link.tell(1, SessionCommand::EndInput { total: input.len() as u64 });
    let (end, stdout, stderr) = link.end(1);
    assert_eq!((end, stderr), (code(0), vec![]));
    let not_found = FileError { kind: FileErrorKind::NotFound, path: path("none") };
    let expected = [
        Answer::Done,
        Answer::Opened { handle: 0 },
        Answer::Done,
        Answer::Data(vec![7; DATA_MAX - 1]),
        Answer::Opened { handle: 1 },
        Answer::Error(not_found),
    ];
    assert!(answers(&stdout) == expected);
    // Permission bits are as they were asked for, and what was only begun is gone.
    assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode() & 0o7777, 0o777);
    assert_eq!(fs::metadata(dir.path().join("a/file")).unwrap().permissions().mode() & 0o7777, 0o666);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // Nonsense ends it, with a word.
    link.open(2, files());
    link.feed(2, &[0xff; 64]);
    let (end, stdout, stderr) = link.end(2);
    assert_eq!((end, stdout), (code(1), vec![]));
    assert!(String::from_utf8(stderr).unwrap().starts_with("what was asked for cannot be understood: a frame of "));
    // A user that the root does not know.
    let unknown = RunSession { user: Some("nobody-has-this-name".into()), ..files() };
    assert_eq!(link.failure(3, unknown).0, 126);
    // A client that is gone takes it along.
    link.open(4, files());
    link.started(4);
    link.tell(4, SessionCommand::HangUp);
    assert_eq!(link.end(4).0, killed_by(1));
    host.done();
}

#[test]
fn what_happens_to_files_is_told() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).into_os_string().into_encoded_bytes();
    let watch = |path: Vec<u8>| session(SessionProgram::Tool(Tool::Watch { path: Bytes::from(path), recursive: true }));
    link.open(1, watch(path("")));
    link.until(|link| link.seen[&1].stdout.len() > 0);
    fs::create_dir(dir.path().join("a")).unwrap();
    let created = frame::encode(1, &WatchEvent::Created { path: path("a"), is_directory: true }).unwrap();
    link.until(|link| link.seen[&1].stdout.bytes.ends_with(&created));
    // It ends with what is watched, and without its client.
    link.open(2, watch(path("a")));
    link.until(|link| link.seen[&2].stdout.len() > 0);
    fs::remove_dir(dir.path().join("a")).unwrap();
    let failed = FileError { kind: FileErrorKind::NotFound, path: path("a") };
    let last = frame::encode(1, &WatchEvent::Failed(failed.clone())).unwrap();
    let (end, stdout, stderr) = link.end(2);
    assert_eq!(end, code(1));
    assert!(stdout.ends_with(&last));
    assert!(String::from_utf8(stderr).unwrap().contains("no such file or directory"));
    let (end, stdout, _) = link.run(3, watch(path("a")));
    assert_eq!((end, stdout), (code(1), frame::encode(0, &WatchEvent::Failed(failed)).unwrap()));
    link.tell(1, SessionCommand::HangUp);
    assert_eq!(link.end(1).0, killed_by(1));
    host.done();
}

/// As a guest of before answers, of the tools that came later.
#[test]
fn a_tool_of_the_future_is_refused() {
    let host = Host::with_workload();
    let mut link = host.link(1);
    let spec = postcard::to_stdvec(&SessionStart::Run(files())).unwrap();
    let known = postcard::to_stdvec(&SessionProgram::Tool(Tool::Files)).unwrap();
    let place = spec.windows(known.len()).position(|bytes| bytes == known).unwrap();
    let mut later = spec;
    later[place + 1] = 100;
    link.tell(1, SessionCommand::Open { len: u32::try_from(later.len()).unwrap() });
    link.bytes(1, SessionStream::Spec, 0, &later);
    link.seen.insert(1, Seen::default());
    link.until(|link| !link.refused.is_empty());
    assert_eq!(link.refused, [(1, SessionRefusal::Malformed)]);
    host.done();
}
