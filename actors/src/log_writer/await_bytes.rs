//! Waiting for output that a guest says it has sent: until it is there, comes no more, or cannot exist.

use actix::{Handler, ResponseFuture};
use sandpen_types::output_stream::OutputStream;

use super::actor::LogWriter;
use super::follower::Published;
use super::{AwaitBytes, LogError, StreamTotals};

impl Handler<AwaitBytes> for LogWriter {
    type Result = ResponseFuture<Result<StreamTotals, LogError>>;

    fn handle(&mut self, wanted: AwaitBytes, _: &mut Self::Context) -> Self::Result {
        let mut published = self.published.subscribe();
        let too_many = self.too_many_missing(&wanted);
        // Waits on a channel alone: nothing in it can panic, and it outlives the actor's stop.
        Box::pin(async move {
            if let Some(too_many) = too_many {
                return Err(too_many);
            }
            let mut left = wanted.limit;
            loop {
                let Published { totals, ended, stuck } = *published.borrow_and_update();
                if ended || totals.reaches(wanted.stdout, wanted.stderr) {
                    return Ok(totals);
                }
                // A full disk is no silence: the bytes are there and have to wait.
                let begun = tokio::time::Instant::now();
                let changed = if stuck {
                    Ok(published.changed().await)
                } else {
                    let changed = tokio::time::timeout(wanted.idle_limit.min(left), published.changed()).await;
                    left = left.saturating_sub(begun.elapsed());
                    changed
                };
                match changed {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(LogError::WriterGone { position: totals.position }),
                    Err(_) => return Ok(totals),
                }
            }
        })
    }
}

impl LogWriter {
    /// Which stream lacks more bytes than can be on their way, if one does and that can be told.
    fn too_many_missing(&self, wanted: &AwaitBytes) -> Option<LogError> {
        let totals = self.store.totals();
        if self.store.has_lost_count() {
            return None;
        }
        let stdout = (OutputStream::Stdout, wanted.stdout.saturating_sub(totals.stdout + totals.dropped_stdout));
        let stderr = (OutputStream::Stderr, wanted.stderr.saturating_sub(totals.stderr + totals.dropped_stderr));
        let most = wanted.missing_max;
        [stdout, stderr]
            .into_iter()
            .find(|(_, missing)| *missing > most)
            .map(|(stream, missing)| LogError::TooManyMissing { stream, missing, most })
    }
}
