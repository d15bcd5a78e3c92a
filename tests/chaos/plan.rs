//! What a round does, from the seed alone: the same seed and round give the same steps. A step names
//! its target by a number; which sandbox that is, the world says.

use std::time::Duration;

use sandpen::actors::testing::panic::{ActorKind, PLACES, PanicPlace};

use crate::support::dice::Dice;

/// What runs in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A host process that counts what it wrote (`writer.c`).
    Writer,
    /// A microVM of libkrun that writes 8 MiB and ends with code 42 (`lines.c`).
    Flood,
    /// The same, and halts instead (`lines_halt.c`).
    Halting,
    /// Linux in QEMU: a shell's loop.
    Linux,
}

/// One deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `sandpen run -d` with a new name.
    Start(Kind),
    /// `sandpen run -d` with the name of one that ended.
    Rerun,
    /// The workload ends by itself, with this exit code.
    Finish(u8),
    /// `sandpen stop`.
    Stop,
    /// `sandpen kill`.
    Kill,
    /// `sandpen rm` of one that ended.
    Remove,
    /// SIGKILL to a VMM process.
    KillVmm,
    /// SIGSTOP to a VMM process, and SIGCONT at the round's end.
    PauseVmm,
    /// SIGKILL to a waiter.
    KillWaiter,
    /// SIGKILL to the daemon and all waiters.
    KillAll,
    /// SIGKILL to the daemon.
    KillDaemon,
    /// SIGSTOP to the daemon, and SIGCONT after this time.
    PauseDaemon(Duration),
    /// The state directory's disk is full for this time.
    FillDisk(Duration),
    /// One of the daemon's actors panics.
    Panic(ActorKind, PanicPlace),
    /// SIGKILL to the service that embeds sandpen, and its next start.
    KillService,
}

/// A pause, then a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub pause: Duration,
    pub action: Action,
    /// Which of the possible targets, modulo their number.
    pub target: u64,
}

/// The steps of a round, which counts from 1.
pub fn round(seed: u64, number: u64) -> Vec<Step> {
    let mut dice = Dice::new(Dice::new(seed ^ number.rotate_left(32)).next());
    let count = 8 + dice.below(8);
    (0..count)
        .map(|_| {
            let pause = Duration::from_micros(dice.below(120_000));
            Step { pause, action: action(&mut dice), target: dice.next() }
        })
        .collect()
}

fn action(dice: &mut Dice) -> Action {
    let millis = |dice: &mut Dice, most| Duration::from_millis(dice.below(most));
    match dice.below(42) {
        0..=5 => Action::Start(Kind::Writer),
        6..=7 => Action::Start(Kind::Flood),
        8 => Action::Start(Kind::Halting),
        9 => Action::Start(Kind::Linux),
        10..=12 => Action::Finish(u8::try_from(dice.below(100)).unwrap_or(0)),
        13..=15 => Action::Stop,
        16..=17 => Action::Kill,
        18..=19 => Action::Rerun,
        20..=22 => Action::Remove,
        23..=25 => Action::KillVmm,
        26 => Action::PauseVmm,
        27..=30 => Action::KillDaemon,
        31 => Action::PauseDaemon(millis(dice, 150)),
        32..=34 => Action::KillWaiter,
        35 => Action::KillAll,
        36 => Action::FillDisk(millis(dice, 400)),
        37 => Action::KillService,
        _ => panic_of(dice),
    }
}

fn panic_of(dice: &mut Dice) -> Action {
    let actor = match dice.below(5) {
        0 => ActorKind::Supervisor,
        1 => ActorKind::Database,
        2 => ActorKind::Monitor,
        3 => ActorKind::JobKeeper,
        _ => ActorKind::LogWriter,
    };
    let place = usize::try_from(dice.below(PLACES.len() as u64)).unwrap_or(0);
    Action::Panic(actor, PLACES[place])
}
