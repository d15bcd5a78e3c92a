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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        for round in 0..2 {
            assert!(backoff.is_ready(now) && backoff.next().is_none(), "nothing fails");
            assert!(!backoff.succeeded(), "it was no failure that ended");
            for (n, millis) in [100, 200, 400, 800, 1600, 3200, 5000, 5000].into_iter().enumerate() {
                assert_eq!(backoff.failed(now), n == 0, "the first of round {round} is told");
                let next = now + Duration::from_millis(millis);
                assert_eq!(backoff.next(), Some(next));
                let early = now + Duration::from_micros(millis * 1000 - 1);
                assert!(!backoff.is_ready(now) && !backoff.is_ready(early));
                assert!(backoff.is_ready(next));
                now = next;
            }
            assert!(backoff.succeeded());
        }
    }
}
