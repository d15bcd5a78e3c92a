//! A sandbox that nobody uses is stopped, as by request: no session, no input and no output for as long as its
//! specification says. What a look means is pure; looks are a [`LOOKS`]th of such a time apart, and two that see the same
//! mean that nothing happened in between. So a sandbox is stopped after its time at the earliest, and at the latest a
//! [`LOOKS`]th of it later.
//!
//! ```text
//!   begun, adopted ─▶ look ──a part of its time──▶ look ─┬ something happened since, or a session runs ─▶ all anew
//!                                                        └ the same as before ─┬ for less than its time ─▶ look again
//!                                                                              └ for its time ─▶ stopped
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sandpen_types::state::{Event, StoppedBy};

use super::edges::Ending;
use super::ending::TIME_LIMIT_GRACE;
use super::life::Life;
use crate::log_writer::AwaitBytes;

/// Looks in the time of a sandbox that nobody uses.
const LOOKS: u32 = 8;
/// How long a guest may take to tell its sessions.
const SESSIONS_LIMIT: Duration = Duration::from_secs(30);

/// What a look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// So often the guest was used until then.
    pub(super) uses: u64,
    /// So many bytes the workload had written.
    pub(super) written: u64,
    /// Whether a session ran.
    pub(super) has_sessions: bool,
}

/// When to look next.
#[derive(Debug)]
pub(super) struct Quiet {
    limit: Duration,
    /// None while a look is under way.
    due: Option<Instant>,
    last: Option<Seen>,
    /// The first look since something happened.
    since: Instant,
}

impl Quiet {
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, due: Some(now), last: None, since: now }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a look is due; it is under way then.
    fn begin(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|at| at <= now);
        if is_due {
            self.due = None;
        }
        is_due
    }

    /// What was seen, `None` where nothing could be; whether that is the end.
    fn take(&mut self, seen: Option<Seen>, now: Instant) -> bool {
        let is_quiet = seen.is_some_and(|seen| self.last == Some(seen) && !seen.has_sessions);
        if !is_quiet {
            self.since = now;
        }
        self.last = seen;
        // Not a moment after its time, whatever the looks themselves take.
        self.due = now.checked_add(self.limit / LOOKS).min(self.since.checked_add(self.limit));
        is_quiet && now.saturating_duration_since(self.since) >= self.limit
    }
}

impl Life {
    /// Looks whether somebody uses the sandbox, when that is due. Nothing waits for the look.
    pub(super) fn look_if_quiet(&mut self) {
        let Some(vmm) = self.vmm() else { return };
        if !self.quiet.as_mut().is_some_and(|quiet| quiet.begin(Instant::now())) {
            return;
        }
        let (uses, log) = (self.uses.load(Ordering::Relaxed), self.config.log.clone());
        let now = Duration::ZERO;
        let there = AwaitBytes { stdout: 0, stderr: 0, missing_max: u64::MAX, idle_limit: now, limit: now };
        self.peeking = Some(Box::pin(async move {
            let totals = log.send(there).await.ok()?.ok()?;
            let has_sessions = match vmm.guest.sessions() {
                Ok(sessions) => {
                    let listed = tokio::time::timeout(SESSIONS_LIMIT, sessions.list()).await.ok()?.ok()?;
                    listed.iter().any(|session| session.end.is_none())
                }
                // Its guest has none.
                Err(_) => false,
            };
            let written = totals.stdout + totals.stderr + totals.dropped_stdout + totals.dropped_stderr;
            Some(Seen { uses, written, has_sessions })
        }));
    }

    pub(super) fn on_peeked(&mut self, seen: Option<Seen>) {
        if self.quiet.as_mut().is_some_and(|quiet| quiet.take(seen, Instant::now())) {
            tracing::info!("nobody used the sandbox for as long as it says, and it is stopped");
            self.end_with(Event::StopRequested(StoppedBy::Request.cause()), Ending::Ask(TIME_LIMIT_GRACE), None);
        }
    }
}

/// Counts uses of a guest.
pub(super) fn count(uses: &AtomicU64) {
    uses.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn seen(uses: u64, has_sessions: bool) -> Seen {
        Seen { uses, written: 0, has_sessions }
    }

    #[test]
    fn looks_that_see_the_same_for_long_enough_are_the_end_and_a_session_is_none() {
        let start = Instant::now();
        let mut quiet = Quiet::new(LIMIT, start);
        assert!(quiet.begin(start) && !quiet.begin(start), "one look at a time");
        assert!(!quiet.take(Some(seen(0, false)), start));
        assert_eq!(quiet.due(), Some(start + LIMIT / LOOKS));
        let mut now = start;
        let mut look = |quiet: &mut Quiet, seen| {
            now += LIMIT / LOOKS;
            assert!(quiet.begin(now));
            quiet.take(seen, now)
        };
        let news = [Some(seen(1, false)), Some(seen(1, true)), Some(seen(1, true)), Some(seen(1, false)), None];
        for seen in news.into_iter().chain(news) {
            assert!(!look(&mut quiet, seen), "{seen:?}");
        }
        let quiet_for = (1..=2 * LOOKS).find(|_| look(&mut quiet, Some(seen(1, false))));
        assert_eq!(quiet_for, Some(LOOKS + 1), "the first of them may have come just after a use");
    }

    proptest! {
        /// Uses at any time: the end comes after the limit, and a look later at most.
        #[test]
        fn nobody_is_stopped_early_nor_late(uses in proptest::collection::vec(0..200_u64, 0..10)) {
            let start = Instant::now();
            let (mut quiet, mut uses) = (Quiet::new(LIMIT, start), uses);
            uses.sort_unstable();
            let end = loop {
                let now = quiet.due().unwrap();
                prop_assert!(quiet.begin(now));
                let so_far = uses.iter().filter(|at| start + Duration::from_secs(**at) < now).count() as u64;
                if quiet.take(Some(seen(so_far, false)), now) {
                    break now;
                }
            };
            // The last use before it.
            let last = uses.iter().map(|at| start + Duration::from_secs(*at)).filter(|at| *at < end).max();
            let last = last.unwrap_or(start);
            let took = end - last;
            prop_assert!(took >= LIMIT && took <= LIMIT + LIMIT / LOOKS, "{took:?}");
        }
    }
}
