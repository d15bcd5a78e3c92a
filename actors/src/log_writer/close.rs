//! How a log writer ends: drained and written out after `Close`, or at once when nobody can reach
//! it any more.

use std::sync::Arc;
use std::time::Instant;

use actix::fut::ActorFutureExt as _;
use actix::{ActorContext as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _};
use sandpen_types::error_chain::error_chain;
use sandpen_vmm::blocking::blocking;
use tokio::sync::oneshot;

use super::actor::LogWriter;
use super::names::log_name;
use super::pump::{Moved, Wait};
use super::segment::Segment;
use super::{Close, LogError, LogFailed, StreamTotals};

/// Who waits for the end, and for how long it is tried.
#[derive(Debug)]
pub(super) struct Closing {
    deadline: Instant,
    replies: Vec<oneshot::Sender<Result<StreamTotals, LogError>>>,
}

impl Handler<Close> for LogWriter {
    type Result = ResponseFuture<Result<StreamTotals, LogError>>;

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        if let Some(closing) = &mut self.closing {
            closing.replies.push(reply);
        } else {
            self.closing = Some(Closing { deadline: Instant::now() + self.config.close_limit, replies: vec![reply] });
            for (_, handle) in self.sources.values() {
                ctx.cancel_future(*handle);
            }
            self.drain(ctx);
        }
        // Not the actor's own future: the answer must outlive the actor's stop.
        Box::pin(async move { answer.await.unwrap_or(Err(LogError::Closed)) })
    }
}

impl LogWriter {
    /// One quantum of each pipe, until all are empty.
    fn drain(&mut self, ctx: &mut Context<Self>) {
        let Some(deadline) = self.closing.as_ref().map(|closing| closing.deadline) else { return };
        let mut again = None;
        for id in self.in_order_of_writes() {
            match self.quantum(id, ctx) {
                Ok(Moved::Bytes(_)) => again = again.or(Some(Instant::now())),
                Ok(Moved::Empty | Moved::Ended) => {}
                Err(next) => again = Some(again.map_or(next, |again: Instant| again.max(next))),
            }
        }
        if again.is_none() {
            match self.store.mark_generation() {
                Ok(()) => self.recovered(),
                Err(e) => again = Some(self.fail(e)),
            }
        }
        let Some(again) = again else { return self.write_out(ctx) };
        let now = Instant::now();
        if now >= deadline {
            return self.closing_failed(ctx);
        }
        let wait = async move {
            if again > now {
                tokio::time::sleep_until(again.min(deadline).into()).await;
            } else {
                tokio::task::yield_now().await;
            }
        };
        ctx.spawn(wait.into_actor(self).map(|(), act, ctx| act.drain(ctx)));
    }

    /// Everything is in the file: has the disk hold it too.
    fn write_out(&mut self, ctx: &mut Context<Self>) {
        let files = self.store.files();
        let written = async move {
            match files {
                Ok(Some(segment)) => blocking(move || sync(&segment)).await,
                Ok(None) => Ok(Ok(())),
                Err(e) => Ok(Err(FilesFailed::Open(e))),
            }
        };
        ctx.spawn(written.into_actor(self).map(|written, act, ctx| {
            let result = match written {
                Ok(Ok(())) => Ok(()),
                Ok(Err(FilesFailed::Open(e))) => Err(e),
                Ok(Err(FilesFailed::Sync(source))) => {
                    Err(LogError::File { action: "writing out", path: log_name(&act.config.path, 0), source })
                }
                Err(e) => Err(LogError::ReadCutOff(e)),
            };
            act.end(result, ctx);
        }));
    }

    /// Ends followers, answers, stops.
    fn end(&mut self, result: Result<(), LogError>, ctx: &mut Context<Self>) {
        if let Err(e) = &result {
            let message = error_chain(e);
            tracing::warn!(log = ?self.config.path, error = %message, "the closed log may not survive a power failure");
            self.tell(&LogFailed { message, lost_bytes: 0 });
        }
        self.gap_is_over();
        self.publish(true);
        self.store.close_files();
        let totals = self.store.totals();
        let error = result.err().map(Arc::new);
        for reply in self.closing.take().map(|closing| closing.replies).unwrap_or_default() {
            let answer = match &error {
                None => Ok(totals),
                Some(e) => Err(LogError::NotWrittenOut(Arc::clone(e))),
            };
            // Whoever asked may have gone; that changes nothing.
            let _ = reply.send(answer);
        }
        ctx.stop();
    }

    /// Answers the error and goes on as before `Close`.
    fn closing_failed(&mut self, ctx: &mut Context<Self>) {
        let limit = self.config.close_limit;
        for reply in self.closing.take().map(|closing| closing.replies).unwrap_or_default() {
            let _ = reply.send(Err(LogError::CloseLimit { limit, source: self.trouble.clone() }));
        }
        for id in self.sources.keys().copied().collect::<Vec<_>>() {
            self.pump(id, Wait::Tick, ctx);
        }
    }
}

enum FilesFailed {
    Open(LogError),
    Sync(std::io::Error),
}

fn sync(segment: &Segment) -> Result<(), FilesFailed> {
    segment.log.sync_data().map_err(FilesFailed::Sync)?;
    segment.index.as_ref().map_or(Ok(()), |index| index.sync_data()).map_err(FilesFailed::Sync)
}
