//! The begin of a job: looked up, put on record, and handed to a life of its own, which has the guest begin it.
//!
//! ```text
//!   BeginJob ─┬ held ─────────────────────────────▶ its begin is waited for ─┬ it runs ──────────▶ its row
//!      ▲      ├ on record, ended ─▶ its row                                  ├ has ended already ─▶ its row, with the end
//!      │      ├ a session's number ─▶ refused                                ├ refused ──────────▶ the guest's word
//!      │      └ new: on record, held ─────────────▶ as above                 └ no guest ever had it ─┐
//!      └─────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::sync::Arc;

use actix::{ActorFutureExt as _, AsyncContext as _, Handler, ResponseActFuture, WrapFuture as _};
use chrono::Utc;
use sandpen_types::row::SandboxId;
use sandpen_types::session::{SessionId, SessionSpec};
use sandpen_vmm::sessions::{GuestSessions, SessionError};
use tokio::sync::{oneshot, watch};

use super::actor::JobKeeper;
use super::job::Opened;
use super::{BeginJob, JobError, KeeperConfig};
use crate::database::{AddJob, Database, DatabaseError, GetJob, JobRow};
use crate::runtime::actor_ref::ActorRef;

impl Handler<BeginJob> for JobKeeper {
    type Result = ResponseActFuture<Self, Result<JobRow, JobError>>;

    fn handle(&mut self, BeginJob { id, spec }: BeginJob, ctx: &mut Self::Context) -> Self::Result {
        // Weak: it must not keep itself alive.
        let (itself, again) = (ctx.address().downgrade(), BeginJob { id, spec: spec.clone() });
        let held = self.held.get(&id).map(|held| held.opened.clone());
        let (config, sessions) = (self.config.clone(), self.sessions());
        let asked = spec.clone();
        let found = async move {
            match held {
                Some(_) => Ok(None),
                None => look_up(&config, sessions, id, &asked).await.map(Some),
            }
        };
        let begun = found.into_actor(self).map(move |found, this, ctx| {
            match found? {
                Some(Found::There(row)) => return Ok(Begun::There(row)),
                Some(Found::New(row)) => this.keep(row, Some(spec), ctx),
                None => {}
            }
            let held = this.held.get_mut(&id);
            Ok(held.map_or(Begun::Gone, |held| Begun::Held(held.opened.clone(), held.ended())))
        });
        let database = self.config.database.clone();
        let sandbox = self.config.row.id;
        Box::pin(begun.then(move |begun: Result<Begun, JobError>, this, _| {
            let answer = async move {
                match begun? {
                    Begun::There(row) => return Ok(row),
                    Begun::Gone => {}
                    Begun::Held(opened, ended) => {
                        let has_ended = has_ended(opened).await;
                        if !matches!(has_ended, Some(Ok(false) | Err(_))) {
                            // Its end is told with it, or nothing of it is left.
                            let _ = ended.await;
                        }
                        match (has_ended, itself.upgrade()) {
                            (Some(has_ended), _) => has_ended.map(drop)?,
                            (None, Some(itself)) => return itself.send(again).await.unwrap_or_else(|_| Err(failed())),
                            (None, None) => return Err(failed()),
                        }
                    }
                }
                find(&database, sandbox, id).await?.ok_or(JobError::NotHeld(id))
            };
            answer.into_actor(this)
        }))
    }
}

/// What there is of a number.
enum Found {
    /// A job that has been begun before.
    There(JobRow),
    /// One that is on record from now on, and that no guest has.
    New(JobRow),
}

/// What becomes of it.
enum Begun {
    There(JobRow),
    Held(watch::Receiver<Opened>, oneshot::Receiver<()>),
    /// It has ended in between.
    Gone,
}

async fn look_up(
    config: &KeeperConfig,
    sessions: Result<Arc<dyn GuestSessions>, SessionError>,
    id: SessionId,
    spec: &SessionSpec,
) -> Result<Found, JobError> {
    let sandbox = config.row.id;
    if let Some(row) = find(&config.database, sandbox, id).await? {
        return Ok(Found::There(row));
    }
    if sessions?.list().await?.iter().any(|session| session.id == id) {
        return Err(JobError::IsSession(id));
    }
    let row = JobRow {
        sandbox,
        id,
        label: spec.label(),
        terminal: spec.terminal.is_some(),
        stdin: spec.stdin,
        asked_at: Utc::now(),
        is_begun: false,
        ended: None,
    };
    let added = config.database.send(AddJob(row.clone())).await;
    added.unwrap_or(Err(DatabaseError::Ended))?;
    Ok(Found::New(row))
}

async fn find(
    database: &ActorRef<Database>,
    sandbox: SandboxId,
    id: SessionId,
) -> Result<Option<JobRow>, DatabaseError> {
    database.send(GetJob { sandbox, id }).await.unwrap_or(Err(DatabaseError::Ended))
}

/// Waits until the guest has begun it; whether it has ended with that. `None` where its life has ended without a word:
/// no guest ever had what an earlier keeper put on record, or nobody can say any more.
async fn has_ended(mut opened: watch::Receiver<Opened>) -> Opened {
    opened.wait_for(Option::is_some).await.ok().and_then(|opened| opened.clone())
}

fn failed() -> JobError {
    SessionError::Unreachable("the keeper of its jobs failed; ask again".to_owned()).into()
}
