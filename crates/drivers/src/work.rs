//! Long work of a start: what takes seconds or minutes, or may hang. It has threads of its own, so that no
//! amount of it keeps anything else waiting, and every start can leave it at any moment.
//!
//! ```text
//!   start ──┐ same key                     a turn        own thread, or a task
//!   start ──┼──▶ one piece of work ──▶ (waits without ──▶ works ──┬─▶ result or error, for all
//!   start ──┘        │                    a thread)               └─▶ after its limit: an error, and stopped
//!                    └─ the last one leaves: stopped, and cleared away by itself
//! ```
//!
//! Work of one kind is a [`Lane`]: so many of its pieces go on at once, and others wait for a turn. A piece has
//! its turn until it has really ended, also when nobody wants it any more. What is short, or at hand, is not
//! done here but by [`blocking`](super::step::blocking), and waits for nobody.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use sandpen_vmm::driver::DriverError;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::step::failed;

/// How long whoever leaves work waits for it to be cleared away; it takes milliseconds, unless a disk hangs.
const CLEAR_LIMIT: Duration = Duration::from_millis(500);
/// Most bytes that are kept of what a program says.
const SAID_MAX: u64 = 64 << 10;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError<E: Error + 'static> {
    /// The work's own error.
    #[error(transparent)]
    Failed(E),
    /// It took too long, and was stopped.
    #[error("{what} has taken longer than {} s and was given up; {advice}", limit.as_secs())]
    TimedOut {
        /// What.
        what: String,
        /// Its limit.
        limit: Duration,
        /// What to do.
        advice: &'static str,
    },
    /// It is not wanted any more.
    #[error("it was given up: its end was asked for")]
    Cancelled,
    /// There is no thread for it.
    #[error("no thread can be started for it; see the limits of processes (ulimit -u, TasksMax=)")]
    Thread(#[source] io::Error),
    /// A fault of ours.
    #[error("it was broken off by a fault in sandpen; see the daemon's log")]
    Lost,
}

impl<E: Error + Send + Sync + 'static> WorkError<E> {
    /// As the error of the step `step` of a start.
    pub(super) fn of_step(self: Arc<Self>, step: &str) -> DriverError {
        match *self {
            Self::Cancelled => DriverError::Cancelled,
            _ => failed(step, self),
        }
    }
}

/// The result of work, for everybody who wants it.
pub(super) type Outcome<T, E> = Result<T, Arc<WorkError<E>>>;

/// A piece of work, for people and for its lane.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Who wants a piece of the same key wants the same.
    pub(super) key: String,
    /// For example "making an image of …".
    pub(super) what: String,
    /// How long it may take from its turn on.
    pub(super) limit: Duration,
    /// What to do when it takes longer.
    pub(super) advice: &'static str,
}

type Flight<T, E> = BoxFuture<'static, Outcome<T, E>>;

/// A piece that somebody wants.
struct Wanted<T: Clone, E: Error + 'static> {
    outcome: WeakShared<Flight<T, E>>,
    signs: Signs,
}

#[derive(Clone)]
struct Signs {
    /// Cancelled when it is to stop.
    stop: CancellationToken,
    /// Cancelled when it has ended, or will not begin.
    ended: CancellationToken,
}

/// Work of one kind.
pub(super) struct Lane<T: Clone, E: Error + 'static> {
    turns: Semaphore,
    pieces: Mutex<BTreeMap<String, Wanted<T, E>>>,
}

impl<T, E> Lane<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    /// A lane in which so many pieces go on at once.
    pub(super) const fn new(at_once: usize) -> Self {
        Self { turns: Semaphore::const_new(at_once), pieces: Mutex::new(BTreeMap::new()) }
    }

    /// The result of `work` on a thread of its own, or of that which goes on for the same key. Ends soon after
    /// `cancel` is cancelled; that or dropping this stops the work, unless others want it. What it has begun it
    /// clears away itself when it is told to [stop](Stop), within milliseconds.
    pub(super) async fn on_thread(
        &'static self,
        piece: Piece,
        cancel: &CancellationToken,
        work: impl FnOnce(&Stop) -> Result<T, E> + Send + 'static,
    ) -> Outcome<T, E> {
        self.share(piece, cancel, move |turn| turn.on_thread(work)).await
    }

    /// As [`Lane::on_thread`], of a task that stops when [`Turn::stop`] is cancelled.
    pub(super) async fn share<F>(
        &'static self,
        piece: Piece,
        cancel: &CancellationToken,
        work: impl FnOnce(Turn) -> F + Send + 'static,
    ) -> Outcome<T, E>
    where
        F: Future<Output = Outcome<T, E>> + Send + 'static,
    {
        if cancel.is_cancelled() {
            return Err(Arc::new(WorkError::Cancelled));
        }
        let (outcome, signs) = self.join(piece, work);
        tokio::select! {
            biased;
            outcome = outcome.clone() => return outcome,
            () = cancel.cancelled() => drop(outcome),
        }
        // Nobody else wanted it.
        if signs.stop.is_cancelled() {
            let _ = timeout(CLEAR_LIMIT, signs.ended.cancelled()).await;
        }
        Err(Arc::new(WorkError::Cancelled))
    }

    /// The piece that goes on, or a new one.
    fn join<F>(
        &'static self,
        piece: Piece,
        work: impl FnOnce(Turn) -> F + Send + 'static,
    ) -> (Shared<Flight<T, E>>, Signs)
    where
        F: Future<Output = Outcome<T, E>> + Send + 'static,
    {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |wanted: &Wanted<T, E>| wanted.outcome.upgrade().filter(|outcome| outcome.peek().is_none());
        if let Some(wanted) = pieces.get(&piece.key)
            && let Some(outcome) = goes_on(wanted)
        {
            return (outcome, wanted.signs.clone());
        }
        pieces.retain(|_, wanted| goes_on(wanted).is_some());
        let signs = Signs { stop: CancellationToken::new(), ended: CancellationToken::new() };
        let key = piece.key.clone();
        let outcome = self.run(piece, signs.clone(), work).boxed().shared();
        if let Some(weak) = outcome.downgrade() {
            pieces.insert(key, Wanted { outcome: weak, signs: signs.clone() });
        }
        (outcome, signs)
    }

    /// Polled by whoever wants it, and dropped with the last of them.
    fn run<F>(
        &'static self,
        piece: Piece,
        signs: Signs,
        work: impl FnOnce(Turn) -> F + Send + 'static,
    ) -> impl Future<Output = Outcome<T, E>> + Send + 'static
    where
        F: Future<Output = Outcome<T, E>> + Send + 'static,
    {
        // Both also when this is dropped before it is polled. The first one goes first.
        let unwanted = signs.stop.clone().drop_guard();
        let ended = signs.ended.drop_guard();
        async move {
            let _unwanted = unwanted;
            let turn = self.turns.acquire().await.map_err(|_| WorkError::Lost)?;
            let turn = Turn { stop: signs.stop.clone(), permit: turn };
            let work = work(turn);
            // A task of its own, which goes on to clear away.
            let mut task = tokio::spawn(async move {
                let _ended = ended;
                work.await
            });
            if let Ok(done) = timeout(piece.limit, &mut task).await {
                return done.unwrap_or_else(|_| Err(Arc::new(WorkError::Lost)));
            }
            signs.stop.cancel();
            if let Ok(Ok(Ok(done))) = timeout(CLEAR_LIMIT, task).await {
                return Ok(done);
            }
            let Piece { what, limit, advice, .. } = piece;
            tracing::warn!(what, ?limit, "work was given up");
            Err(Arc::new(WorkError::TimedOut { what, limit, advice }))
        }
    }
}

/// A piece's turn in its lane.
pub(super) struct Turn {
    /// Cancelled when nobody wants the result any more, or not so late.
    pub(super) stop: CancellationToken,
    permit: SemaphorePermit<'static>,
}

impl Turn {
    /// Runs `work` on a thread of its own, which has the turn until it ends.
    pub(super) async fn on_thread<T, E>(
        self,
        work: impl FnOnce(&Stop) -> Result<T, E> + Send + 'static,
    ) -> Outcome<T, E>
    where
        T: Send + 'static,
        E: Error + Send + Sync + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let Self { stop, permit } = self;
        let stop = Stop { token: stop, runtime: Handle::current() };
        let run = move || {
            let done = work(&stop);
            drop(permit);
            // Nobody may want it any more.
            let _ = sender.send(done);
        };
        std::thread::Builder::new().name("sandpen-work".to_owned()).spawn(run).map_err(WorkError::Thread)?;
        let done = receiver.await.map_err(|_| WorkError::Lost)?;
        Ok(done.map_err(WorkError::Failed)?)
    }
}

/// What the thread of a piece of work looks at between its steps.
#[derive(Debug)]
pub(super) struct Stop {
    token: CancellationToken,
    runtime: Handle,
}

/// Work was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("it was given up")]
struct Stopped;

impl Stop {
    /// Whether it is time to go.
    pub(super) fn is_set(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Fails when it is time to go.
    ///
    /// # Errors
    /// Says so; nobody hears it.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::new(io::ErrorKind::Interrupted, Stopped)) } else { Ok(()) }
    }

    /// Runs a program to its end, or, when it is time to go, kills and reaps it. Of what it says 64 KiB each are
    /// kept. Its standard input is what the command says, or nothing.
    ///
    /// # Errors
    /// The system's, and as [`Stop::check`].
    pub(super) fn output(&self, mut command: Command) -> io::Result<Output> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.runtime.block_on(async {
            self.check()?;
            let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let ended = async { tokio::try_join!(child.wait(), kept(out, SAID_MAX), kept(err, SAID_MAX)) };
            let ended = tokio::select! {
                ended = ended => Some(ended?),
                () = self.token.cancelled() => None,
            };
            if let Some((status, stdout, stderr)) = ended {
                return Ok(Output { status, stdout, stderr });
            }
            child.kill().await?;
            Err(io::Error::new(io::ErrorKind::Interrupted, Stopped))
        })
    }
}

/// What comes through a pipe, to its end, and of that the first bytes.
pub(super) async fn kept(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(most).read_to_end(&mut said).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(said)
}

#[cfg(test)]
mod tests;
