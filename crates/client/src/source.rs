//! Whose output is read, and whose input is fed.

use sandpen_types::session::SessionId;
use sandpen_types::spec::SandboxKey;

use super::path;

/// A sandbox's workload, or a job of it: both have the same routes for what is read and fed.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Which sandbox.
    pub(super) key: SandboxKey,
    /// Which job of it; none: its workload.
    job: Option<SessionId>,
}

impl Source {
    pub(super) fn workload(key: &SandboxKey) -> Self {
        Self { key: key.clone(), job: None }
    }

    pub(super) fn job(key: &SandboxKey, id: SessionId) -> Self {
        Self { key: key.clone(), job: Some(id) }
    }

    /// Its path with `rest`.
    pub(super) fn path(&self, rest: &str) -> String {
        match self.job {
            Some(id) => path(&self.key, &format!("/jobs/{id}{rest}")),
            None => path(&self.key, rest),
        }
    }
}
