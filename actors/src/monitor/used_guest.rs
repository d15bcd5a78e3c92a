//! A guest whose uses are counted, for [`quiet`](super::quiet): input, and what is asked of sessions. Looks at it count for
//! nothing: its figures, a list of its sessions, its health.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::future::BoxFuture;
use sandpen_types::session::{SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_types::spec::{ByteString, TerminalSize};
use sandpen_types::stats::GuestUsage;
use sandpen_vmm::driver::{DriverError, GuestSession, ProbeOutcome};
use sandpen_vmm::sessions::{Attachment, GuestSessions, SessionError, SessionRequest};

use super::quiet::count;

pub(super) struct UsedGuest {
    pub(super) guest: Arc<dyn GuestSession>,
    pub(super) uses: Arc<AtomicU64>,
}

impl GuestSession for UsedGuest {
    fn signal_workload(&self, signal: i32) -> BoxFuture<'static, Result<(), DriverError>> {
        count(&self.uses);
        self.guest.signal_workload(signal)
    }

    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        self.guest.acknowledge_exit()
    }

    fn write_stdin(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>> {
        count(&self.uses);
        self.guest.write_stdin(bytes)
    }

    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        count(&self.uses);
        self.guest.close_stdin()
    }

    fn resize(&self, size: TerminalSize) -> BoxFuture<'static, Result<(), DriverError>> {
        count(&self.uses);
        self.guest.resize(size)
    }

    fn probe(
        &self,
        command: Vec<ByteString>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<ProbeOutcome, DriverError>> {
        self.guest.probe(command, limit)
    }

    fn usage(&self) -> BoxFuture<'static, Result<GuestUsage, DriverError>> {
        self.guest.usage()
    }

    fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        Ok(Arc::new(UsedSessions { sessions: self.guest.sessions()?, uses: self.uses.clone() }))
    }
}

struct UsedSessions {
    sessions: Arc<dyn GuestSessions>,
    uses: Arc<AtomicU64>,
}

impl GuestSessions for UsedSessions {
    fn open(&self, id: SessionId, spec: SessionSpec) -> BoxFuture<'static, Result<SessionInfo, SessionError>> {
        count(&self.uses);
        self.sessions.open(id, spec)
    }

    fn attach(
        &self,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> BoxFuture<'static, Result<Attachment, SessionError>> {
        count(&self.uses);
        self.sessions.attach(id, from)
    }

    fn list(&self) -> BoxFuture<'static, Result<Vec<SessionInfo>, SessionError>> {
        self.sessions.list()
    }

    fn tell(&self, id: SessionId, request: SessionRequest) -> BoxFuture<'static, Result<(), SessionError>> {
        count(&self.uses);
        self.sessions.tell(id, request)
    }
}
