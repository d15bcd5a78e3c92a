//! What a run did and saw, for people.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
pub struct Report {
    pub deeds: BTreeMap<&'static str, u64>,
    pub outages: Vec<Duration>,
    pub bytes: u64,
    pub sandboxes: u64,
    /// Workloads that ended while nobody else held their pipes: daemon and waiter had been killed.
    pub unheld: u64,
    /// Resident memory of the daemon after each round, in KiB.
    pub memory_kib: Vec<u64>,
}

impl Report {
    pub fn count(&mut self, deed: &'static str) {
        *self.deeds.entry(deed).or_default() += 1;
    }

    pub fn print(&mut self, seed: u64, rounds: u64, took: Duration) {
        println!("seed {seed}: {rounds} rounds in {:.0} s; nothing lost, doubled, stale or left", took.as_secs_f64());
        println!("  {} sandboxes wrote {} MiB, all compared", self.sandboxes, self.bytes >> 20);
        if self.unheld > 0 {
            println!("  {} ended alone, with daemon and waiter killed: what was in their pipes went too", self.unheld);
        }
        for (deed, count) in &self.deeds {
            println!("  {count:>6} {deed}");
        }
        self.outages.sort_unstable();
        let at = |percent: usize| {
            self.outages.get((self.outages.len() * percent / 100).min(self.outages.len().saturating_sub(1)))
        };
        if let (Some(p50), Some(p99), Some(most)) = (at(50), at(99), self.outages.last()) {
            let count = self.outages.len();
            println!(
                "  no answer after a kill of the daemon: p50 {p50:.1?}, p99 {p99:.1?}, most {most:.1?} ({count} kills)"
            );
        }
        if let (Some(first), Some(last), Some(most)) =
            (self.memory_kib.first(), self.memory_kib.last(), self.memory_kib.iter().max())
        {
            println!("  the daemon's memory: {first} KiB at first, {last} KiB at last, {most} KiB at most");
        }
    }
}
