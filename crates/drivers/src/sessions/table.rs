//! All sessions of one guest, as a pure state machine: no I/O and no clock.
//!
//! ```text
//!            ┌──── Resumed, States ────▶ Up ──Closing──▶ Up, closing: all that the guest has is taken over
//!   Resuming ┤                           │                 │
//!     │      └─30 s─▶ Resuming, silent   │                 │       calls are answered with an error meanwhile
//!     │                     └─Resumed…─▶ Up                │
//!     └──────── the guest is gone, or broke the protocol ──┴──▶ Over: what came is served for CLIENT_LIMIT more
//! ```
//!
//! In go a guest's frames ([`SessionTable::take`]), clients' requests and the time; out come frames for the guest
//! ([`SessionTable::next_frame`], one when there is room for one), events for clients ([`SessionTable::next_event`], likewise),
//! answers to those who wait for a session's begin, and last words to clients that lose theirs.
//!
//! **Memory.** What is kept of the outputs is bounded by what the guest was allowed to send: [`OUTPUT_MAX`] of all streams
//! and a few KiB of each; after `Closing` [`CLOSING_MAX`]. Input waits within one window for each session, starts of
//! sessions within [`STARTS_MAX`], all else is a few words for each session.

mod asks;
mod clients;
mod outgoing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use sandpen_guest::protocol::session::{Budget, Content, SessionCommand, SessionFrame, SessionReport, SessionStream};
use sandpen_types::session::{SESSIONS_MAX, SessionId, SessionInfo};
use sandpen_vmm::sessions::{SessionError, SessionEvent};

use super::broken::Broken;
use super::session::{ClientKey, Session, Stage};
use super::wire;
use outgoing::Outgoing;

/// How long the answer to `Resume` is waited for before those who ask are told so. One that comes later counts all the
/// same: a machine may have been paused.
const RESUME_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of all outputs that are kept for clients, but for a few KiB of each stream.
pub(super) const OUTPUT_MAX: u64 = 8 << 20;
/// The same once the guest's workload has ended: what the guest kept, what is on its way, and what programs write last.
pub(super) const CLOSING_MAX: u64 = 32 << 20;
/// Bytes of starts that are not sent; while there are so many, no more is asked.
const STARTS_MAX: usize = 4 << 20;
/// Sessions that were dropped here: the guest may still say something of them, and none of them is begun once more.
const FORGOTTEN_MAX: usize = 4 * SESSIONS_MAX;

/// Who waits for a session's begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Token(pub(super) u64);

/// An answer to who waits.
pub(super) type Answer = (Token, Result<SessionInfo, SessionError>);

/// See the module.
#[derive(Debug)]
pub(super) struct SessionTable {
    epoch: u64,
    phase: Phase,
    /// Whether the guest's workload has ended.
    closing: bool,
    sessions: BTreeMap<SessionId, Session>,
    clients: HashMap<ClientKey, SessionId>,
    clients_so_far: u64,
    forgotten: VecDeque<u64>,
    outgoing: Outgoing,
    waiting: Vec<(SessionId, Token)>,
    answers: Vec<Answer>,
    touched: BTreeSet<ClientKey>,
    farewells: Vec<(ClientKey, Option<SessionEvent>)>,
}

#[derive(Debug)]
enum Phase {
    /// `Resume` was said; so many states are still to come.
    Resuming {
        until: Instant,
        silent: bool,
        left: Option<u32>,
    },
    Up,
    /// Nothing is said or heard any more, for this reason.
    Over(SessionError),
}

impl SessionTable {
    /// One that says `Resume` first, with a number that nobody can know before.
    pub(super) fn new(epoch: u64, now: Instant) -> Self {
        let mut outgoing = Outgoing::default();
        outgoing.command(0, SessionCommand::Resume);
        Self {
            epoch,
            phase: Phase::Resuming { until: now + RESUME_LIMIT, silent: false, left: None },
            closing: false,
            sessions: BTreeMap::new(),
            clients: HashMap::new(),
            clients_so_far: 0,
            forgotten: VecDeque::new(),
            outgoing,
            waiting: Vec::new(),
            answers: Vec::new(),
            touched: BTreeSet::new(),
            farewells: Vec::new(),
        }
    }

    /// Whether the link has ended.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Whether the guest has no sessions, and nobody waits for one.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::Up) && self.sessions.is_empty() && self.outgoing.is_empty()
    }

    /// Whether calls can be answered, be it with an error.
    pub(super) fn takes_asks(&self) -> bool {
        match self.phase {
            Phase::Resuming { silent, .. } => silent,
            Phase::Up => !self.is_crowded() && self.unsent_starts() < STARTS_MAX,
            Phase::Over(_) => true,
        }
    }

    fn unsent_starts(&self) -> usize {
        let unsent = |session: &Session| match &session.stage {
            Stage::Asked { start, sent } => start.len() - sent.unwrap_or(0),
            Stage::Running { .. } | Stage::Ended(_) => 0,
        };
        self.sessions.values().map(unsent).sum()
    }

    /// Whether the guest has so much to read that it is told no more for now.
    fn is_crowded(&self) -> bool {
        self.outgoing.is_crowded()
    }

    /// Answers that have come about.
    pub(super) fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Clients for which there may be something: an event, or room for requests.
    pub(super) fn take_touched(&mut self) -> BTreeSet<ClientKey> {
        std::mem::take(&mut self.touched)
    }

    /// Whether one of these three has something.
    pub(super) fn has_news(&self) -> bool {
        !self.answers.is_empty() || !self.touched.is_empty() || !self.farewells.is_empty()
    }

    /// Clients that lose their session, with what they are told last.
    pub(super) fn take_farewells(&mut self) -> Vec<(ClientKey, Option<SessionEvent>)> {
        std::mem::take(&mut self.farewells)
    }

    /// Takes a frame of the guest's.
    ///
    /// # Errors
    /// [`Broken`]: the link is to be given up, see [`SessionTable::end`].
    pub(super) fn take(&mut self, frame: SessionFrame<SessionReport>, now: Instant) -> Result<(), Broken> {
        let SessionFrame { epoch, session, content } = frame;
        if epoch != self.epoch || self.is_over() {
            return Ok(());
        }
        match content {
            Content::Message(report) if !matches!(self.phase, Phase::Up) => self.resume(session, report, now),
            Content::Message(report) => self.hear(session, report, now),
            Content::Bytes { stream, offset, bytes } => self.receive(session, stream, offset, &bytes),
        }
    }

    /// A report before the link is up.
    fn resume(&mut self, id: u64, report: SessionReport, now: Instant) -> Result<(), Broken> {
        let Phase::Resuming { left, .. } = &mut self.phase else { return Ok(()) };
        match (left.as_mut(), report) {
            (None, SessionReport::Resumed { sessions }) if id == 0 => {
                if usize::try_from(sessions).is_ok_and(|sessions| sessions <= SESSIONS_MAX) {
                    *left = Some(sessions);
                } else {
                    return Err(Broken::TooMany(sessions));
                }
            }
            (Some(left), SessionReport::State(state)) => {
                let unknown = Broken::Unknown { what: "State", id };
                let id = SessionId::new(id).filter(|id| !self.sessions.contains_key(id)).ok_or(unknown)?;
                self.sessions.insert(id, Session::found(id, state, now)?);
                *left -= 1;
            }
            (_, report) => return Err(Broken::Unexpected { what: wire::name(&report), when: "it has to resume" }),
        }
        if matches!(self.phase, Phase::Resuming { left: Some(0), .. }) {
            self.phase = Phase::Up;
            self.grant_all();
        }
        Ok(())
    }

    /// All streams' limits may be others.
    fn grant_all(&mut self) {
        for id in self.sessions.keys() {
            self.outgoing.grant(*id);
        }
    }

    fn hear(&mut self, id: u64, report: SessionReport, now: Instant) -> Result<(), Broken> {
        let what = wire::name(&report);
        if matches!(report, SessionReport::Closing) {
            if id != 0 || self.closing {
                return Err(Broken::Unexpected { what, when: "it was told" });
            }
            self.closing = true;
            self.grant_all();
            for id in self.sessions.keys().copied().collect::<Vec<_>>() {
                self.changed(id);
            }
            return Ok(());
        }
        let Some(session) = self.find(what, id)? else { return Ok(()) };
        let id = session.id;
        if let SessionReport::Refused(refusal) = report {
            if !session.is_asked() {
                return Err(Broken::Unexpected { what, when: "a session has begun" });
            }
            self.drop_session(id, &wire::refusal(refusal));
            return Ok(());
        }
        let was_asked = session.is_asked();
        session.hear(report, now)?;
        if was_asked {
            let info = session.info();
            self.answer(id, &Ok(info));
        }
        self.changed(id);
        Ok(())
    }

    fn receive(&mut self, id: u64, stream: SessionStream, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        let what = "bytes";
        if !matches!(self.phase, Phase::Up) {
            return Err(Broken::Unexpected { what, when: "it has to resume" });
        }
        let closing = self.closing;
        let Some(session) = self.find(what, id)? else { return Ok(()) };
        let id = session.id;
        let Some(stream) = wire::output(stream) else {
            return Err(Broken::Unexpected { what, when: "the host writes" });
        };
        if session.is_asked() {
            return Err(Broken::Unexpected { what, when: "a session has not begun" });
        }
        session.output(stream).receive(offset, bytes)?;
        if closing {
            self.outgoing.grant(id);
        }
        self.changed(id);
        Ok(())
    }

    /// The session that something is told of; `None` of one that was forgotten.
    fn find(&mut self, what: &'static str, number: u64) -> Result<Option<&mut Session>, Broken> {
        let session =
            SessionId::new(number).and_then(|id| self.sessions.get_mut(&id)).filter(|session| !session.is_ours);
        match session {
            None if self.forgotten.contains(&number) => Ok(None),
            None => Err(Broken::Unknown { what, id: number }),
            session => Ok(session),
        }
    }

    /// Something came of a session: its client may be told, its input may go on.
    fn changed(&mut self, id: SessionId) {
        let closing = self.closing;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.touched.extend(session.client.as_ref().map(|client| client.key));
        if session.input.has_next() {
            self.outgoing.ready(id);
        }
        if closing && session.is_complete() {
            // The guest's machine need not wait for clients.
            session.is_ours = true;
            self.outgoing.command(id.get(), SessionCommand::Forget);
        }
    }

    fn answer(&mut self, id: SessionId, answer: &Result<SessionInfo, SessionError>) {
        self.waiting.retain(|(of, token)| {
            if *of == id {
                self.answers.push((*token, answer.clone()));
            }
            *of != id
        });
    }

    /// Nothing is known of it any more. Who waits for it is told the reason.
    fn drop_session(&mut self, id: SessionId, reason: &SessionError) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.outgoing.is_started(id);
        self.answer(id, &Err(reason.clone()));
        if let Some(client) = session.client {
            self.clients.remove(&client.key);
            self.farewells.push((client.key, None));
        }
    }

    /// The guest is told to forget it, and so do we.
    fn forget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if !session.is_ours && !self.is_over() {
            self.outgoing.command(id.get(), SessionCommand::Forget);
        }
        self.forgotten.truncate(FORGOTTEN_MAX - 1);
        self.forgotten.push_front(id.get());
        self.drop_session(id, &SessionError::NotFound(id));
    }

    /// The link is over: the guest has gone, or is not to be believed. What came is still served.
    pub(super) fn end(&mut self, reason: &SessionError, now: Instant) {
        if self.is_over() {
            return;
        }
        self.phase = Phase::Over(reason.clone());
        self.outgoing = Outgoing::default();
        let (asked, begun): (Vec<_>, Vec<_>) = self.sessions.values().map(|s| (s.id, s.is_asked())).partition(|s| s.1);
        for (id, _) in asked {
            self.drop_session(id, reason);
        }
        for (id, _) in begun {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.lose(now);
                self.touched.extend(session.client.as_ref().map(|client| client.key));
            }
        }
    }

    /// When [`SessionTable::tick`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Phase::Resuming { until, silent, .. } = self.phase {
            return Some(until).filter(|_| !silent);
        }
        let over = self.is_over();
        self.sessions.values().filter_map(|session| session.deadline(over)).min()
    }

    /// The time has gone on.
    pub(super) fn tick(&mut self, now: Instant) {
        if let Phase::Resuming { until, silent, .. } = &mut self.phase
            && *until <= now
        {
            *silent = true;
        }
        if matches!(self.phase, Phase::Resuming { .. }) {
            return;
        }
        let over = self.is_over();
        let due = |session: &&mut Session| session.deadline(over).is_some_and(|deadline| deadline <= now);
        let mut left = Vec::new();
        for session in self.sessions.values_mut().filter(due) {
            if matches!(session.stage, Stage::Running { .. }) && !session.hung_up {
                session.hung_up = true;
                self.outgoing.command(session.id.get(), SessionCommand::HangUp);
            } else {
                left.push(session.id);
            }
        }
        for id in left {
            self.forget(id);
        }
    }

    /// The window of each stream, in bytes.
    fn window(&self) -> u64 {
        u64::try_from(Budget::largest().window(self.sessions.len())).unwrap_or(u64::MAX)
    }
}
