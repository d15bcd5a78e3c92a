//! What to do about a clock that differs from the host's: pure, no clock of its own.
//!
//! What the host says is some time old when it is heard: mostly a few ms, seconds where the machine was stopped
//! meanwhile. So a guest that seems to be *behind* is, by at least that much; one that seems to be *ahead* may have heard
//! it late. The best of the last few messages counts, each as the difference from a counter that nobody sets.

use std::time::Duration;

/// Messages that are looked at. A late one alone changes nothing; an older one is of no use where the counter runs
/// faster than the host's time.
const KEPT: usize = 3;
/// Behind by less is left alone.
const BEHIND_NS: i64 = 3_000_000;
/// Ahead by less is taken for the way of the message; of more, what is beyond it.
const AHEAD_NS: i64 = 30_000_000;
/// Behind by so much is set; less is caught up with.
const SET_NS: i64 = 500_000_000;
/// In which time a difference is made good: what the host leaves between two messages.
const PERIOD_NS: i64 = 10_000_000_000;
/// The least change of the tick in that time.
const UNIT_NS: i64 = PERIOD_NS / 10_000;
/// Most that a clock runs faster: what makes good all that is not set.
const FASTER_MOST: i64 = SET_NS / UNIT_NS;
/// Most that it runs slower, a hundredth: who measures hardly sees it, and no counter is more wrong.
const SLOWER_MOST: i64 = 100;
/// A change ends by itself after this, if the host says nothing more.
const LASTS_MOST: Duration = Duration::from_secs(20);

/// The kernel's tick, in µs.
pub const USUAL_TICK: i32 = 10_000;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// The clock is right, as far as can be known.
    None,
    /// To be set forward.
    Forward {
        /// By so much.
        by_ns: i64,
    },
    /// To run with another tick for a while.
    Run {
        /// In µs.
        tick: i32,
        /// For so long.
        lasts: Duration,
    },
}

/// What the host said of late.
#[derive(Debug, Default)]
pub struct Follower {
    /// The host's time less the counter, oldest first.
    heard: Vec<i64>,
}

impl Follower {
    /// Takes the host's time as it was when the message was sent, and now's counter and clock; all in ns.
    pub fn hear(&mut self, host: i64, counted: i64, clock: i64) -> Correction {
        if self.heard.len() == KEPT {
            self.heard.remove(0);
        }
        let offset = host.saturating_sub(counted);
        self.heard.push(offset);
        let best = self.heard.iter().copied().max().unwrap_or(offset);
        correct(best.saturating_add(counted).saturating_sub(clock))
    }
}

/// `behind` is negative for a clock that is ahead.
fn correct(behind: i64) -> Correction {
    if behind >= SET_NS {
        return Correction::Forward { by_ns: behind };
    }
    let by = if behind >= BEHIND_NS { behind } else { behind.saturating_add(AHEAD_NS).min(0) };
    if by == 0 {
        return Correction::None;
    }
    let most = if by > 0 { FASTER_MOST } else { SLOWER_MOST };
    let units = by.unsigned_abs().div_ceil(UNIT_NS.unsigned_abs()).min(most.unsigned_abs());
    let lasts = Duration::from_nanos(by.unsigned_abs()).saturating_mul(10_000);
    let units = i32::try_from(units).unwrap_or(1);
    let lasts = lasts / units.unsigned_abs();
    Correction::Run { tick: USUAL_TICK + units * if by > 0 { 1 } else { -1 }, lasts: lasts.min(LASTS_MOST) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn small_differences_are_caught_up_with_and_large_ones_set_forward_alone() {
        let run = |tick, ms| Correction::Run { tick, lasts: Duration::from_millis(ms) };
        for (behind_ms, correction) in [
            (2, Correction::None),
            (3, run(10_003, 10_000)),
            (4, run(10_004, 10_000)),
            (499, run(10_499, 10_000)),
            (500, Correction::Forward { by_ns: 500 * MS }),
            (3_600_000, Correction::Forward { by_ns: 3_600_000 * MS }),
            (0, Correction::None),
            (-30, Correction::None),
            (-31, run(9_999, 10_000)),
            (-130, run(9_900, 10_000)),
            (-180, run(9_900, 15_000)),
            (-3_600_000, run(9_900, 20_000)),
        ] {
            assert_eq!(correct(behind_ms * MS), correction, "{behind_ms} ms");
        }
        assert_eq!(correct(3_500_001), Correction::Run { tick: 10_004, lasts: Duration::from_nanos(8_750_002_500) });
        assert_eq!(correct(i64::MIN), run(9_900, 20_000));
        assert_eq!(correct(i64::MAX), Correction::Forward { by_ns: i64::MAX });
    }

    #[test]
    fn one_late_message_changes_nothing_and_three_do() {
        let mut follower = Follower::default();
        assert_eq!(follower.hear(0, 0, 0), Correction::None);
        // What the host said while the machine did not listen.
        for at in [10_000, 20_000] {
            assert_eq!(follower.hear((at - 9000) * MS, at * MS, at * MS), Correction::None);
        }
        assert_eq!(follower.hear(30_000 * MS, 30_000 * MS, 30_000 * MS), Correction::None);
        // Somebody has set the host's clock, or the guest's.
        for at in [40_000, 50_000] {
            assert_eq!(follower.hear((at - 9000) * MS, at * MS, at * MS), Correction::None);
        }
        assert!(matches!(follower.hear(51_000 * MS, 60_000 * MS, 60_000 * MS), Correction::Run { tick: 9900, .. }));
    }

    /// A machine of which all is simulated: its counter, its clock, and messages under way.
    #[derive(Default)]
    struct Machine {
        follower: Follower,
        host: i64,
        counted: i64,
        clock: i64,
        tick: i64,
        /// How long the tick still lasts.
        lasts: i64,
    }

    impl Machine {
        /// The host's time passes; the counter runs wrong by `ppm`.
        fn run(&mut self, ns: i64, ppm: i64) {
            self.host += ns;
            let counted = ns + ns / 1_000_000 * ppm;
            self.counted += counted;
            let changed = counted.min(self.lasts);
            self.lasts -= changed;
            self.clock += counted + changed / 10_000 * self.tick;
        }

        fn hear(&mut self, said: i64) {
            match self.follower.hear(said, self.counted, self.clock) {
                Correction::None => self.lasts = 0,
                Correction::Forward { by_ns } => {
                    assert!(by_ns > 0);
                    self.lasts = 0;
                    self.clock += by_ns;
                }
                Correction::Run { tick, lasts } => {
                    assert!((9900..=10_500).contains(&tick), "{tick}");
                    self.tick = i64::from(tick - USUAL_TICK);
                    self.lasts = i64::try_from(lasts.as_nanos()).unwrap();
                }
            }
        }
    }

    proptest! {
        /// With messages that are up to 50 ms under way, pauses of any length, messages that were late, and a counter that
        /// is a little wrong: the clock never goes back, and is right again soon.
        #[test]
        fn the_clock_follows_and_never_goes_back(
            ppm in -500..500_i64,
            rounds in vec((0..50_i64, prop_oneof![4 => Just(0), 1 => 0..100_000_i64], prop_oneof![4 => Just(0), 1 => 0..60_000_i64]), 1..40),
            quiet in vec(0..50_i64, 7..20),
        ) {
            let mut machine = Machine::default();
            let rounds = rounds.into_iter().chain(quiet.into_iter().map(|way| (way, 0, 0)));
            let mut calm = 0;
            for (way_ms, paused_ms, late_ms) in rounds {
                let before = machine.clock;
                machine.host += paused_ms * MS;
                let said = machine.host;
                machine.run((way_ms + late_ms) * MS, ppm);
                machine.hear(said);
                for _ in 0..10 {
                    let before = machine.clock;
                    machine.run(1000 * MS, ppm);
                    prop_assert!(machine.clock > before);
                }
                prop_assert!(machine.clock > before);
                calm = if paused_ms == 0 && late_ms == 0 { calm + 1 } else { 0 };
            }
            prop_assert!(calm >= 7);
            let error = (machine.clock - machine.host) / MS;
            prop_assert!(error.abs() < 100, "{error} ms");
        }
    }
}
