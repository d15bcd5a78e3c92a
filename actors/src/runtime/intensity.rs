//! How often something may fail before more is done than to start it again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Failures that are met by starting again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartIntensity {
    /// So many…
    pub limit: usize,
    /// …within this time.
    pub window: Duration,
}

impl Default for RestartIntensity {
    /// 5 in 30 s: a fault that passes is over by then, one that stays is not waited for long.
    fn default() -> Self {
        Self { limit: 5, window: Duration::from_secs(30) }
    }
}

/// The failures of one thing.
#[derive(Debug, Default)]
pub(crate) struct RecentFailures(VecDeque<Instant>);

impl RecentFailures {
    /// Counts one; false when that was once too often.
    pub(crate) fn count(&mut self, now: Instant, intensity: RestartIntensity) -> bool {
        while self.0.front().is_some_and(|at| now.duration_since(*at) > intensity.window) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        // More than this is never asked for.
        while self.0.len() > intensity.limit.saturating_add(1) {
            self.0.pop_front();
        }
        self.0.len() <= intensity.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_within_the_window_only() {
        let intensity = RestartIntensity::default();
        let mut failures = RecentFailures::default();
        let start = Instant::now();
        for _ in 0..intensity.limit {
            assert!(failures.count(start, intensity));
        }
        assert!(!failures.count(start, intensity));
        assert!(failures.count(start + intensity.window + Duration::from_secs(1), intensity));
    }
}
