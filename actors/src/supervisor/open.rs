//! The data paths of a live sandbox: to its log and to its guest, past the supervisor and the monitor.
//!
//! ```text
//!   OpenLog, OpenGuest ─┬ ended, its helper is there, and that will do ─▶ the same of its helper
//!                       ├ hosted ──────────────────────────▶ its log writer, its guest ─▶ OpenSession, AttachSession
//!                       ├ log writer or monitor just lost ─▶ asked again once there is another one, or the end
//!                       └ not live ────────────────────────▶ none: its log is on file
//! ```

use std::sync::Arc;

use actix::{Addr, Handler};
use sandpen_types::session::SessionInfo;
use sandpen_vmm::driver::GuestSession;
use sandpen_vmm::sessions::Attachment;

use super::actor::Supervisor;
use super::admits::{Request, When};
use super::jobs::AskAgain;
use super::phase::Phase;
use super::{AttachSession, OpenGuest, OpenLog, OpenSession, SupervisorError};
use crate::jobs::GetHeldJobs;
use crate::log_writer::LogWriter;
use crate::monitor::GetGuest;
use crate::runtime::long_answer::LongAnswer;

impl Handler<OpenLog> for Supervisor {
    type Result = LongAnswer<Result<Option<Addr<LogWriter>>, SupervisorError>>;

    fn handle(&mut self, OpenLog { key }: OpenLog, ctx: &mut Self::Context) -> Self::Result {
        let (supervisor, admitted) = (self.itself(ctx), self.admit(&key, Request::OpenLog));
        let (Ok(when), Some(child)) = (admitted, self.children.get_mut(&key)) else {
            return LongAnswer::of(async { Ok(None) });
        };
        match (when, child.phase()) {
            (When::Now, Phase::Hosted { log: Some(log), .. }) if log.connected() => {
                let log = log.clone();
                LongAnswer::of(async move { Ok(Some(log)) })
            }
            (When::Now, Phase::Hosted { log: None, .. }) => LongAnswer::of(async { Ok(None) }),
            _ => {
                let next = child.reachable();
                LongAnswer::of(async move {
                    let _ = next.await;
                    supervisor.send(OpenLog { key }).await?
                })
            }
        }
    }
}

impl Handler<OpenGuest> for Supervisor {
    type Result = LongAnswer<Result<Arc<dyn GuestSession>, SupervisorError>>;

    fn handle(&mut self, OpenGuest { key, or_helper }: OpenGuest, ctx: &mut Self::Context) -> Self::Result {
        let has_ended = or_helper && !self.children.contains_key(&key);
        let key = if has_ended { self.helper(&key).unwrap_or(key) } else { key };
        let (supervisor, admitted) = (self.itself(ctx), self.admit(&key, Request::OpenGuest));
        let not_live = self.not_live(&key);
        let (Ok(when), Some(child)) = (admitted, self.children.get_mut(&key)) else {
            return LongAnswer::of(not_live);
        };
        let monitor = child.monitor().filter(|monitor| when == When::Now && monitor.connected()).cloned();
        let next = child.reachable();
        LongAnswer::of(async move {
            if let Some(monitor) = monitor
                && let Ok(guest) = monitor.send(GetGuest).await
            {
                return match guest {
                    Some(guest) => Ok(guest),
                    None => not_live.await,
                };
            }
            let _ = next.await;
            supervisor.send(OpenGuest { key, or_helper }).await?
        })
    }
}

impl Handler<OpenSession> for Supervisor {
    type Result = LongAnswer<Result<SessionInfo, SupervisorError>>;

    fn handle(&mut self, OpenSession { key, id, spec }: OpenSession, ctx: &mut Self::Context) -> Self::Result {
        let or_helper = spec.program.is_for_ended();
        let guest = self.itself(ctx).send(OpenGuest { key, or_helper });
        LongAnswer::of(async move { Ok(guest.await??.sessions()?.open(id, spec).await?) })
    }
}

impl Handler<AttachSession> for Supervisor {
    type Result = LongAnswer<Result<Attachment, SupervisorError>>;

    fn handle(&mut self, attach: AttachSession, ctx: &mut Self::Context) -> Self::Result {
        let AttachSession { key, id, from } = attach.clone();
        let (supervisor, keeper) = (self.itself(ctx), self.keeper(&key));
        LongAnswer::of(async move {
            let guest = supervisor.send(OpenGuest { key: key.clone(), or_helper: true }).await??;
            match keeper.ask(GetHeldJobs).await {
                // It has a client, which must not lose it.
                Ok(Some(jobs)) if jobs.contains(&id) => Err(SupervisorError::IsJob { key, id }),
                Ok(_) => Ok(guest.sessions()?.attach(id, from).await?),
                Err(AskAgain) => supervisor.send(attach).await?,
            }
        })
    }
}
