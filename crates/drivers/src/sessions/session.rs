//! One session as the host knows it. Pure.
//!
//! ```text
//!   ──Open──▶ Asked ──Started──▶ Running ──Ended──▶ Ended ──its client has all, or nobody comes──▶ (dropped)
//!               │                   ▲  │               ▲
//!               └──Refused──▶ (none) │  └─link ended: Gone┤
//!   found in a guest ───────────────┴─────────────────────┘
//! ```

use std::time::Instant;

use chrono::{DateTime, Utc};
use sandpen_guest::protocol::session::{SessionReport, SessionState, SessionStream};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{CLIENT_LIMIT, LABEL_MAX, SessionEnd, SessionId, SessionInfo, SessionOffsets};
use sandpen_vmm::sessions::SessionEvent;

use super::broken::Broken;
use super::input::{Input, Window};
use super::output::Output;
use super::wire;

/// Most bytes of an event.
const EVENT_MAX: usize = 64 << 10;

/// A client's number: one for each time that somebody attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientKey(pub(super) u64);

/// See the module.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) label: String,
    pub(super) asked_at: DateTime<Utc>,
    pub(super) terminal: bool,
    pub(super) detached: bool,
    pub(super) stage: Stage,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) input: Input,
    pub(super) client: Option<Client>,
    /// Since when it has no client, where it has none.
    pub(super) alone_since: Instant,
    /// Whether it was told to end.
    pub(super) hung_up: bool,
    /// Whether all of it is here, and nothing in the guest.
    pub(super) is_ours: bool,
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is being sent, or waits for that: the encoded start, and how much of it was sent; `None` before all. Nothing of it is
    /// kept when all of it was.
    Asked { start: Vec<u8>, sent: Option<usize> },
    /// It runs; whether the guest has said so, which of one that was found may be still to come.
    Running { said: bool },
    /// It has ended.
    Ended(SessionEnd),
}

/// Whoever has it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) key: ClientKey,
    /// What it was told of the input.
    window: Option<Window>,
    knows_closed: bool,
    /// Which outputs it knows to have ended.
    knows_ends: Vec<OutputStream>,
    pub(super) knows_end: bool,
    /// Whose turn it is.
    stderr_next: bool,
}

impl Session {
    /// One that is asked for.
    pub(super) fn asked(id: SessionId, asked: wire::Asked, now: Instant) -> Self {
        let wire::Asked { start, label, at: asked_at, terminal, stdin, detached } = asked;
        Self {
            id,
            label,
            asked_at,
            terminal,
            detached,
            stage: Stage::Asked { start, sent: None },
            stdout: Output::default(),
            stderr: Output::default(),
            input: if stdin { Input::default() } else { Input::none() },
            client: None,
            alone_since: now,
            hung_up: false,
            is_ours: false,
        }
    }

    /// One that was found in a guest.
    pub(super) fn found(id: SessionId, state: SessionState, now: Instant) -> Result<Self, Broken> {
        let stage = match state.end {
            None => Stage::Running { said: false },
            Some(end) if state.stdout.ended && state.stderr.ended => Stage::Ended(wire::end(end)?),
            Some(_) => return Err(Broken::Unexpected { what: "an end", when: "a stream has none" }),
        };
        let mut label = wire::clean(&state.notes.label);
        label.truncate(label.floor_char_boundary(LABEL_MAX));
        Ok(Self {
            id,
            label,
            asked_at: wire::moment(state.notes.asked_at),
            terminal: state.terminal,
            detached: state.notes.detached,
            stage,
            stdout: Output::found(state.stdout)?,
            stderr: Output::found(state.stderr)?,
            input: Input::found(state.received, state.input_ended, state.stdin),
            client: None,
            alone_since: now,
            hung_up: false,
            is_ours: false,
        })
    }

    pub(super) fn info(&self) -> SessionInfo {
        let end = match &self.stage {
            Stage::Ended(end) => Some(end.clone()),
            Stage::Asked { .. } | Stage::Running { .. } => None,
        };
        SessionInfo {
            id: self.id,
            label: self.label.clone(),
            asked_at: self.asked_at,
            terminal: self.terminal,
            detached: self.detached,
            attached: self.client.is_some(),
            stdin: self.input.window().received,
            kept_from: SessionOffsets { stdout: self.stdout.from(), stderr: self.stderr.from() },
            end,
        }
    }

    pub(super) fn output(&mut self, stream: OutputStream) -> &mut Output {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. })
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended(_))
    }

    /// Whether its end is known and all that it wrote is here: the guest says no more of it.
    pub(super) fn is_complete(&self) -> bool {
        self.has_ended() && self.stdout.is_complete() && self.stderr.is_complete()
    }

    /// Whether it may be dropped for another one: nobody waits for its end.
    pub(super) fn is_left(&self) -> bool {
        self.has_ended() && self.detached && self.client.is_none()
    }

    /// When nobody's being there has a consequence: it is hung up, or dropped. `is_over`: whether its link has ended.
    pub(super) fn deadline(&self, is_over: bool) -> Option<Instant> {
        let counts = match self.stage {
            _ if self.client.is_some() => false,
            _ if is_over || self.is_ours => true,
            Stage::Asked { .. } => false,
            // With nobody there, what a session wrote and nobody takes would hold its end for ever.
            Stage::Running { .. } => !self.detached || self.hung_up,
            Stage::Ended(_) => !self.detached,
        };
        // What was hung up may take as long again, and is forgotten then: what it wrote and nobody takes would hold it.
        let is_ending = matches!(self.stage, Stage::Running { .. }) && self.hung_up && !is_over && !self.is_ours;
        counts.then(|| self.alone_since + CLIENT_LIMIT * if is_ending { 2 } else { 1 })
    }

    /// It was told to end, and has some time for that.
    pub(super) fn told_to_end(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.hung_up, true) && self.client.is_none() {
            self.alone_since = now;
        }
    }

    /// What the guest says of it, but for its refusal and its states.
    pub(super) fn hear(&mut self, report: SessionReport, now: Instant) -> Result<(), Broken> {
        let what = wire::name(&report);
        match (&mut self.stage, report) {
            (Stage::Asked { start, sent }, SessionReport::Started) if *sent == Some(start.len()) => {
                self.stage = Stage::Running { said: true };
                self.alone_since = now;
            }
            (Stage::Running { said: said @ false }, SessionReport::Started) => *said = true,
            (Stage::Running { .. }, SessionReport::InputWindow { received, limit }) => {
                self.input.open(Window { received, limit })?;
            }
            (Stage::Running { .. }, SessionReport::InputClosed) => self.input.close()?,
            (Stage::Running { .. }, SessionReport::StreamEnded { stream, total }) => {
                let output = match stream {
                    SessionStream::Stdout => &mut self.stdout,
                    SessionStream::Stderr => &mut self.stderr,
                    SessionStream::Stdin | SessionStream::Spec => {
                        return Err(Broken::Unexpected { what: "the end of a stream", when: "the host ends that" });
                    }
                };
                output.end(total)?;
            }
            (Stage::Running { .. }, SessionReport::Ended(end)) => {
                if !self.stdout.has_ended() || !self.stderr.has_ended() {
                    return Err(Broken::Unexpected { what, when: "its streams have not ended" });
                }
                self.end(wire::end(end)?);
            }
            // One that was never executed has no streams.
            (Stage::Asked { start, sent }, SessionReport::Ended(end)) if *sent == Some(start.len()) => {
                let end = wire::end(end)?;
                if !matches!(end, SessionEnd::NotStarted { .. }) {
                    return Err(Broken::Unexpected { what, when: "it has not begun" });
                }
                self.stdout.cut();
                self.stderr.cut();
                self.alone_since = now;
                self.end(end);
            }
            (Stage::Asked { .. }, _) => return Err(Broken::Unexpected { what, when: "a session has not begun" }),
            (Stage::Running { .. }, _) => return Err(Broken::Unexpected { what, when: "a session runs" }),
            (Stage::Ended(_), _) => return Err(Broken::Unexpected { what, when: "a session has ended" }),
        }
        Ok(())
    }

    fn end(&mut self, end: SessionEnd) {
        self.stage = Stage::Ended(end);
        self.input.shut();
    }

    /// Its link is over: what has not come will not.
    pub(super) fn lose(&mut self, now: Instant) {
        if !self.is_complete() {
            self.stdout.cut();
            self.stderr.cut();
            self.end(SessionEnd::Gone);
        }
        self.alone_since = self.alone_since.max(now);
    }

    /// It gets a client, after both outputs were checked.
    pub(super) fn attach(&mut self, key: ClientKey, from: Option<SessionOffsets>) {
        self.input.attach();
        self.stdout.attach(from.map(|from| from.stdout));
        self.stderr.attach(from.map(|from| from.stderr));
        let (window, knows_closed, knows_end, stderr_next) = (None, self.input.is_none(), false, false);
        self.client = Some(Client { key, window, knows_closed, knows_ends: Vec::new(), knows_end, stderr_next });
    }

    /// Whether [`Session::next_event`] has one.
    pub(super) fn has_event(&self) -> bool {
        let Some(client) = &self.client else { return false };
        self.has_window(client) || self.has_close(client) || self.has_output(client) || self.has_end(client)
    }

    fn has_window(&self, client: &Client) -> bool {
        !self.input.is_closed() && client.window != Some(self.input.window())
    }

    fn has_close(&self, client: &Client) -> bool {
        self.input.is_closed() && !client.knows_closed && !self.has_ended()
    }

    fn has_output(&self, client: &Client) -> bool {
        let has_end = |stream| self.stream_end(client, stream).is_some();
        self.stdout.has_news() || self.stderr.has_news() || OutputStream::ALL.into_iter().any(has_end)
    }

    /// The end of an output that the client is to be told.
    fn stream_end(&self, client: &Client, stream: OutputStream) -> Option<u64> {
        let output = match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        };
        output.told_end().filter(|_| !client.knows_ends.contains(&stream))
    }

    fn has_end(&self, client: &Client) -> bool {
        !client.knows_end && self.has_ended() && self.stdout.is_told() && self.stderr.is_told()
    }

    /// What its client is told next.
    pub(super) fn next_event(&mut self) -> Option<SessionEvent> {
        let client = self.client.as_ref()?;
        let (window, close, end) = (self.has_window(client), self.has_close(client), self.has_end(client));
        let client = self.client.as_mut()?;
        if window {
            let window = self.input.window();
            client.window = Some(window);
            return Some(SessionEvent::InputWindow { received: window.received, limit: window.limit });
        }
        if close {
            client.knows_closed = true;
            return Some(SessionEvent::InputClosed);
        }
        // In turns: one that writes without end hides nothing of the other.
        let order = match client.stderr_next {
            true => [OutputStream::Stderr, OutputStream::Stdout],
            false => [OutputStream::Stdout, OutputStream::Stderr],
        };
        for stream in order {
            if let Some((offset, bytes)) = self.output(stream).next(EVENT_MAX) {
                if let Some(client) = &mut self.client {
                    client.stderr_next = stream == OutputStream::Stdout;
                }
                return Some(SessionEvent::Output { stream, offset, bytes });
            }
            let end = self.client.as_ref().and_then(|client| self.stream_end(client, stream));
            if let (Some(client), Some(total)) = (&mut self.client, end) {
                client.knows_ends.push(stream);
                return Some(SessionEvent::StreamEnded { stream, total });
            }
        }
        match &self.stage {
            Stage::Ended(how) if end => {
                let event = SessionEvent::Ended(how.clone());
                if let Some(client) = &mut self.client {
                    client.knows_end = true;
                }
                Some(event)
            }
            _ => None,
        }
    }
}
