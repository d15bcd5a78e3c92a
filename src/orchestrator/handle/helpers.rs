//! What is asked of the files of a sandbox that has ended: a helper with its root and disk is started for it.

use sandpen_actors::supervisor::{AwaitStarted, OpenSession, SupervisorError};
use sandpen_types::session::{SessionId, SessionInfo, SessionSpec};
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::sessions::SessionError;

use super::super::error::SandpenError;
use super::Handle;

/// So often a helper may end between its start and its first session: each stays for a second.
const TRIES: u32 = 3;

impl Handle {
    /// Begins a session that a helper can have in the place of its sandbox, which is not live.
    pub(super) async fn open_in_helper(
        &self,
        key: &SandboxKey,
        id: SessionId,
        spec: SessionSpec,
    ) -> Result<SessionInfo, SandpenError> {
        let mut tried = 0;
        loop {
            self.start_helper(key).await?;
            tried += 1;
            let open = OpenSession { key: key.clone(), id, spec: spec.clone() };
            match self.supervisor.send(open).await? {
                Err(SupervisorError::NotLive { .. } | SupervisorError::Session(SessionError::NotRunning))
                    if tried < TRIES => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// Resolves when the sandbox's helper runs.
    async fn start_helper(&self, of: &SandboxKey) -> Result<(), SandpenError> {
        let row = self.get(of).await?.ok_or_else(|| SupervisorError::NotFound { key: of.clone() })?;
        let helper = row.spec.helper().map_err(SupervisorError::from)?;
        let key = helper.key.clone();
        let started = match self.start_sandbox(helper).await {
            Err(SandpenError::Supervisor(SupervisorError::AlreadyLive { key: live, .. })) if live == key => {
                self.supervisor.send(AwaitStarted { key: key.clone() }).await?
            }
            // It was started again meanwhile: it has no helper then, and needs none.
            Err(SandpenError::Supervisor(SupervisorError::AlreadyLive { .. })) => return Ok(()),
            started => Ok(started?),
        };
        match started {
            Ok(row) => match row.state.failure() {
                Some(reason) => Err(SandpenError::Helper { of: of.clone(), reason: reason.to_string() }),
                // One that has ended by now is looked for in vain, and started again.
                None => Ok(()),
            },
            Err(SupervisorError::NotLive { .. } | SupervisorError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
