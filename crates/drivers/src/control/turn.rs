//! When the guests of this process are told the time: each in its turn.
//!
//! ```text
//!   time ──▶ │turn 0│turn 1│ … │turn 39│turn 0│ …      a guest's link waits for its own turn; all links that have the same
//!             ◀────── INTERVAL ───────▶                one wait for the same moment, which costs one wakeup
//! ```
//!
//! There is no task and no timer where no link is. A thousand guests that were told at once would all want to run at
//! once, and hear it late.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Between two messages to a guest. It bounds for how long a guest's clock is wrong after its VMM was paused. A Linux
/// that does nothing wakes up more often by itself, so that it costs little beside that.
pub(super) const INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 40 } else { 10_000 });
/// Turns in an interval: a thousand guests are told the time 25 at a time.
const TURNS: u32 = 40;

/// From when turns are counted.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When one guest is told the time.
#[derive(Debug)]
pub(super) struct Turn {
    number: u32,
    /// Whether the host's clock was set.
    set: watch::Receiver<()>,
}

impl Turn {
    /// The next one that is given out: they are all used alike.
    pub(super) fn take() -> Self {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        let number = TAKEN.fetch_add(1, Ordering::Relaxed) % TURNS;
        Self { number, set: sandpen_vmm::host_clock::subscribe() }
    }

    /// Waits until it comes, or the host's clock was set. May be dropped while it waits.
    pub(super) async fn comes(&mut self) {
        let now = Instant::now();
        let waits = wait(now.duration_since(*BEGINNING), self.number);
        // Its sender is never gone.
        let _ = tokio::time::timeout_at(now + waits, self.set.changed()).await;
    }
}

/// How long it takes from `now` until the turn comes: more than nothing, at most an interval.
fn wait(now: Duration, number: u32) -> Duration {
    let interval = INTERVAL.as_nanos();
    let begins = (INTERVAL / TURNS * number).as_nanos();
    let left = interval - (now.as_nanos() + interval - begins) % interval;
    Duration::from_nanos(u64::try_from(left).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_comes_once_in_an_interval_and_all_at_different_times() {
        let step = INTERVAL / TURNS;
        for number in 0..TURNS {
            assert_eq!(wait(step * number, number), INTERVAL, "it is over");
            assert_eq!(wait(INTERVAL * 7 + step * number + step / 4, number) + step / 4, INTERVAL);
            assert_eq!(wait(INTERVAL * 7 + step * number + step * (TURNS - 1), number), step);
            assert_eq!(wait(Duration::ZERO, number), if number == 0 { INTERVAL } else { step * number });
        }
        let taken: std::collections::HashSet<_> = (0..TURNS).map(|_| Turn::take().number).collect();
        assert!(taken.len() > 1);
    }
}
