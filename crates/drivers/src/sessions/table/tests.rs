//! The table alone, with a guest and clients that are played here.

use std::collections::BTreeMap;

use chrono::DateTime;
use proptest::prelude::*;
use sandpen_guest::protocol::session::{
    HostFrame, OutputState, SessionEnd as GuestEnd, SessionFrameReader, SessionNotes, SessionRefusal, SessionState,
};
use sandpen_guest::protocol::{StartFailure, StartFailureCode, WorkloadEnd};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{CLIENT_LIMIT, SessionEnd, SessionOffsets, SessionSpec};
use sandpen_types::state::ExitStatus;
use sandpen_vmm::sessions::SessionRequest;

use super::super::wire::Asked;
use super::*;

mod any_guest;
mod hostile;
mod lives;
mod transfers;

const EPOCH: u64 = 77;
const CODE_0: GuestEnd = GuestEnd::Exited(WorkloadEnd::Code(0));

/// A table, and its time.
struct Host {
    table: SessionTable,
    now: Instant,
    reader: SessionFrameReader<HostFrame>,
}

fn id(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn asked(stdin: bool, detached: bool) -> Asked {
    let spec = SessionSpec { stdin, detached, ..SessionSpec::command(["sh", "-c", "true"]) };
    Asked::new(&spec, DateTime::UNIX_EPOCH).unwrap()
}

fn state() -> SessionState {
    let output = OutputState { taken: 0, written: 0, ended: false };
    SessionState {
        notes: SessionNotes { label: "sh\x1b".to_owned(), asked_at: Duration::from_secs(5), detached: false },
        terminal: false,
        stdin: true,
        received: 0,
        input_ended: false,
        stdout: output,
        stderr: output,
        end: None,
    }
}

impl Host {
    /// Before the guest has answered.
    fn new() -> Self {
        let now = Instant::now();
        let mut host = Self { table: SessionTable::new(EPOCH, now), now, reader: SessionFrameReader::new() };
        assert_eq!(host.sent(), [(0, Content::Message(SessionCommand::Resume))]);
        host
    }

    fn up() -> Self {
        let mut host = Self::new();
        host.say(0, SessionReport::Resumed { sessions: 0 }).unwrap();
        host
    }

    /// One with a session that runs.
    fn running(stdin: bool, detached: bool) -> Self {
        let mut host = Self::up();
        host.begin(1, stdin, detached);
        host
    }

    fn begin(&mut self, number: u64, stdin: bool, detached: bool) {
        let token = Token(number);
        assert_eq!(self.table.open(token, id(number), asked(stdin, detached), self.now), None);
        self.sent();
        self.say(number, SessionReport::Started).unwrap();
        let answers = self.table.take_answers();
        assert!(matches!(&answers[..], [(of, Ok(_))] if *of == token), "{answers:?}");
    }

    fn frame(&mut self, session: u64, content: Content<SessionReport>) -> Result<(), Broken> {
        self.table.take(SessionFrame { epoch: EPOCH, session, content }, self.now)
    }

    fn say(&mut self, session: u64, report: SessionReport) -> Result<(), Broken> {
        self.frame(session, Content::Message(report))
    }

    fn write(&mut self, session: u64, stream: SessionStream, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        self.frame(session, Content::Bytes { stream, offset, bytes: bytes.to_vec() })
    }

    /// Both streams end after so many bytes, and the session.
    fn ended(&mut self, session: u64, totals: [u64; 2], end: GuestEnd) {
        let streams = [SessionStream::Stdout, SessionStream::Stderr];
        for (stream, total) in streams.into_iter().zip(totals) {
            self.say(session, SessionReport::StreamEnded { stream, total }).unwrap();
        }
        self.say(session, SessionReport::Ended(end)).unwrap();
    }

    /// All that the guest is told.
    fn sent(&mut self) -> Vec<(u64, Content<SessionCommand>)> {
        let mut sent = Vec::new();
        while let Some(frame) = self.table.next_frame().unwrap() {
            assert!(frame.len() <= 4096);
            assert_eq!(self.reader.push(&frame), frame.len());
            let SessionFrame { epoch, session, content } = self.reader.next().unwrap().expect("a whole frame");
            assert_eq!(epoch, EPOCH);
            sent.push((session, content));
        }
        sent
    }

    /// The commands among that which are about no limits.
    fn commands(&mut self) -> Vec<(u64, SessionCommand)> {
        let commands = self.sent().into_iter().filter_map(|(session, content)| match content {
            Content::Message(SessionCommand::Taken { .. }) | Content::Bytes { .. } => None,
            Content::Message(command) => Some((session, command)),
        });
        commands.collect()
    }

    fn attach(&mut self, number: u64) -> ClientKey {
        self.table.attach(id(number), None).unwrap().0
    }

    /// What a client is told.
    fn all_events(&mut self, client: ClientKey) -> Vec<SessionEvent> {
        let events = std::iter::from_fn(|| {
            let has_event = self.table.has_event(client);
            let event = self.table.next_event(client);
            assert_eq!(has_event, event.is_some(), "{event:?}");
            event
        });
        events.collect()
    }

    /// The same without the ends of streams.
    fn events(&mut self, client: ClientKey) -> Vec<SessionEvent> {
        let is_kept = |event: &SessionEvent| !matches!(event, SessionEvent::StreamEnded { .. });
        self.all_events(client).into_iter().filter(is_kept).collect()
    }

    fn request(&mut self, client: ClientKey, request: SessionRequest) {
        self.table.request(client, request, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.table.tick(self.now);
    }

    fn ids(&self) -> Vec<u64> {
        self.table.list().unwrap().into_iter().map(|info| info.id.get()).collect()
    }
}

fn output(stream: OutputStream, offset: u64, text: &'static str) -> SessionEvent {
    SessionEvent::Output { stream, offset, bytes: text.into() }
}

fn stdout(offset: u64, text: &'static str) -> SessionEvent {
    output(OutputStream::Stdout, offset, text)
}

fn window(received: u64, limit: u64) -> SessionEvent {
    SessionEvent::InputWindow { received, limit }
}

fn stream_ended(stream: OutputStream, total: u64) -> SessionEvent {
    SessionEvent::StreamEnded { stream, total }
}

const EXITED: SessionEvent = SessionEvent::Ended(SessionEnd::Exited(ExitStatus::Code(0)));
