//! What a log writer does with output that it may drop: reads it, counts it, tells it.

use std::time::{Duration, Instant};

use sandpen_types::event::EventKind;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::LogBacklog;

use super::LogError;
use super::actor::LogWriter;
use super::pump::Moved;
use crate::telemetry::counters::Counter;

/// Longest time for which output is dropped because one write was slow.
const SLOW_MOST: Duration = Duration::from_secs(5);

/// What a gap that is not over has lost, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DroppedNow {
    stdout: u64,
    stderr: u64,
}

impl LogWriter {
    /// Whether output is dropped rather than kept waiting.
    pub(super) fn drops(&self) -> bool {
        self.config.limits.backlog == LogBacklog::Drop
    }

    /// Whether it is now. Of a log that another writer still has, the bytes are that one's to write.
    pub(super) fn drops_now(&self) -> bool {
        self.drops() && !matches!(self.trouble.as_deref(), Some(LogError::Busy(_)))
    }

    /// Drops at most one quantum of a pipe, counted before it is read.
    pub(super) fn discard(&mut self, id: u64) -> Result<Moved, Instant> {
        let Some((source, _)) = self.sources.get_mut(&id) else { return Ok(Moved::Ended) };
        let stream = source.stream;
        let waiting = match source.waiting() {
            Ok(0) => return Ok(Moved::Empty),
            Ok(waiting) => waiting,
            Err(source) => return Err(self.fail(LogError::Attach { stream, source })),
        };
        self.store.drop_bytes(stream, waiting);
        let dropped = source.discard(waiting);
        let bytes = *dropped.as_ref().unwrap_or(&0);
        self.store.undrop_bytes(stream, waiting - bytes);
        let (counter, lost) = match stream {
            OutputStream::Stdout => (Counter::LogDroppedStdout, &mut self.gap.stdout),
            OutputStream::Stderr => (Counter::LogDroppedStderr, &mut self.gap.stderr),
        };
        *lost += bytes;
        self.config.faults.counters().add(counter, bytes);
        self.publish(false);
        match dropped {
            Ok(bytes) => Ok(Moved::Bytes(bytes)),
            Err(source) => Err(self.fail(LogError::Attach { stream, source })),
        }
    }

    /// After a write that was slow, output is dropped for as long as it took: a workload waits for no more
    /// than every second write.
    pub(super) fn note_pace(&mut self, took: Duration) {
        let pause = pause_after(took, self.config.slow_write).filter(|_| self.drops());
        self.slow_until = pause.map(|pause| Instant::now() + pause);
        if pause.is_none() {
            self.gap_is_over();
        }
    }

    /// Tells what the gap has lost, if there was one.
    pub(super) fn gap_is_over(&mut self) {
        let DroppedNow { stdout, stderr } = std::mem::take(&mut self.gap);
        if stdout > 0 || stderr > 0 {
            tracing::warn!(log = ?self.store.path(), stdout, stderr, "bytes of output were dropped");
            let dropped = EventKind::LogDropped { stdout, stderr };
            self.config.faults.tell_of_sandbox(self.config.sandbox.as_ref(), dropped);
        }
    }
}

/// For how long output is dropped after a write that took so long; `None` where that was quick enough.
fn pause_after(took: Duration, slow_write: Duration) -> Option<Duration> {
    (took > slow_write).then(|| took.min(SLOW_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_is_followed_by_as_long_a_pause_within_a_limit() {
        let limit = Duration::from_millis(100);
        assert_eq!(pause_after(limit, limit), None);
        assert_eq!(pause_after(Duration::from_millis(101), limit), Some(Duration::from_millis(101)));
        assert_eq!(pause_after(Duration::from_mins(1), limit), Some(SLOW_MOST));
    }
}
