//! When something that failed is tried again: soon at first, then less and less often.
//!
//! Pure: what time it is, the caller says, and waiting is the caller's too.

use std::time::{Duration, Instant};

/// Pauses between tries of what keeps failing: each twice as long as the one before, up to the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
}

impl Pauses {
    /// For a disk or a database that cannot be written: what goes by itself, goes soon.
    pub const STORAGE: Self = Self::new(Duration::from_millis(100), Duration::from_secs(5));

    /// From `first` up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after so many failures in a row: none after none.
    pub fn after(self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
                self.first.saturating_mul(factor).min(self.longest)
            }
        }
    }

    /// The longest one.
    pub const fn longest(self) -> Duration {
        self.longest
    }
}

/// Counts the failures in a row of something, and says when it may be tried again.
#[derive(Debug)]
pub struct Backoff {
    pauses: Pauses,
    failures: u32,
    next: Option<Instant>,
}

impl Backoff {
    /// Nothing has failed yet.
    pub const fn new(pauses: Pauses) -> Self {
        Self { pauses, failures: 0, next: None }
    }

    /// Whether it may be tried now.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// When it may be tried again; `None` while nothing fails.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Notes a failure; `true` if it is the first one.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.next = Some(now + self.pauses.after(self.failures));
        self.failures == 1
    }

    /// Notes a success; `true` if it ends a row of failures.
    pub fn succeeded(&mut self) -> bool {
        let failed = self.failures > 0;
        (self.failures, self.next) = (0, None);
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(Pauses::STORAGE);
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

    #[test]
    fn pauses_grow_from_nothing_to_a_limit_and_never_beyond() {
        let pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));
        let millis = [0, 1, 2, 3, 4, 5, 6, 7, 32, 33, u32::MAX].map(|failures| pauses.after(failures).as_millis());
        assert_eq!(millis, [0, 50, 100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000]);
        let nothing = Pauses::new(Duration::ZERO, Duration::from_secs(1));
        assert_eq!(nothing.after(u32::MAX), Duration::ZERO);
    }
}
