//! The window of time that output is read of. All of it is decided by positions, which the log's indexes are asked
//! for: whoever goes on elsewhere, from a position and with the same window, misses nothing and gets nothing twice.
//!
//! ```text
//!   since:  the first byte of that time or later is there ──────────────▶ reading begins with it
//!           none is yet ─▶ [waiting at the end: what is older passes by] ─▶ the first one comes
//!   until:  it is over ───────────────────────────────────▶ cut where the bytes from before it end
//!           it is to come ─▶ [reading on] ─ it has come ─▶ likewise
//! ```

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandpen_actors::log_writer::{EndOfTime, LogChunk, LogError, bytes_logged, position_since, position_until};

/// How long bytes of before the end of a window may be on their way to file: they have their time before that.
const ON_THE_WAY: Duration = Duration::from_millis(100);
/// Longest sleep: the host's clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// What is older passes by, as long as nothing else has come.
    skipped: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    /// Where it ends, once that is known.
    cut: Option<EndOfTime>,
}

impl Window {
    /// A window, and from where on it holds bytes. Blocks.
    pub fn find(
        log: &Path,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
    ) -> Result<(Self, Option<u64>), LogError> {
        let mut window = Self { skipped: None, until, cut: None };
        if window.is_over() {
            window.find_cut(log)?;
        }
        let Some(since) = since else { return Ok((window, None)) };
        // In this order: what comes in between is not missed.
        let end = bytes_logged(log)?;
        let begin = position_since(log, since)?;
        window.skipped = begin.is_none().then_some(since);
        Ok((window, Some(begin.unwrap_or(end))))
    }

    /// Looks where it ends, which is to be over. Blocks.
    pub fn find_cut(&mut self, log: &Path) -> Result<(), LogError> {
        self.cut = self.until.map(|until| position_until(log, until)).transpose()?;
        Ok(())
    }

    /// Position where it ends, if that is known.
    pub fn cut(&self) -> Option<u64> {
        self.cut.map(|cut| cut.position)
    }

    /// Whether nothing more can come into it.
    pub fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Whether its end is yet to come.
    pub fn has_end_ahead(&self) -> bool {
        self.until.is_some() && self.cut.is_none()
    }

    /// Resolves when it is over; never where it has no end.
    pub async fn over(&self) {
        while let Some(left) = self.left() {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(NAP_MAX)).await;
        }
        std::future::pending::<()>().await;
    }

    fn left(&self) -> Option<Duration> {
        let left = self.until? - Utc::now();
        Some(left.to_std().map_or(Duration::ZERO, |left| left.saturating_add(ON_THE_WAY)))
    }

    /// What of a chunk is inside; `None` at the end of the window.
    pub fn pass(&mut self, chunk: LogChunk) -> Option<Part> {
        let position = chunk.end() - chunk_len(&chunk);
        if let Some(cut) = self.cut {
            let is_mark_at_end = cut.is_end && matches!(chunk, LogChunk::Dropped { .. });
            if position > cut.position || position == cut.position && !is_mark_at_end {
                return None;
            }
        }
        if let Some(since) = self.skipped {
            match &chunk {
                LogChunk::Bytes { at, .. } if *at >= since => self.skipped = None,
                _ => return Some(Part::Outside),
            }
        }
        Some(Part::Inside(match (chunk, self.cut) {
            (LogChunk::Bytes { stream, at, position, mut bytes }, Some(cut)) => {
                let room = usize::try_from(cut.position.saturating_sub(position)).unwrap_or(usize::MAX);
                bytes.truncate(room);
                LogChunk::Bytes { stream, at, position, bytes }
            }
            (chunk, _) => chunk,
        }))
    }
}

fn chunk_len(chunk: &LogChunk) -> u64 {
    match chunk {
        LogChunk::Bytes { bytes, .. } => bytes.len() as u64,
        LogChunk::Gap { bytes, .. } => *bytes,
        LogChunk::Dropped { .. } => 0,
    }
}

/// What becomes of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is told.
    Inside(LogChunk),
    /// It passes by.
    Outside,
}
