//! What clients tell their sessions, and are told.

use std::time::Instant;

use nix::libc::SIGKILL;
use sandpen_guest::protocol::session::SessionCommand;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionId, SessionOffsets};
use sandpen_vmm::sessions::{SessionError, SessionEvent, SessionRequest};

use super::super::session::{ClientKey, Session, Stage};
use super::super::wire;
use super::SessionTable;

impl SessionTable {
    fn session_of(&mut self, client: ClientKey) -> Option<&mut Session> {
        let id = self.clients.get(&client)?;
        self.sessions.get_mut(id)
    }

    /// Whether [`SessionTable::next_event`] has one.
    pub(in super::super) fn has_event(&self, client: ClientKey) -> bool {
        let session = self.clients.get(&client).and_then(|id| self.sessions.get(id));
        session.is_some_and(Session::has_event)
    }

    /// What a client is told next. To be called when there is room for it.
    pub(in super::super) fn next_event(&mut self, client: ClientKey) -> Option<SessionEvent> {
        self.session_of(client)?.next_event()
    }

    /// Whether a client's next request can be taken.
    pub(in super::super) fn takes_requests(&self, client: ClientKey) -> bool {
        let session = self.clients.get(&client).and_then(|id| self.sessions.get(id));
        let window = usize::try_from(self.window()).unwrap_or(usize::MAX);
        session.is_some_and(|session| session.input.queued() < window) && !self.is_crowded()
    }

    /// A client has gone without a word.
    pub(in super::super) fn client_gone(&mut self, client: ClientKey, now: Instant) {
        let Some(id) = self.clients.remove(&client) else { return };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.client = None;
            session.alone_since = now;
        }
    }

    /// Takes what a client tells.
    pub(in super::super) fn request(&mut self, client: ClientKey, request: SessionRequest, now: Instant) {
        let Some(id) = self.clients.get(&client).copied() else { return };
        if let Err(error) = self.try_request(id, client, request, now) {
            self.client_gone(client, now);
            self.farewells.push((client, Some(SessionEvent::Refused(error))));
        }
    }

    fn try_request(
        &mut self,
        id: SessionId,
        client: ClientKey,
        request: SessionRequest,
        now: Instant,
    ) -> Result<(), SessionError> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        match request {
            SessionRequest::Input { offset, bytes } => {
                session.input.push(offset, &bytes)?;
                self.changed(id);
            }
            SessionRequest::EndInput { total } => {
                session.input.end(total)?;
                self.changed(id);
            }
            SessionRequest::Taken(SessionOffsets { stdout, stderr }) => {
                session.stdout.take(OutputStream::Stdout, stdout)?;
                session.stderr.take(OutputStream::Stderr, stderr)?;
                self.released(id);
            }
            SessionRequest::TakenEnd => {
                if session.client.as_ref().is_some_and(|client| client.knows_end) {
                    self.forget(id);
                }
            }
            SessionRequest::Detach => {
                session.detached = true;
                if !session.is_ours {
                    self.outgoing.command(id.get(), SessionCommand::Detach);
                }
                self.client_gone(client, now);
                self.farewells.push((client, Some(SessionEvent::Left)));
            }
            SessionRequest::Resize(_) | SessionRequest::Signal(_) | SessionRequest::HangUp => {
                self.pass_on(id, &request, now);
            }
        }
        Ok(())
    }

    /// Some of a session's output was taken: there is room for more.
    fn released(&mut self, id: SessionId) {
        if self.is_over() {
            return;
        }
        // Of room that is scarce others get some, too.
        if self.closing {
            self.grant_all();
        } else {
            self.outgoing.grant(id);
        }
    }

    /// A signal, a size, or the end: for the guest to see to.
    pub(super) fn pass_on(&mut self, id: SessionId, request: &SessionRequest, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !matches!(session.stage, Stage::Running { .. }) {
            return;
        }
        match request {
            SessionRequest::Resize(size) if session.terminal => self.outgoing.resize(id, wire::terminal_size(*size)),
            SessionRequest::Signal(signal @ 1..=64) => {
                if *signal == SIGKILL {
                    session.told_to_end(now);
                }
                self.outgoing.command(id.get(), SessionCommand::Signal(*signal));
            }
            SessionRequest::HangUp => {
                session.told_to_end(now);
                self.outgoing.command(id.get(), SessionCommand::HangUp);
            }
            _ => {}
        }
    }
}
