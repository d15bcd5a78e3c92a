//! Random numbers that a seed repeats (splitmix64).

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Those of a run, whose seed is printed; `SANDPEN_TEST_SEED` repeats it.
    pub fn of_this_run() -> Self {
        let seed = std::env::var("SANDPEN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("SANDPEN_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Lets a random time pass: what is random about a test, not a wait for something.
    pub fn pause(&mut self, limit_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.below(limit_ms * 1000)));
    }
}
