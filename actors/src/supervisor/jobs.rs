//! The jobs of a sandbox, past the supervisor: what runs its keeper has, and what has ended is on record.
//!
//! ```text
//!   asked ─┬ hosted ────────────────────▶ its keeper ─┬ it has the job ─▶ answered
//!          │                                          └ it has not ─────▶ the row: ended, or there is none
//!          ├ keeper or monitor just lost ─▶ asked again once there is another one, or the end
//!          └ not live ──────────────────────────────────────────────────▶ the row
//! ```

use actix::{Addr, Handler};
use sandpen_types::session::{SessionId, SessionInfo};
use sandpen_types::spec::SandboxKey;
use tokio::sync::oneshot;

use super::actor::Supervisor;
use super::admits::{Request, When};
use super::child::Child;
use super::phase::Phase;
use super::{ListSessions, OpenGuest, OpenJobLog, OpenJobStdin, StartJob, SupervisorError, TellJob, WaitJob};
use crate::database::{Database, GetJob, GetSandbox, JobRow};
use crate::jobs::{AwaitJob, BeginJob, GetHeldJobs, GetJobLog, GetJobStdin, JobError, JobKeeper, JobStdin, PassToJob};
use crate::log_writer::LogWriter;
use crate::runtime::actor_ref::ActorRef;
use crate::runtime::long_answer::LongAnswer;

/// Whom to ask for the jobs of a sandbox.
pub(super) enum Keeper {
    /// This one; where it has gone meanwhile, again when that resolves.
    Here(Addr<JobKeeper>, oneshot::Receiver<()>),
    /// Again when this resolves.
    Later(oneshot::Receiver<()>),
    /// Nobody: no job runs.
    Nobody,
}

impl Keeper {
    /// What the keeper answers; `None` where no job runs, an error where it is to be asked again. That is waited for.
    pub(super) async fn ask<M>(self, message: M) -> Result<Option<M::Result>, AskAgain>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        JobKeeper: Handler<M>,
    {
        let next = match self {
            Self::Here(keeper, next) => match keeper.send(message).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(_) => next,
            },
            Self::Later(next) => next,
            Self::Nobody => return Ok(None),
        };
        let _ = next.await;
        Err(AskAgain)
    }
}

/// Its keeper has failed.
pub(super) struct AskAgain;

impl Supervisor {
    /// Whom to ask for the jobs of a sandbox.
    pub(super) fn keeper(&mut self, key: &SandboxKey) -> Keeper {
        let admitted = self.admit(key, Request::OpenLog);
        let (Ok(when), Some(child)) = (admitted, self.children.get_mut(key)) else { return Keeper::Nobody };
        let next = child.reachable();
        match (when, child.phase()) {
            (When::Now, Phase::Hosted { jobs: Some(jobs), .. }) if jobs.connected() => Keeper::Here(jobs.clone(), next),
            (When::Now, Phase::Hosted { jobs: None, .. }) => Keeper::Nobody,
            _ => Keeper::Later(next),
        }
    }

    /// What a job that does not run is.
    fn job_on_record(
        &self,
        key: &SandboxKey,
        id: SessionId,
    ) -> impl Future<Output = Result<JobRow, SupervisorError>> + Send + use<> {
        let (database, key) = (self.config.database.clone(), key.clone());
        async move { find_job(&database, &key, id).await }
    }
}

/// The row of a job.
async fn find_job(database: &ActorRef<Database>, key: &SandboxKey, id: SessionId) -> Result<JobRow, SupervisorError> {
    let row = database.send(GetSandbox(key.clone())).await??;
    let row = row.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
    let job = database.send(GetJob { sandbox: row.id, id }).await??;
    job.ok_or_else(|| SupervisorError::JobNotFound { key: key.clone(), id })
}

/// Why a job that its keeper has not cannot be told anything.
async fn not_running(
    on_record: impl Future<Output = Result<JobRow, SupervisorError>>,
    id: SessionId,
) -> SupervisorError {
    match on_record.await {
        Ok(JobRow { ended: Some((_, end)), .. }) => SupervisorError::Job(JobError::Ended { id, end }),
        // It is just coming or going.
        Ok(_) => SupervisorError::Job(JobError::NotHeld(id)),
        Err(error) => error,
    }
}

impl Handler<ListSessions> for Supervisor {
    type Result = LongAnswer<Result<Vec<SessionInfo>, SupervisorError>>;

    fn handle(&mut self, ListSessions { key }: ListSessions, ctx: &mut Self::Context) -> Self::Result {
        let (supervisor, keeper) = (self.itself(ctx), self.keeper(&key));
        LongAnswer::of(async move {
            let guest = supervisor.send(OpenGuest { key: key.clone(), or_helper: true }).await??;
            let mut sessions = guest.sessions()?.list().await?;
            match keeper.ask(GetHeldJobs).await {
                Ok(jobs) => {
                    sessions.retain(|session| jobs.as_ref().is_none_or(|jobs| !jobs.contains(&session.id)));
                    Ok(sessions)
                }
                Err(AskAgain) => supervisor.send(ListSessions { key }).await?,
            }
        })
    }
}

impl Handler<StartJob> for Supervisor {
    type Result = LongAnswer<Result<JobRow, SupervisorError>>;

    fn handle(&mut self, start: StartJob, ctx: &mut Self::Context) -> Self::Result {
        let StartJob { key, id, spec } = start.clone();
        let (supervisor, keeper, not_live) = (self.itself(ctx), self.keeper(&key), self.not_live(&key));
        LongAnswer::of(async move {
            // Its monitor has told the keeper then where the guest is.
            supervisor.send(OpenGuest { key, or_helper: false }).await??;
            match keeper.ask(BeginJob { id, spec }).await {
                Ok(Some(begun)) => begun.map_err(SupervisorError::from),
                Ok(None) => not_live.await,
                Err(AskAgain) => supervisor.send(start).await?,
            }
        })
    }
}

impl Handler<WaitJob> for Supervisor {
    type Result = LongAnswer<Result<JobRow, SupervisorError>>;

    fn handle(&mut self, wait: WaitJob, ctx: &mut Self::Context) -> Self::Result {
        let WaitJob { key, id } = wait.clone();
        let (supervisor, keeper, on_record) = (self.itself(ctx), self.keeper(&key), self.job_on_record(&key, id));
        let next = self.children.get_mut(&key).map(Child::reachable);
        LongAnswer::of(async move {
            if let Err(AskAgain) = keeper.ask(AwaitJob(id)).await {
                return supervisor.send(wait).await?;
            }
            match (on_record.await?, next) {
                (row, _) if row.ended.is_some() => Ok(row),
                // Its keeper failed while it was waited for.
                (_, Some(next)) => {
                    let _ = next.await;
                    supervisor.send(wait).await?
                }
                // Left to the next orchestrator.
                (_, None) => Err(SupervisorError::ShuttingDown),
            }
        })
    }
}

impl Handler<TellJob> for Supervisor {
    type Result = LongAnswer<Result<(), SupervisorError>>;

    fn handle(&mut self, tell: TellJob, ctx: &mut Self::Context) -> Self::Result {
        let TellJob { key, id, request } = tell.clone();
        let (supervisor, keeper, on_record) = (self.itself(ctx), self.keeper(&key), self.job_on_record(&key, id));
        LongAnswer::of(async move {
            match keeper.ask(PassToJob { id, request }).await {
                Ok(None | Some(Err(JobError::NotHeld(_)))) => Err(not_running(on_record, id).await),
                Ok(Some(told)) => told.map_err(SupervisorError::from),
                Err(AskAgain) => supervisor.send(tell).await?,
            }
        })
    }
}

impl Handler<OpenJobLog> for Supervisor {
    type Result = LongAnswer<Result<Option<Addr<LogWriter>>, SupervisorError>>;

    fn handle(&mut self, OpenJobLog { key, id }: OpenJobLog, ctx: &mut Self::Context) -> Self::Result {
        let (supervisor, keeper) = (self.itself(ctx), self.keeper(&key));
        LongAnswer::of(async move {
            match keeper.ask(GetJobLog(id)).await {
                Ok(log) => Ok(log.flatten()),
                Err(AskAgain) => supervisor.send(OpenJobLog { key, id }).await?,
            }
        })
    }
}

impl Handler<OpenJobStdin> for Supervisor {
    type Result = LongAnswer<Result<JobStdin, SupervisorError>>;

    fn handle(&mut self, OpenJobStdin { key, id }: OpenJobStdin, ctx: &mut Self::Context) -> Self::Result {
        let (supervisor, keeper, on_record) = (self.itself(ctx), self.keeper(&key), self.job_on_record(&key, id));
        LongAnswer::of(async move {
            match keeper.ask(GetJobStdin(id)).await {
                Ok(None | Some(Err(JobError::NotHeld(_)))) => Err(not_running(on_record, id).await),
                Ok(Some(stdin)) => stdin.map_err(SupervisorError::from),
                Err(AskAgain) => supervisor.send(OpenJobStdin { key, id }).await?,
            }
        })
    }
}
