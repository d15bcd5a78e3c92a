//! The host's wall clock, which somebody may set at any time.
//!
//! While an orchestrator runs, everything that waits or measures uses the monotonic clock; wall-clock times
//! are for people and for the row. Two things are read from a row after a restart, and bounded here by
//! what no clock can change: how long a microVM has run, by the age of its process ([`run_time`]), and how
//! long a restart still has to wait ([`pause_left`]). [`JumpWatch`] notices
//! jumps, and [`watch`] says when to look.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use sandpen_vmm::process_identity::ProcessIdentity;

use crate::host::readable::register;

/// What the clock moves by less than this is what clocks do to be right.
const JUMP_LEAST_MS: i64 = 1000;
/// So much older than its workload a VMM's process can be: it boots first.
const BOOT_MOST: Duration = Duration::from_mins(2);
/// A time at which the timer of [`watch`] would expire by itself: in the year 2262.
const NEVER_S: i64 = 9_223_372_036;

/// Milliseconds since the host's boot, suspended time included; nobody sets them.
fn since_boot_ms() -> Option<i64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    now.tv_sec().checked_mul(1000)?.checked_add(now.tv_nsec() / 1_000_000)
}

/// Tells jumps apart from the clock's own going.
#[derive(Debug)]
pub struct JumpWatch {
    /// Wall clock minus time since boot, when it was last looked at.
    offset_ms: Mutex<Option<i64>>,
}

impl Default for JumpWatch {
    fn default() -> Self {
        Self { offset_ms: Mutex::new(Self::offset_ms()) }
    }
}

impl JumpWatch {
    fn offset_ms() -> Option<i64> {
        since_boot_ms().map(|boot| Utc::now().timestamp_millis() - boot)
    }

    /// Looks at the clock: by how many milliseconds it was set since the last look, if it was. Costs two readings
    /// of clocks.
    pub fn look(&self) -> Option<i64> {
        self.step(Self::offset_ms())
    }

    fn step(&self, now: Option<i64>) -> Option<i64> {
        let mut before = self.offset_ms.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let by_ms = now?.checked_sub(before.replace(now?)?)?;
        (by_ms.unsigned_abs() >= JUMP_LEAST_MS.unsigned_abs()).then_some(by_ms)
    }
}

/// Calls `look` at once and whenever the kernel says that the clock was set, and sleeps in between. Ends only with
/// an error.
///
/// # Errors
/// The kernel's: no timer, or it cannot be watched.
pub async fn watch(look: impl Fn()) -> io::Result<()> {
    let timer = TimerFd::new(TimerClock::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let never = Expiration::OneShot(TimeSpec::new(NEVER_S, 0));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    let registered = register(&Arc::new(timer.as_fd().try_clone_to_owned()?))?;
    loop {
        timer.set(never, flags)?;
        // What was set between the last look and the timer is seen here.
        look();
        registered.readable().await?.clear_ready();
        match timer.wait() {
            Ok(()) | Err(Errno::ECANCELED | Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How long a process has been there, by a clock that nobody sets. Reads `/proc`.
pub fn process_age(pid: u32) -> Option<Duration> {
    let ticks = ProcessIdentity::of(pid).ok()?.start_time;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let started_ms = i64::try_from(ticks.checked_mul(1000)?).ok()?.checked_div(per_second)?;
    u64::try_from(since_boot_ms()?.checked_sub(started_ms)?).ok().map(Duration::from_millis)
}

/// How long a workload has run that the row says started at `started`, in a VMM that is `age` old. The clock
/// may have been set since: a time that does not fit the process's age is not believed.
pub fn run_time(started: Option<DateTime<Utc>>, now: DateTime<Utc>, age: Option<Duration>) -> Duration {
    let by_clock = started.and_then(|started| (now - started).to_std().ok());
    match (by_clock, age) {
        (Some(ran), Some(age)) if ran <= age && age.saturating_sub(ran) <= BOOT_MOST => ran,
        (_, Some(age)) => age,
        (ran, None) => ran.unwrap_or_default(),
    }
}

/// How long a restart that is due at `until` still has to wait: never longer than its policy's longest pause.
pub fn pause_left(until: DateTime<Utc>, now: DateTime<Utc>, longest: Duration) -> Duration {
    (until - now).to_std().unwrap_or_default().min(longest)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn only_jumps_are_told_and_each_once() {
        let watch = JumpWatch { offset_ms: Mutex::new(None) };
        let told = [Some(5000), Some(5999), None, Some(65_000), Some(65_000), Some(-20_000)].map(|now| watch.step(now));
        assert_eq!(told, [None, None, None, Some(59_001), None, Some(-85_000)]);
        // Offsets that no clock has: neither they nor what is too far for a number stops anything.
        assert_eq!(watch.step(Some(i64::MIN)), Some(i64::MIN + 20_000));
        assert_eq!(watch.step(Some(0)), None);
        assert_eq!(JumpWatch { offset_ms: Mutex::new(Some(0)) }.step(Some(i64::MIN)), Some(i64::MIN));
    }

    #[test]
    fn the_run_time_is_never_longer_than_the_process_is_there_and_never_nothing_for_an_old_one() {
        let now = Utc::now();
        let secs = Duration::from_secs;
        let ran =
            |started: i64, age: Option<u64>| run_time(Some(now - TimeDelta::seconds(started)), now, age.map(secs));
        assert_eq!(ran(100, Some(103)), secs(100));
        // Set a day forward, a day back, a little back; after a restart of the process that is nobody's.
        assert_eq!(ran(86_500, Some(103)), secs(103));
        assert_eq!(ran(-86_300, Some(103)), secs(103));
        assert_eq!(ran(100, Some(1000)), secs(1000));
        assert_eq!(run_time(None, now, Some(secs(5))), secs(5));
        assert_eq!(ran(-5, None), Duration::ZERO);
        assert_eq!(ran(7, None), secs(7));
    }

    #[test]
    fn a_restart_waits_no_longer_than_its_policy_says() {
        let now = Utc::now();
        let left = |secs: i64| pause_left(now + TimeDelta::seconds(secs), now, Duration::from_mins(1));
        assert_eq!(left(20), Duration::from_secs(20));
        // The clock was set back, and forward.
        assert_eq!(left(86_400), Duration::from_mins(1));
        assert_eq!(left(-86_400), Duration::ZERO);
    }

    #[test]
    fn a_process_ages() {
        let age = process_age(std::process::id()).unwrap();
        assert!(age < Duration::from_hours(24), "{age:?}");
        assert!(process_age(u32::MAX).is_none());
    }
}
