//! When something that failed is tried again.

use std::time::{Duration, Instant};

/// The first wait after a failure.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait: waits double up to it.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double while something keeps failing.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failing: Option<(Instant, Duration)>,
}

impl Backoff {
    /// Whether it may be tried now.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.failing.is_none_or(|(next, _)| next <= now)
    }

    /// When it may be tried again; `None` while nothing fails.
    pub fn next(&self) -> Option<Instant> {
        self.failing.map(|(next, _)| next)
    }

    /// Notes a failure; `true` if it is the first one.
    pub fn failed(&mut self, now: Instant) -> bool {
        let first = self.failing.is_none();
        let delay = self.failing.map_or(FIRST, |(_, delay)| (delay * 2).min(LONGEST));
        self.failing = Some((now + delay, delay));
        first
    }

    /// Notes a success; `true` if it ends a row of failures.
    pub fn succeeded(&mut self) -> bool {
        self.failing.take().is_some()
    }
}
