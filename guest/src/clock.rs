//! The machine's wall clock, which follows the host's.
//!
//! ```text
//!   SetClock ──▶ Follower (pure) ──▶ nothing
//!                     │          ├──▶ set forward, at once
//!                     │          └──▶ run faster or slower for a while ──deadline──▶ run as before
//!                     └─ what the host said of late
//! ```
//!
//! A machine whose processors were stopped has a clock that is behind. It is never set back: programs take that worse
//! than a clock that is a little ahead.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime, clock_settime};

use self::follower::{Correction, Follower, USUAL_TICK};
use crate::log::log;

mod follower;
mod tick;

/// What follows, and what was last done.
#[derive(Debug, Default)]
pub struct Clock {
    follower: Follower,
    /// Until when it runs faster or slower.
    until: Option<Instant>,
}

impl Clock {
    /// Takes what the host's clock said a moment ago: time since 1970.
    pub fn hear(&mut self, host: Duration) {
        if let Err(error) = self.follow(host) {
            log!("the clock cannot follow the host's: {error}");
        }
    }

    fn follow(&mut self, host: Duration) -> Result<(), Errno> {
        // One that counts at the same rate whatever we do to the other.
        let (counted, clock) = (now(ClockId::CLOCK_MONOTONIC_RAW)?, now(ClockId::CLOCK_REALTIME)?);
        let host = i64::try_from(host.as_nanos()).map_err(|_| Errno::ERANGE)?;
        match self.follower.hear(host, counted, clock) {
            Correction::None => self.run_as_usual(),
            Correction::Forward { by_ns } => {
                self.run_as_usual()?;
                log!("the clock is set forward by {} ms, to the host's", by_ns / 1_000_000);
                let to = now(ClockId::CLOCK_REALTIME)?.saturating_add(by_ns);
                clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(to))
            }
            Correction::Run { tick, lasts } => {
                tick::set(tick)?;
                self.until = Instant::now().checked_add(lasts);
                Ok(())
            }
        }
    }

    fn run_as_usual(&mut self) -> Result<(), Errno> {
        match self.until.take() {
            Some(_) => tick::set(USUAL_TICK),
            None => Ok(()),
        }
    }

    /// When [`Clock::look`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Ends a correction that is done.
    pub fn look(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now)
            && let Err(error) = self.run_as_usual()
        {
            log!("the clock's rate stays changed: {error}");
        }
    }
}

fn now(clock: ClockId) -> Result<i64, Errno> {
    clock_gettime(clock).map(|time| time.num_nanoseconds())
}
