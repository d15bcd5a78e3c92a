//! How a client goes on over the end of its daemon: its death, its replacement, or a shutdown and a later
//! start. Everybody who reads on or waits does it like this, from the position that it has itself.
//!
//! ```text
//!   asking ──▶ answered
//!    ▲  │ the daemon went away
//!    │  ▼
//!    │ pausing ─▶ looking ─┬ a daemon answers ───────────────▶ asking
//!    │   ▲                 ├ it crashed: one is started, where the options say how ─▶ asking
//!    │   └─────────────────┴ it ended in order: whoever ended it starts one, or nobody shall
//!    └ (no progress for too long, or over too many daemons: given up)
//! ```
//!
//! What crashed leaves its socket behind, and what ended in order does not.

use std::io;
use std::time::{Duration, Instant};

use sandpen_api::ErrorCode;
use sandpen_types::backoff::Pauses;
use sandpen_types::spec::SandboxKey;

use super::{Client, ClientError, ClientOptions, start};
use crate::private_dir;

/// How long another daemon is looked for: a replacement ends the readers of the one before (up to 8 s), and adopts
/// every microVM before it answers.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// So often at least, however long one try takes.
const TRIES_MIN: u32 = 4;
/// Daemons in a row that may go away without any progress: it may be what we ask for that ends them.
const DAEMONS_MAX: u32 = 10;
/// A daemon that we were at for this long was healthy: nothing may have happened that we could have been told.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Pauses from the third try in a row on; the second comes at once.
pub(super) const PAUSES: Pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));

/// How much may fail before it is given up. The clock is the caller's.
#[derive(Debug, Default)]
struct Budget {
    /// Since the last progress.
    failures: u32,
    /// Found since the last progress.
    daemons: u32,
    /// The first of the failures.
    since: Option<Instant>,
    /// When the present daemon was found.
    found: Option<Instant>,
}

impl Budget {
    /// The pause before the next try; `None` when there shall be none.
    fn failed(&mut self, now: Instant) -> Option<Duration> {
        if self.found.take().is_some_and(|found| now.saturating_duration_since(found) >= HEALTHY_AFTER) {
            self.progressed();
        }
        let since = *self.since.get_or_insert(now);
        let is_late = now.saturating_duration_since(since) >= PATIENCE && self.failures >= TRIES_MIN;
        if is_late || self.daemons >= DAEMONS_MAX {
            return None;
        }
        let pause = PAUSES.after(self.failures);
        self.failures += 1;
        Some(pause)
    }

    fn found(&mut self, now: Instant) {
        self.daemons += 1;
        self.found = Some(now);
    }

    fn progressed(&mut self) {
        *self = Self::default();
    }
}

/// One reader's or waiter's way from daemon to daemon.
#[derive(Debug)]
pub(super) struct Resume {
    options: ClientOptions,
    /// What is asked about.
    sandbox: Option<SandboxKey>,
    budget: Budget,
    /// Whether this is another daemon than the first.
    has_moved: bool,
}

impl Resume {
    pub(super) fn new(options: &ClientOptions, sandbox: Option<&SandboxKey>) -> Self {
        let (options, sandbox) = (options.clone(), sandbox.cloned());
        Self { options, sandbox, budget: Budget::default(), has_moved: false }
    }

    /// Something came: the next failure is the first one.
    pub(super) fn progressed(&mut self) {
        self.budget.progressed();
    }

    /// The daemon to ask again after this failure. Safe to cancel.
    ///
    /// # Errors
    /// The failure itself where it is not the daemon's end, and [`ClientError::NoSuccessor`].
    pub(super) async fn after(&mut self, error: ClientError) -> Result<Client, ClientError> {
        if !error.is_away() {
            return Err(match &self.sandbox {
                Some(key) if self.has_moved && error.code() == Some(ErrorCode::NotFound) => {
                    ClientError::RemovedMeanwhile { key: key.clone() }
                }
                _ => error,
            });
        }
        while let Some(pause) = self.budget.failed(Instant::now()) {
            tokio::time::sleep(pause).await;
            match self.look().await {
                Ok(client) => {
                    self.budget.found(Instant::now());
                    self.has_moved = true;
                    return Ok(client);
                }
                Err(error) if error.is_away() => tracing::debug!(%error, "no daemon yet"),
                Err(error) => return Err(error),
            }
        }
        // The first one says more than that there still is none.
        Err(ClientError::NoSuccessor(Box::new(error)))
    }

    /// Finds the daemon, or starts one in the place of one that crashed.
    async fn look(&self) -> Result<Client, ClientError> {
        let dir = private_dir::prepare_state_dir(&self.options.state_dir)?;
        // Once: one that is dying may still take the connection, and the next look comes soon.
        match (Client::look(&dir).await, &self.options.daemon) {
            (Err(ClientError::NotRunning { source, .. }), Some(daemon)) if source.kind() != io::ErrorKind::NotFound => {
                start::start(&dir, daemon).await
            }
            (found, _) => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tries that each take `each` and find nothing, until it is given up: how many, and how long it took.
    fn in_vain(budget: &mut Budget, begun: Instant, each: Duration) -> (u32, Duration) {
        let (mut now, mut tries) = (begun, 0);
        while let Some(pause) = budget.failed(now) {
            now += pause + each;
            tries += 1;
        }
        (tries, now - begun)
    }

    proptest! {
        #[test]
        fn where_none_comes_it_is_given_up_after_the_patience_and_soon_after(each_ms in 0..20_000_u64) {
            let each = Duration::from_millis(each_ms);
            let (tries, took) = in_vain(&mut Budget::default(), Instant::now(), each);
            prop_assert!(tries >= TRIES_MIN && took >= PATIENCE, "{tries} tries in {took:?}");
            prop_assert!(took <= (PATIENCE + PAUSES.longest() + each).max(TRIES_MIN * (each + PAUSES.longest())), "{took:?}");
            prop_assert!(tries <= 50, "no storm: {tries}");
        }

        #[test]
        fn a_daemon_that_comes_within_the_patience_is_found(gap_ms in 0..30_000_u64, each_ms in 0..500_u64) {
            let (mut budget, begun) = (Budget::default(), Instant::now());
            let mut now = begun;
            while now - begun < Duration::from_millis(gap_ms) {
                let pause = budget.failed(now);
                prop_assert!(pause.is_some(), "given up after {:?}", now - begun);
                now += pause.unwrap_or_default() + Duration::from_millis(each_ms);
            }
        }

        #[test]
        fn any_history_is_forgotten_with_progress(steps in proptest::collection::vec((0..3_u8, 0..40_000_u64), 0..60)) {
            let (mut budget, mut now) = (Budget::default(), Instant::now());
            for (step, after_ms) in steps {
                now += Duration::from_millis(after_ms);
                match step {
                    0 => budget.found(now),
                    1 => budget.progressed(),
                    _ => prop_assert!(budget.failed(now).is_none_or(|pause| pause <= PAUSES.longest())),
                }
            }
            budget.progressed();
            prop_assert_eq!(budget.failed(now), Some(Duration::ZERO), "it is asked again at once");
        }
    }

    #[test]
    fn what_ends_every_daemon_is_given_up() {
        let (mut budget, mut now, mut daemons) = (Budget::default(), Instant::now(), 0);
        while let Some(pause) = budget.failed(now) {
            now += pause + Duration::from_millis(10);
            budget.found(now);
            daemons += 1;
        }
        assert_eq!(daemons, DAEMONS_MAX);
    }

    #[test]
    fn years_without_news_are_no_failure() {
        let (mut budget, mut now) = (Budget::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(budget.failed(now), Some(Duration::ZERO));
            budget.found(now);
            now += HEALTHY_AFTER;
        }
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<_> = (0..8).map(|failures| PAUSES.after(failures).as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(PAUSES.after(u32::MAX), PAUSES.longest());
    }
}
