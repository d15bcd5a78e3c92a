//! For how long a workload ran: pure, the clock is an argument.
//!
//! ```text
//!   found running ─▶ its guest says that it runs ─▶ its guest says how it ended, or its VMM is gone ─▶ on record
//!   started ──────────▶ │◀──────────────── what counts ─────────────────▶│◀─── a hung power-off, ──▶│
//!                                                                           a full disk: does not
//! ```
//!
//! A guest that is found says everything once more. One whose workload ended while nobody looked says so at once: when
//! that was is not known, and the run counts as none.

use std::time::{Duration, Instant};

use sandpen_types::row::SandboxRow;
use sandpen_types::state::SandboxState;

/// An end that is told so soon after a found guest's first word may be an old one.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A workload's time.
#[derive(Debug)]
pub(super) struct Run {
    /// Whether this life found it running.
    is_found: bool,
    /// Since when it runs, by the clock that nobody sets.
    since: Option<Instant>,
    /// When its guest said to this life that it runs.
    told: Option<Instant>,
    /// For how long it ran, once it has ended.
    lasted: Option<Duration>,
}

impl Run {
    /// That of the row as it was found. One that was ending ran until that was on record, at least.
    pub(super) fn of(row: &SandboxRow) -> Self {
        let is_ending = matches!(row.state, SandboxState::Stopping { .. });
        let by_row = || row.started_at.and_then(|from| (row.updated_at - from).to_std().ok()).unwrap_or_default();
        Self { is_found: row.state == SandboxState::Running, since: None, told: None, lasted: is_ending.then(by_row) }
    }

    /// It was found, and has run for so long.
    pub(super) fn resume(&mut self, ran: Duration, now: Instant) {
        self.since = self.since.or_else(|| now.checked_sub(ran));
    }

    /// Its guest says that it runs.
    pub(super) fn told(&mut self, now: Instant) {
        self.told.get_or_insert(now);
        if !self.is_found {
            self.since.get_or_insert(now);
        }
    }

    /// It has ended: as far as is known, now. Only the first time counts.
    pub(super) fn end(&mut self, now: Instant) {
        let since = |from: Option<Instant>| from.map(|from| now.saturating_duration_since(from));
        let is_seen = !self.is_found || since(self.told).is_some_and(|known| known >= AT_ONCE);
        let ran = since(self.since).filter(|_| is_seen).unwrap_or_default();
        self.lasted.get_or_insert(ran);
    }

    /// For how long it ran, once it has ended.
    pub(super) fn lasted(&self) -> Option<Duration> {
        self.lasted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, TimeDelta};
    use sandpen_types::spec::{Rootfs, SandboxName, SandboxSpec};
    use sandpen_types::state::StopCause;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(state: SandboxState) -> Run {
        let name = SandboxName::new("a").unwrap();
        let started = DateTime::UNIX_EPOCH;
        Run::of(&SandboxRow {
            id: 5,
            spec: Arc::new(SandboxSpec::new(name, Rootfs::Native("/r".into()), vec!["/bin/true".into()])),
            state,
            seq: 9,
            generation: 3,
            restarts: 0,
            restarts_in_a_row: 0,
            keeps_disk: false,
            stopped_by: None,
            health: None,
            boot_id: None,
            driver: None,
            microvm_pid: None,
            supervisor_pid: 7,
            created_at: started,
            started_at: Some(started),
            ended_at: None,
            updated_at: started + TimeDelta::seconds(7),
        })
    }

    #[test]
    fn what_comes_after_the_end_does_not_count() {
        let start = Instant::now();
        let mut run = of(SandboxState::Starting);
        run.told(start);
        // Long after, it is on record.
        run.resume(Duration::ZERO, start + SECOND * 60);
        assert_eq!(run.lasted(), None);
        run.end(start + SECOND * 70);
        run.end(start + SECOND * 80);
        assert_eq!(run.lasted(), Some(SECOND * 70));
        let mut never = of(SandboxState::Starting);
        never.end(start + SECOND);
        assert_eq!(never.lasted(), Some(Duration::ZERO));
    }

    #[test]
    fn an_end_that_nobody_saw_is_that_of_no_run() {
        let found = Instant::now() + SECOND * 1000;
        let ended = |told: Option<Instant>, at| {
            let mut run = of(SandboxState::Running);
            run.resume(SECOND * 100, found);
            if let Some(at) = told {
                run.told(at);
            }
            run.end(at);
            run.lasted()
        };
        assert_eq!(ended(None, found + SECOND * 5), Some(Duration::ZERO), "it was gone");
        let told = Some(found + SECOND * 5);
        assert_eq!(ended(told, found + SECOND * 5), Some(Duration::ZERO), "all was told at once");
        assert_eq!(ended(told, found + SECOND * 8), Some(SECOND * 108));
    }

    #[test]
    fn one_that_was_ending_ran_until_that_was_on_record() {
        let mut run = of(SandboxState::Stopping { cause: StopCause::WorkloadEnded, exit: None });
        run.told(Instant::now());
        run.end(Instant::now());
        assert_eq!(run.lasted(), Some(SECOND * 7));
    }
}
