//! The handle of a link.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sandpen_types::session::{SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_vmm::sessions::{Attachment, GuestSessions, SessionError, SessionRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, Span};

use super::task::{self, Ask, DRAIN_LIMIT, Signals};
use super::thread;
use super::wire::Asked;

/// Calls that may wait for a link.
const ASKS: usize = 16;
/// How long an answer may take: that a session has begun comes from a guest, which may be very busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 20 } else { 60 });

/// The sessions of one guest. Any task may use it. When the last one is dropped, the link is closed; sessions go on, but
/// for those whose clients are gone: nobody is there to hang them up.
#[derive(Debug, Clone)]
pub(crate) struct SessionLink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime_dir: PathBuf,
    vmm_ended: CancellationToken,
    /// In which its task tells what goes wrong.
    span: Span,
    used: Mutex<Option<Used>>,
}

/// A link that is in use, or was.
#[derive(Debug)]
struct Used {
    asks: mpsc::Sender<Ask>,
    over: CancellationToken,
    _open: DropGuard,
}

/// Tells a link that the VMM has ended; keeps none.
#[derive(Debug)]
pub(crate) struct LinkEnd(Weak<Inner>);

impl SessionLink {
    /// That of the microVM in a runtime directory, which has the port.
    pub(crate) fn new(runtime_dir: PathBuf) -> Self {
        let (vmm_ended, span, used) = (CancellationToken::new(), Span::current(), Mutex::new(None));
        Self(Arc::new(Inner { runtime_dir, vmm_ended, span, used }))
    }

    /// What tells it the end.
    pub(crate) fn end(&self) -> LinkEnd {
        LinkEnd(Arc::downgrade(&self.0))
    }

    /// Looks after the sessions that there are, from now on. What goes wrong the next call tells.
    pub(crate) fn resume(&self) {
        if let Err(error) = self.asks() {
            tracing::warn!(%error, "sessions are not looked after until somebody asks for them");
        }
    }

    fn asks(&self) -> Result<mpsc::Sender<Ask>, SessionError> {
        let mut used = self.0.used();
        if let Some(used) = used.as_ref().filter(|used| !used.asks.is_closed()) {
            return Ok(used.asks.clone());
        }
        if self.0.vmm_ended.is_cancelled() {
            return Err(task::vmm_ended());
        }
        let thread = thread::handle()
            .map_err(|error| SessionError::Unreachable(format!("starting the thread for sessions: {error}")))?;
        let (asks, asked) = mpsc::channel(ASKS);
        let (dropped, over) = (CancellationToken::new(), CancellationToken::new());
        let signals = Signals { dropped: dropped.clone(), vmm_ended: self.0.vmm_ended.clone(), over: over.clone() };
        let before = used.take().map(|used| used.over);
        // Its end closes the channel and tells `over`.
        let task = task::run(self.0.runtime_dir.clone(), asked, signals, before);
        drop(thread.spawn(task.instrument(self.0.span.clone())));
        *used = Some(Used { asks: asks.clone(), over, _open: dropped.drop_guard() });
        Ok(asks)
    }

    /// Asks, and waits for the answer.
    fn ask<T: Send + 'static>(
        &self,
        ask: impl Fn(oneshot::Sender<Result<T, SessionError>>) -> Ask + Send + 'static,
    ) -> BoxFuture<'static, Result<T, SessionError>> {
        let link = self.clone();
        async move {
            let answered = timeout(ANSWER_LIMIT, async move {
                loop {
                    let (sender, answer) = oneshot::channel();
                    // A task that is about to end leaves this to the next one.
                    if link.asks()?.send(ask(sender)).await.is_ok()
                        && let Ok(answer) = answer.await
                    {
                        return answer;
                    }
                }
            });
            answered.await.unwrap_or_else(|_| {
                let words = format!("it did not answer within {} s; ask again", ANSWER_LIMIT.as_secs());
                Err(SessionError::Unreachable(words))
            })
        }
        .boxed()
    }
}

impl Inner {
    fn used(&self) -> MutexGuard<'_, Option<Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkEnd {
    /// Whether sessions may be there, so that the end of their port is to be seen.
    pub(crate) fn is_used(&self) -> bool {
        self.0.upgrade().is_some_and(|link| link.used().is_some())
    }

    /// The VMM has ended: resolves when all that it left in the port is read, soon.
    pub(crate) async fn vmm_ended(&self) {
        let Some(link) = self.0.upgrade() else { return };
        link.vmm_ended.cancel();
        let over = link.used().as_ref().map(|used| used.over.clone());
        drop(link);
        if let Some(over) = over {
            // The link has its own limit, and says so in words; this is for a thread that hangs.
            let _ = timeout(DRAIN_LIMIT * 2, over.cancelled()).await;
        }
    }
}

impl GuestSessions for SessionLink {
    fn open(&self, id: SessionId, spec: SessionSpec) -> BoxFuture<'static, Result<SessionInfo, SessionError>> {
        match Asked::new(&spec, Utc::now()) {
            Ok(asked) => self.ask(move |answer| Ask::Open(id, asked.clone(), answer)),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn attach(
        &self,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> BoxFuture<'static, Result<Attachment, SessionError>> {
        self.ask(move |answer| Ask::Attach(id, from, answer))
    }

    fn list(&self) -> BoxFuture<'static, Result<Vec<SessionInfo>, SessionError>> {
        self.ask(Ask::List)
    }

    fn tell(&self, id: SessionId, request: SessionRequest) -> BoxFuture<'static, Result<(), SessionError>> {
        self.ask(move |answer| Ask::Tell(id, request.clone(), answer))
    }
}
