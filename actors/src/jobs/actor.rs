//! The keeper: which jobs run, and who waits for what of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, MessageResult,
    WrapFuture as _,
};
use sandpen_types::error_chain::error_chain;
use sandpen_types::session::{SessionId, SessionSpec};
use sandpen_vmm::sessions::{GuestSessions, SessionError, SessionRequest};
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::input::{JobInput, JobStdin};
use super::job::{Job, Opened};
use super::on_file::LogState;
use super::tidy::tidy;
use super::trim::trim;
use super::way::Way;
use super::{AwaitJob, CloseJobs, GetHeldJobs, GetJobLog, GetJobStdin, JobError, KeeperConfig, PassToJob, UseGuest};
use crate::database::{JobRow, ListJobs};
use crate::log_writer::LogWriter;
use crate::runtime::long_answer::LongAnswer;
use crate::runtime::without_address::StopWithoutAddress;

/// Pause before the jobs on record are read again, where they could not be.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the jobs of one microVM. It ends after an answered [`CloseJobs`], and when nobody can reach it any more.
pub struct JobKeeper {
    #[cfg(feature = "testing")]
    pub(super) bomb: crate::testing::panic::Bomb,
    pub(super) config: Arc<KeeperConfig>,
    /// The jobs that run, or whose end is not on record yet.
    pub(super) held: BTreeMap<SessionId, Held>,
    way: watch::Sender<Way>,
    until_closed: Vec<oneshot::Sender<()>>,
    /// Removals of old ones that are under way.
    trims: usize,
    /// Those on record that had ended when this keeper began, until there is a guest which may have them still.
    ended_before: Vec<SessionId>,
}

/// A job that has a life.
pub(super) struct Held {
    pub(super) opened: watch::Receiver<Opened>,
    log: watch::Receiver<LogState>,
    stdin: Option<JobStdin>,
    terminal: bool,
    /// Dropped at its end.
    until_ended: Vec<oneshot::Sender<()>>,
}

impl Held {
    /// Resolves, with an error, when its end is on record.
    pub(super) fn ended(&mut self) -> oneshot::Receiver<()> {
        self.until_ended.retain(|sender| !sender.is_closed());
        let (sender, told) = oneshot::channel();
        self.until_ended.push(sender);
        told
    }
}

impl JobKeeper {
    /// A keeper that reads what is on record when it is started as an actor.
    pub fn new(config: KeeperConfig) -> Self {
        Self {
            #[cfg(feature = "testing")]
            bomb: crate::testing::panic::Bomb::new(crate::testing::panic::ActorKind::JobKeeper),
            config: Arc::new(config),
            held: BTreeMap::new(),
            way: watch::Sender::default(),
            until_closed: Vec::new(),
            trims: 0,
            ended_before: Vec::new(),
        }
    }

    /// The guest's sessions, for who does not wait.
    pub(super) fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        let way = self.way.borrow();
        if way.is_closing { Err(SessionError::NotRunning) } else { way.sessions_now() }
    }

    /// Gives a job a life: one that is to be begun, or one that was.
    pub(super) fn keep(&mut self, row: JobRow, opening: Option<SessionSpec>, ctx: &mut Context<Self>) {
        let id = row.id;
        if self.held.contains_key(&id) {
            return;
        }
        let (log_sender, log) = watch::channel(LogState::Hosting);
        // What was on record as begun has been opened.
        let (opened_sender, opened) = watch::channel((opening.is_none() && row.is_begun).then_some(Ok(false)));
        let (stdin, input) = JobInput::new(id);
        let (stdin, terminal) = (row.stdin.then_some(stdin), row.terminal);
        self.held.insert(id, Held { opened, log, stdin, terminal, until_ended: Vec::new() });
        let (config, way) = (self.config.clone(), self.way.subscribe());
        let job = Job { row, config, way, input, log: log_sender, opening, opened: opened_sender };
        let span = tracing::error_span!("job", sandbox = %self.config.row.spec.key, %id);
        // A task of its own: actix polls all futures of an actor at each of its wakes. It ends with the actor.
        let life = AbortOnDropHandle::new(tokio::spawn(job.live().instrument(span)));
        ctx.spawn(life.into_actor(self).map(move |ended, this, ctx| {
            if let Err(failed) = ended
                && let Ok(panic) = failed.try_into_panic()
            {
                // As if the keeper had done it: whoever observes it sees to all of its jobs.
                std::panic::resume_unwind(panic);
            }
            this.on_ended(id, ctx);
        }));
    }

    fn on_ended(&mut self, id: SessionId, ctx: &mut Context<Self>) {
        self.held.remove(&id);
        self.trim_soon(ctx);
    }

    fn trim_soon(&mut self, ctx: &mut Context<Self>) {
        self.trims += 1;
        ctx.spawn(trim(self.config.clone()).into_actor(self).map(|(), this, ctx| {
            this.trims -= 1;
            this.close_if_done(ctx);
        }));
    }

    fn close_if_done(&mut self, ctx: &mut Context<Self>) {
        if self.held.is_empty() && self.trims == 0 && self.way.borrow().is_closing {
            for closed in self.until_closed.drain(..) {
                // Whoever asked may have gone.
                let _ = closed.send(());
            }
            ctx.stop();
        }
    }
}

#[cfg(feature = "testing")]
crate::testing::panic::takes_panics!(JobKeeper);

impl Actor for JobKeeper {
    type Context = Context<Self>;

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }

    /// Reads what is on record before any message is taken.
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(StopWithoutAddress);
        let config = self.config.clone();
        let read = async move {
            loop {
                let error = match config.database.send(ListJobs(config.row.id)).await {
                    Ok(Ok(rows)) => return rows,
                    Ok(Err(error)) => error_chain(&error),
                    Err(error) => error_chain(&error),
                };
                tracing::warn!(sandbox = %config.row.spec.key, error, "the jobs on record cannot be read; trying again");
                tokio::time::sleep(READ_PAUSE).await;
            }
        };
        ctx.wait(read.into_actor(self).map(|rows, this, ctx| {
            let (ended, running): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.ended.is_some());
            for row in running {
                this.keep(row, None, ctx);
            }
            if !ended.is_empty() {
                this.trim_soon(ctx);
            }
            this.ended_before = ended.into_iter().map(|row| row.id).collect();
        }));
    }
}

impl Handler<UseGuest> for JobKeeper {
    type Result = ();

    fn handle(&mut self, UseGuest { guest, is_found }: UseGuest, ctx: &mut Self::Context) {
        self.way.send_modify(|way| way.guest = Some(guest));
        let ended = std::mem::take(&mut self.ended_before);
        if is_found && !ended.is_empty() {
            ctx.spawn(tidy(self.way.borrow().clone(), ended).into_actor(self));
        }
    }
}

impl Handler<AwaitJob> for JobKeeper {
    type Result = LongAnswer<()>;

    fn handle(&mut self, AwaitJob(id): AwaitJob, _: &mut Self::Context) -> Self::Result {
        let ended = self.held.get_mut(&id).map(Held::ended);
        LongAnswer::of(async move {
            if let Some(ended) = ended {
                let _ = ended.await;
            }
        })
    }
}

impl Handler<PassToJob> for JobKeeper {
    type Result = LongAnswer<Result<(), JobError>>;

    fn handle(&mut self, PassToJob { id, request }: PassToJob, _: &mut Self::Context) -> Self::Result {
        let passed = match self.held.get(&id) {
            None => Err(JobError::NotHeld(id)),
            Some(held) if matches!(request, SessionRequest::Resize(_)) && !held.terminal => {
                Err(JobError::NoTerminal(id))
            }
            Some(_) => self.sessions().map(|sessions| sessions.tell(id, request)).map_err(JobError::from),
        };
        LongAnswer::of(async move { Ok(passed?.await?) })
    }
}

impl Handler<GetJobLog> for JobKeeper {
    type Result = LongAnswer<Option<Addr<LogWriter>>>;

    fn handle(&mut self, GetJobLog(id): GetJobLog, _: &mut Self::Context) -> Self::Result {
        let log = self.held.get(&id).map(|held| held.log.clone());
        LongAnswer::of(async move {
            match log?.wait_for(|state| !matches!(state, LogState::Hosting)).await.as_deref() {
                Ok(LogState::Open(writer)) => Some(writer.clone()),
                _ => None,
            }
        })
    }
}

impl Handler<GetJobStdin> for JobKeeper {
    type Result = Result<JobStdin, JobError>;

    fn handle(&mut self, GetJobStdin(id): GetJobStdin, _: &mut Self::Context) -> Self::Result {
        let held = self.held.get(&id).ok_or(JobError::NotHeld(id))?;
        held.stdin.clone().ok_or(JobError::NoStdin(id))
    }
}

impl Handler<GetHeldJobs> for JobKeeper {
    type Result = MessageResult<GetHeldJobs>;

    fn handle(&mut self, _: GetHeldJobs, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.held.keys().copied().collect())
    }
}

impl Handler<CloseJobs> for JobKeeper {
    type Result = LongAnswer<()>;

    fn handle(&mut self, _: CloseJobs, ctx: &mut Self::Context) -> Self::Result {
        let (closed, is_closed) = oneshot::channel();
        self.until_closed.push(closed);
        self.way.send_modify(|way| way.is_closing = true);
        self.close_if_done(ctx);
        LongAnswer::when(is_closed, |()| ())
    }
}
