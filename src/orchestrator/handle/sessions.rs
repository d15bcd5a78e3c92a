//! Sessions: commands beside the workload of a live sandbox.

use std::sync::Arc;

use sandpen_actors::supervisor::{AttachSession, ListSessions, OpenGuest, OpenSession, SupervisorError};
use sandpen_client::random_session_id;
use sandpen_types::session::{SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_types::spec::{SandboxKey, TerminalSize};
use sandpen_vmm::sessions::{Attachment, GuestSessions, SessionError, SessionRequest};

use super::super::error::SandpenError;
use super::super::session::Session;
use super::Handle;

impl Handle {
    /// Runs a command beside the workload of a live sandbox, with streams of its own; resolves when it runs, or could not
    /// be executed: [`Session::next`] and [`Session::wait`] tell.
    ///
    /// # Errors
    /// `NotFound`, `NotLive`, a specification that cannot be, and [`SessionError`].
    pub async fn exec(&self, key: &SandboxKey, spec: SessionSpec) -> Result<Session, SandpenError> {
        let info = self.open_session(key, random_session_id(), spec).await?;
        self.attach_session(key, info.id, None).await
    }

    /// Begins a session without becoming its client. One of the guest's own tools that need nothing but files can be had of
    /// a sandbox that has ended, too: a helper microVM with its root and disk runs it. Asked again with the same number, it runs nothing twice, and answers
    /// how the session is.
    ///
    /// # Errors
    /// As [`Handle::exec`].
    pub async fn open_session(
        &self,
        key: &SandboxKey,
        id: SessionId,
        spec: SessionSpec,
    ) -> Result<SessionInfo, SandpenError> {
        spec.check().map_err(SessionError::from)?;
        // A tool's is short; a command's may not be.
        let again = spec.program.is_for_ended().then(|| spec.clone());
        match (self.supervisor.send(OpenSession { key: key.clone(), id, spec }).await?, again) {
            (Err(SupervisorError::NotLive { .. }), Some(spec)) => self.open_in_helper(key, id, spec).await,
            (answer, _) => Ok(answer?),
        }
    }

    /// The sessions of a live sandbox that are no [jobs](Handle::jobs), oldest first; those included whose end nobody has taken
    /// yet.
    ///
    /// # Errors
    /// `NotFound`, `NotLive` and [`SessionError`].
    pub async fn sessions(&self, key: &SandboxKey) -> Result<Vec<SessionInfo>, SandpenError> {
        Ok(self.supervisor.send(ListSessions { key: key.clone() }).await??)
    }

    /// One of them.
    ///
    /// # Errors
    /// As [`Handle::sessions`], and that there is none of that number.
    pub async fn session(&self, key: &SandboxKey, id: SessionId) -> Result<SessionInfo, SandpenError> {
        let found = self.sessions(key).await?.into_iter().find(|info| info.id == id);
        match found {
            Some(info) => Ok(info),
            None if self.job(key, id).await.is_ok() => Err(SupervisorError::IsJob { key: key.clone(), id }.into()),
            None => Err(SessionError::NotFound(id).into()),
        }
    }

    /// Becomes the client of a session, in the place of one that it may have. `from` is what one has of its output, see
    /// [`Session::offsets`]; without it all that is kept comes.
    ///
    /// # Errors
    /// As [`Handle::session`], and where what is wanted is not kept.
    pub async fn attach_session(
        &self,
        key: &SandboxKey,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> Result<Session, SandpenError> {
        let attachment = self.attachment(key, id, from).await?;
        Ok(Session::new(self.supervisor.clone(), key, attachment, from))
    }

    /// The bare hold of a session.
    pub(crate) async fn attachment(
        &self,
        key: &SandboxKey,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> Result<Attachment, SandpenError> {
        Ok(self.supervisor.send(AttachSession { key: key.clone(), id, from }).await??)
    }

    /// Sends a signal, 1 to 64, to a session's process group.
    ///
    /// # Errors
    /// As [`Handle::session`].
    pub async fn signal_session(&self, key: &SandboxKey, id: SessionId, signal: i32) -> Result<(), SandpenError> {
        self.tell_session(key, id, SessionRequest::Signal(signal)).await
    }

    /// Tells a session's terminal a size.
    ///
    /// # Errors
    /// As [`Handle::session`].
    pub async fn resize_session(
        &self,
        key: &SandboxKey,
        id: SessionId,
        size: TerminalSize,
    ) -> Result<(), SandpenError> {
        self.tell_session(key, id, SessionRequest::Resize(size)).await
    }

    /// Hangs a session up: SIGHUP, and SIGKILL where it does not end of that soon.
    ///
    /// # Errors
    /// As [`Handle::session`].
    pub async fn hang_up_session(&self, key: &SandboxKey, id: SessionId) -> Result<(), SandpenError> {
        self.tell_session(key, id, SessionRequest::HangUp).await
    }

    async fn tell_session(&self, key: &SandboxKey, id: SessionId, request: SessionRequest) -> Result<(), SandpenError> {
        Ok(self.guest_sessions(key).await?.tell(id, request).await?)
    }

    async fn guest_sessions(&self, key: &SandboxKey) -> Result<Arc<dyn GuestSessions>, SandpenError> {
        Ok(self.supervisor.send(OpenGuest { key: key.clone(), or_helper: true }).await??.sessions()?)
    }
}
