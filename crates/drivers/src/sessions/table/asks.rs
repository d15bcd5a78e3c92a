//! What is asked of a table by people without a session, or by those who want one.

use std::time::Instant;

use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SESSIONS_MAX, SessionId, SessionInfo, SessionOffsets};
use sandpen_vmm::sessions::{SessionError, SessionEvent, SessionRequest};

use super::super::session::{ClientKey, Session};
use super::super::wire::Asked;
use super::{Phase, SessionTable, Token};

impl SessionTable {
    /// Why nothing is known of the guest's sessions.
    fn check_resumed(&self) -> Result<(), SessionError> {
        match self.phase {
            Phase::Up | Phase::Over(_) => Ok(()),
            Phase::Resuming { .. } => {
                Err(SessionError::Unreachable("it does not answer; is it paused, or very busy?".to_owned()))
            }
        }
    }

    /// Why nothing can be asked of the guest.
    fn check_up(&self) -> Result<(), SessionError> {
        match &self.phase {
            Phase::Over(reason) => Err(reason.clone()),
            Phase::Up | Phase::Resuming { .. } => self.check_resumed(),
        }
    }

    /// Begins a session, or answers as it is. `None`: `token` is answered later.
    pub(in super::super) fn open(
        &mut self,
        token: Token,
        id: SessionId,
        asked: Asked,
        now: Instant,
    ) -> Option<Result<SessionInfo, SessionError>> {
        match self.sessions.get(&id) {
            Some(session) if !session.is_asked() => return Some(Ok(session.info())),
            Some(_) => {
                self.waiting.push((id, token));
                return None;
            }
            None => {}
        }
        if let Err(error) = self.check_open() {
            return Some(Err(error));
        }
        if self.forgotten.contains(&id.get()) {
            return Some(Err(SessionError::NotFound(id)));
        }
        self.sessions.insert(id, Session::asked(id, asked, now));
        self.waiting.push((id, token));
        self.outgoing.start(id);
        None
    }

    fn check_open(&mut self) -> Result<(), SessionError> {
        self.check_up()?;
        if self.closing {
            return Err(SessionError::NotRunning);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let left = self.sessions.values().filter(|session| session.is_left());
            let oldest = left.min_by_key(|session| (session.asked_at, session.id)).map(|session| session.id);
            self.forget(oldest.ok_or(SessionError::TooMany { max: SESSIONS_MAX })?);
        }
        Ok(())
    }

    /// A client comes; the one before is told that it is replaced.
    pub(in super::super) fn attach(
        &mut self,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> Result<(ClientKey, SessionInfo), SessionError> {
        self.check_resumed()?;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(self.check_up().err().unwrap_or(SessionError::NotFound(id)));
        };
        if session.is_asked() {
            // It may begin yet: who asked for it may have given its answer up, and not the session.
            return Err(SessionError::Unreachable(
                "its guest has not begun it yet; is it paused, or very busy?".to_owned(),
            ));
        }
        session.stdout.check_attach(OutputStream::Stdout, from.map(|from| from.stdout))?;
        session.stderr.check_attach(OutputStream::Stderr, from.map(|from| from.stderr))?;
        self.clients_so_far += 1;
        let key = ClientKey(self.clients_so_far);
        if let Some(before) = &session.client {
            self.clients.remove(&before.key);
            self.farewells.push((before.key, Some(SessionEvent::Replaced)));
        }
        session.attach(key, from);
        let info = session.info();
        self.clients.insert(key, id);
        self.touched.insert(key);
        Ok((key, info))
    }

    /// All that have begun, oldest first.
    pub(in super::super) fn list(&self) -> Result<Vec<SessionInfo>, SessionError> {
        self.check_resumed()?;
        if self.sessions.is_empty() {
            self.check_up()?;
        }
        let begun = self.sessions.values().filter(|session| !session.is_asked());
        let mut all: Vec<_> = begun.map(Session::info).collect();
        all.sort_by_key(|info| (info.asked_at, info.id));
        Ok(all)
    }

    /// Tells a session something without being its client.
    pub(in super::super) fn tell(
        &mut self,
        id: SessionId,
        request: &SessionRequest,
        now: Instant,
    ) -> Result<(), SessionError> {
        self.check_up()?;
        match self.sessions.get(&id) {
            Some(session) if !session.is_asked() => {}
            _ => return Err(SessionError::NotFound(id)),
        }
        if let SessionRequest::Signal(_) | SessionRequest::Resize(_) | SessionRequest::HangUp = request {
            self.pass_on(id, request, now);
        }
        Ok(())
    }
}
