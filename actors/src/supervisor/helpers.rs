//! Helpers: microVMs that have the root and the disk of an ended sandbox, see [`helper_key`].
//!
//! ```text
//!   start of a helper ─┬ its sandbox is live ──▶ refused
//!                      └ something is left of it ──▶ once released
//!   start, removal, rename of a sandbox ── has a helper ──▶ once that is gone, or refused after HELPER_LIMIT
//! ```
//!
//! So a disk is one microVM's at a time.

use std::time::Duration;

use actix::{Context, Handler, Message};
use sandpen_types::spec::{SandboxKey, helper_key};

use super::SupervisorError;
use super::actor::{Answer, Supervisor};
use super::admits::{Request, When};

/// How long a request waits for the helper's end.
const HELPER_LIMIT: Duration = Duration::from_secs(10);

/// What a helper's start meets.
pub(super) enum Around {
    Free,
    /// Something is left of its sandbox.
    OnceReleased(SandboxKey),
    Refused(SupervisorError),
}

impl Supervisor {
    /// The helper of a sandbox, if there is one.
    pub(super) fn helper(&self, of: &SandboxKey) -> Option<SandboxKey> {
        helper_key(of).ok().filter(|helper| self.children.contains_key(helper))
    }

    /// Whether a helper of this sandbox may be started, as far as that one is concerned.
    pub(super) fn around_helper(&self, of: Option<&SandboxKey>) -> Around {
        let Some(of) = of else { return Around::Free };
        match self.admit(of, Request::Start) {
            Ok(When::Now) => Around::Free,
            Ok(When::OnceReleased | When::OnceHosted) => Around::OnceReleased(of.clone()),
            Err(refusal) => Around::Refused(refusal.error(of.clone(), self.status(of), Request::Start)),
        }
    }

    /// The answer to a request for a sandbox whose helper is there: the request again, once it is gone.
    pub(super) fn once_helper_is_gone<M, T>(
        &mut self,
        of: &SandboxKey,
        helper: &SandboxKey,
        request: M,
        ctx: &Context<Self>,
    ) -> Answer<T>
    where
        M: Message<Result = Result<T, SupervisorError>> + Send + 'static,
        T: Send + 'static,
        Self: Handler<M>,
    {
        let busy = SupervisorError::FilesInUse { key: of.clone() };
        self.once_released_within(Some((HELPER_LIMIT, busy)), helper, request, ctx)
    }
}
