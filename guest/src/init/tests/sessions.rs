//! Sessions beside a workload, over their port: a socket, which more than one host reads, one after the other.

use std::collections::BTreeMap;

use sandpen_guest::protocol::session::{
    Content, GuestFrame, HOST_PAYLOAD_MAX, HostFrame, OutputState, RunSession, SessionCommand, SessionEnd,
    SessionFrame, SessionFrameReader, SessionNotes, SessionProgram, SessionRefusal, SessionReport, SessionStart,
    SessionState, SessionStream, encode_bytes, encode_message,
};

use super::*;

mod copies;
mod ends;
mod idle;
mod load;
mod programs;
mod resume;
mod streams;
mod tools;

/// How much the test's hosts have room for of each stream.
const ROOM: u64 = 64 << 10;

/// A host's end of the port.
struct Link {
    port: UnixStream,
    epoch: u64,
    reader: SessionFrameReader<GuestFrame>,
    seen: BTreeMap<u64, Seen>,
    refused: Vec<(u64, SessionRefusal)>,
    is_closing: bool,
    /// How many of ten bytes that came are taken; `None`: nothing is said, and no room given.
    tenths: Option<u64>,
}

/// What was heard of a session.
#[derive(Debug, Default)]
struct Seen {
    state: Option<SessionState>,
    started: bool,
    window: Option<(u64, u64)>,
    input_closed: bool,
    stdout: Stream,
    stderr: Stream,
    end: Option<SessionEnd>,
}

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// Where the next bytes of this epoch begin.
    next: u64,
    total: Option<u64>,
}

impl Stream {
    /// What another epoch sent is sent again, and is the same.
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        assert_eq!(offset, self.next, "no gap, and nothing twice");
        self.next += bytes.len() as u64;
        let begin = usize::try_from(offset).unwrap();
        assert!(begin <= self.bytes.len(), "nothing is lost");
        let known = (self.bytes.len() - begin).min(bytes.len());
        assert_eq!(&self.bytes[begin..begin + known], &bytes[..known]);
        self.bytes.extend_from_slice(&bytes[known..]);
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn resume(&mut self, state: OutputState) {
        self.next = state.taken;
        assert!(state.written >= self.len());
        self.total = state.ended.then_some(state.written);
    }

    fn is_whole(&self) -> bool {
        self.total == Some(self.len())
    }
}

impl Host {
    /// A guest with a workload that runs until it is told to end.
    fn with_workload() -> Self {
        let mut host = Self::boot();
        host.start(&["sh", "-c", "read line; exit 5"], |start| start.stdin = true);
        assert_eq!(host.receive(), GuestMessage::Started);
        host
    }

    fn link(&self, epoch: u64) -> Link {
        Link::join(self.sessions.try_clone().unwrap(), epoch, BTreeMap::new())
    }

    /// Has the workload of [`Host::with_workload`] end.
    fn end_workload(&mut self) {
        self.stdin.write_all(&encode(&StdinMessage::Bytes(Bytes::from(b"\n".to_vec()))).unwrap()).unwrap();
    }

    /// Ends the workload; the guest must be satisfied then.
    fn done(mut self) {
        self.end_workload();
        assert_eq!(self.exit().end, WorkloadEnd::Code(5));
        self.finish();
    }
}

impl Link {
    /// Joins in the middle of whatever is on the port.
    fn join(port: UnixStream, epoch: u64, seen: BTreeMap<u64, Seen>) -> Self {
        let reader = SessionFrameReader::join(epoch, 4 << 20);
        let mut link = Self { port, epoch, reader, seen, refused: vec![], is_closing: false, tenths: Some(10) };
        link.tell(0, SessionCommand::Resume);
        let SessionReport::Resumed { sessions } = link.report().1 else { panic!("no Resumed") };
        for _ in 0..sessions {
            let (id, SessionReport::State(state)) = link.report() else { panic!("no State") };
            let seen = link.seen.entry(id).or_default();
            seen.stdout.resume(state.stdout);
            seen.stderr.resume(state.stderr);
            assert!(seen.end.is_none() || seen.end == state.end);
            (seen.started, seen.end) = (true, state.end.clone());
            (seen.window, seen.input_closed) = (None, !state.stdin);
            seen.state = Some(state);
        }
        link
    }

    #[expect(clippy::needless_pass_by_value, reason = "so that tests read better")]
    fn tell(&mut self, id: u64, command: SessionCommand) {
        let frame = encode_message::<HostFrame>(self.epoch, id, &command).unwrap();
        self.port.write_all(&frame).unwrap();
    }

    fn bytes(&mut self, id: u64, stream: SessionStream, offset: u64, bytes: &[u8]) {
        for (part, piece) in bytes.chunks(HOST_PAYLOAD_MAX).enumerate() {
            let offset = offset + (part * HOST_PAYLOAD_MAX) as u64;
            let frame = encode_bytes::<HostFrame>(self.epoch, id, stream, offset, &[piece]).unwrap();
            self.port.write_all(&frame).unwrap();
        }
    }

    fn describe(&mut self, id: u64, session: RunSession) {
        let spec = postcard::to_stdvec(&SessionStart::Run(session)).unwrap();
        self.tell(id, SessionCommand::Open { len: u32::try_from(spec.len()).unwrap() });
        self.bytes(id, SessionStream::Spec, 0, &spec);
    }

    /// Asks for a session, and gives room for its output.
    fn open(&mut self, id: u64, session: RunSession) {
        self.describe(id, session);
        self.seen.insert(id, Seen::default());
        self.take(id);
    }

    fn take(&mut self, id: u64) {
        let (Some(tenths), Some(seen)) = (self.tenths, self.seen.get_mut(&id)) else { return };
        let streams = [(SessionStream::Stdout, &mut seen.stdout), (SessionStream::Stderr, &mut seen.stderr)];
        let commands = streams.map(|(stream, seen)| {
            let (taken, limit) = (seen.len() * tenths / 10, seen.len() + ROOM);
            // What an earlier host had is not sent again.
            seen.next = seen.next.max(taken);
            SessionCommand::Taken { stream, taken, limit }
        });
        for command in commands {
            self.tell(id, command);
        }
    }

    fn frame(&mut self) -> SessionFrame<SessionReport> {
        loop {
            if let Some(frame) = self.reader.next().unwrap() {
                assert_eq!(frame.epoch, self.epoch);
                return frame;
            }
            let room = SessionFrameReader::<GuestFrame>::CAPACITY - self.reader.buffered();
            let mut chunk = vec![0; room];
            let len = self.port.read(&mut chunk).expect("the guest says something in time");
            assert_ne!(len, 0, "the guest closed its port");
            assert_eq!(self.reader.push(&chunk[..len]), len);
        }
    }

    fn report(&mut self) -> (u64, SessionReport) {
        let SessionFrame { session, content: Content::Message(report), .. } = self.frame() else {
            panic!("bytes instead of a report")
        };
        (session, report)
    }

    /// Takes what comes next.
    fn hear(&mut self) {
        let SessionFrame { session: id, content, .. } = self.frame();
        match content {
            Content::Message(SessionReport::Closing) => self.is_closing = true,
            Content::Message(SessionReport::Refused(refusal)) => {
                self.refused.push((id, refusal));
                self.seen.remove(&id);
            }
            Content::Bytes { stream, offset, bytes } => {
                let seen = self.seen.get_mut(&id).expect("bytes of a session that there is");
                match stream {
                    SessionStream::Stdout => seen.stdout.add(offset, &bytes),
                    _ => seen.stderr.add(offset, &bytes),
                }
                self.take(id);
            }
            Content::Message(report) => {
                let seen = self.seen.get_mut(&id).expect("a report of a session that there is");
                // Hosts are strict: a report that says nothing new is one too many.
                assert!(seen.end.is_none() || matches!(report, SessionReport::State(_)), "{report:?} after the end");
                match report {
                    SessionReport::Started => {
                        assert!(!seen.started, "once");
                        seen.started = true;
                    }
                    SessionReport::InputWindow { received, limit } => {
                        assert!(seen.started && !seen.input_closed);
                        assert!(received <= limit && seen.window.is_none_or(|old| old.0 <= received && old.1 <= limit));
                        seen.window = Some((received, limit));
                    }
                    SessionReport::InputClosed => {
                        assert!(!seen.input_closed, "once");
                        seen.input_closed = true;
                    }
                    SessionReport::StreamEnded { stream, total } => {
                        let stream = match stream {
                            SessionStream::Stdout => &mut seen.stdout,
                            _ => &mut seen.stderr,
                        };
                        assert_eq!(stream.total.replace(total), None, "once");
                    }
                    SessionReport::Ended(end) => {
                        let streams = [&mut seen.stdout, &mut seen.stderr];
                        match end {
                            SessionEnd::NotStarted(_) => {
                                assert!(!seen.started);
                                for stream in streams {
                                    assert_eq!(stream.total.replace(0), None, "it has no streams");
                                }
                            }
                            _ => {
                                assert!(
                                    streams.iter().all(|stream| stream.total.is_some()),
                                    "after both streams' ends"
                                );
                            }
                        }
                        assert_eq!(seen.end.replace(end), None, "once");
                    }
                    SessionReport::State(state) => seen.state = Some(state),
                    other => panic!("{other:?} in between"),
                }
            }
        }
    }

    fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            self.hear();
        }
    }

    fn started(&mut self, id: u64) {
        self.until(|link| link.seen[&id].started);
    }

    /// Reads output up to and with `wanted`.
    fn sees(&mut self, id: u64, wanted: &str) {
        self.until(|link| String::from_utf8_lossy(&link.seen[&id].stdout.bytes).contains(wanted));
    }

    /// Sends input from the begin, as the windows allow.
    fn feed(&mut self, id: u64, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            self.until(|link| {
                let seen = &link.seen[&id];
                seen.input_closed || seen.window.is_some_and(|(_, limit)| limit > sent as u64)
            });
            if self.seen[&id].input_closed {
                return;
            }
            let limit = usize::try_from(self.seen[&id].window.unwrap().1).unwrap();
            let end = bytes.len().min(limit);
            self.bytes(id, SessionStream::Stdin, sent as u64, &bytes[sent..end]);
            sent = end;
        }
    }

    /// Waits for the end of a session with all of its output, and has it forgotten.
    fn end(&mut self, id: u64) -> (SessionEnd, Vec<u8>, Vec<u8>) {
        self.until(|link| {
            let seen = &link.seen[&id];
            seen.end.is_some() && seen.stdout.is_whole() && seen.stderr.is_whole()
        });
        self.tell(id, SessionCommand::Forget);
        let seen = self.seen.remove(&id).unwrap();
        (seen.end.unwrap(), seen.stdout.bytes, seen.stderr.bytes)
    }

    /// Runs a session from its begin to its end.
    fn run(&mut self, id: u64, session: RunSession) -> (SessionEnd, Vec<u8>, Vec<u8>) {
        self.open(id, session);
        self.end(id)
    }

    fn failure(&mut self, id: u64, session: RunSession) -> (i32, String) {
        match self.run(id, session).0 {
            SessionEnd::NotStarted(failure) => (failure.code.code(), failure.message),
            other => panic!("{other:?}"),
        }
    }
}

fn session(program: SessionProgram) -> RunSession {
    let notes = SessionNotes { label: "test".into(), asked_at: Duration::from_secs(7), detached: false };
    RunSession { program, env: vec![], user: None, workdir: None, terminal: None, stdin: false, limit: None, notes }
}

fn command(command: &[&str]) -> RunSession {
    session(SessionProgram::Command(command.iter().map(|arg| Bytes::from(arg.as_bytes())).collect()))
}

fn script(text: &str) -> RunSession {
    command(&["sh", "-c", text])
}

fn fed(text: &str) -> RunSession {
    RunSession { stdin: true, ..script(text) }
}

fn code(code: u8) -> SessionEnd {
    SessionEnd::Exited(WorkloadEnd::Code(code))
}

fn killed_by(signal: u8) -> SessionEnd {
    SessionEnd::Exited(WorkloadEnd::Signal(signal))
}
