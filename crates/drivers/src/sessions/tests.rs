//! Links with scripted guests over real FIFOs.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sandpen_guest::protocol::WorkloadEnd;
use sandpen_guest::protocol::session::{
    Content, GuestFrame, HostFrame, SessionCommand, SessionEnd as GuestEnd, SessionFrame, SessionFrameReader,
    SessionReport, SessionStream, encode_bytes, encode_message,
};
use sandpen_types::session::{SessionEnd, SessionId, SessionOffsets, SessionSpec};
use sandpen_types::state::ExitStatus;
use sandpen_vmm::sessions::{Attachment, GuestSessions as _, SessionError, SessionEvent, SessionRequest};
use tokio::time::timeout;

use super::{SessionLink, check, port, was_used};

mod ends;
mod streams;

const LIMIT: Duration = Duration::from_secs(20);
const CODE_0: GuestEnd = GuestEnd::Exited(WorkloadEnd::Code(0));
const EXITED: SessionEvent = SessionEvent::Ended(SessionEnd::Exited(ExitStatus::Code(0)));

fn id(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn spec() -> SessionSpec {
    SessionSpec { stdin: true, ..SessionSpec::command(["cat"]) }
}

#[test]
fn guests_do_what_the_types_say_of_sessions() {
    use sandpen_guest::protocol::session as guest;
    use sandpen_types::session as types;
    assert_eq!((guest::SESSIONS_MAX, guest::HANG_UP_GRACE), (types::SESSIONS_MAX, types::HANG_UP_GRACE));
}

/// A runtime directory with the port's FIFOs.
fn runtime_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["sessions.in", port::OUT] {
        mkfifo(&dir.path().join(name), Mode::S_IRWXU).unwrap();
    }
    dir
}

/// The guest's ends; its methods block, in a thread of its own.
struct Guest {
    out: File,
    into: File,
    reader: SessionFrameReader<HostFrame>,
    epoch: u64,
    /// Of the standard output of the last session that one was told of.
    limit: u64,
}

impl Guest {
    /// As a VMM opens them.
    fn new(dir: &Path) -> Self {
        let open = |name| OpenOptions::new().read(true).write(true).open(dir.join(name)).unwrap();
        Self { out: open(port::OUT), into: open("sessions.in"), reader: SessionFrameReader::new(), epoch: 0, limit: 0 }
    }

    fn hear(&mut self) -> (u64, Content<SessionCommand>) {
        loop {
            if let Some(SessionFrame { epoch, session, content }) = self.reader.next().unwrap() {
                if content == Content::Message(SessionCommand::Resume) {
                    self.epoch = epoch;
                }
                assert_eq!(epoch, self.epoch);
                if let Content::Message(SessionCommand::Taken { stream: SessionStream::Stdout, limit, .. }) = &content {
                    self.limit = *limit;
                }
                return (session, content);
            }
            let mut chunk = [0; 4096];
            let room = SessionFrameReader::<HostFrame>::CAPACITY - self.reader.buffered();
            let len = self.into.read(&mut chunk[..room]).unwrap();
            assert_eq!(self.reader.push(&chunk[..len]), len);
        }
    }

    /// The next that is no limit of an output.
    fn next(&mut self) -> (u64, Content<SessionCommand>) {
        loop {
            match self.hear() {
                (_, Content::Message(SessionCommand::Taken { .. })) => {}
                other => return other,
            }
        }
    }

    fn resume(&mut self) {
        assert_eq!(self.next(), (0, Content::Message(SessionCommand::Resume)));
        self.say(0, &SessionReport::Resumed { sessions: 0 });
    }

    /// Takes a session and begins it.
    fn begin(&mut self) -> u64 {
        let (session, Content::Message(SessionCommand::Open { len })) = self.next() else { panic!("no session") };
        let mut rest = len as usize;
        while rest > 0 {
            let (_, Content::Bytes { stream: SessionStream::Spec, bytes, .. }) = self.next() else { panic!("no spec") };
            rest -= bytes.len();
        }
        self.say(session, &SessionReport::Started);
        session
    }

    fn say(&mut self, session: u64, report: &SessionReport) {
        self.out.write_all(&encode_message::<GuestFrame>(self.epoch, session, report).unwrap()).unwrap();
    }

    fn write(&mut self, session: u64, offset: u64, bytes: &[u8]) {
        let frame = encode_bytes::<GuestFrame>(self.epoch, session, SessionStream::Stdout, offset, &[bytes]).unwrap();
        self.out.write_all(&frame).unwrap();
    }

    fn end(&mut self, session: u64, stdout: u64) {
        for (stream, total) in [(SessionStream::Stdout, stdout), (SessionStream::Stderr, 0)] {
            self.say(session, &SessionReport::StreamEnded { stream, total });
        }
        self.say(session, &SessionReport::Ended(CODE_0));
    }
}

/// A guest that follows `script`; its ends stay open until that has ended.
fn guest<T: Send + 'static>(
    dir: &Path,
    script: impl FnOnce(&mut Guest) -> T + Send + 'static,
) -> tokio::task::JoinHandle<(Guest, T)> {
    let mut guest = Guest::new(dir);
    tokio::task::spawn_blocking(move || {
        let done = script(&mut guest);
        (guest, done)
    })
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn event(attachment: &mut Attachment) -> SessionEvent {
    within(attachment.events.recv()).await.expect("an event")
}

/// The next that is neither a window nor the end of a stream.
async fn told(attachment: &mut Attachment) -> SessionEvent {
    loop {
        match event(attachment).await {
            SessionEvent::InputWindow { .. } | SessionEvent::StreamEnded { .. } => {}
            other => return other,
        }
    }
}

fn stdout(offset: u64, text: &'static str) -> SessionEvent {
    SessionEvent::Output { stream: sandpen_types::output_stream::OutputStream::Stdout, offset, bytes: text.into() }
}
