//! The files of this copy, which hard links may lead to.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Statx;

/// Most files that are kept, some ten megabytes; of a copy with more of them, the later ones are known by their time of birth.
const FILES_MAX: usize = 1 << 18;
/// How far a file system's clock may be behind: it counts in ticks.
const TICK: Duration = Duration::from_millis(100);

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// Which files were made.
pub(super) struct Made {
    /// By the hash of their paths, with a key that nobody knows.
    files: HashMap<u64, Identity>,
    key: RandomState,
    /// Since 1970.
    begun: Duration,
}

impl Made {
    pub(super) fn new() -> Self {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(TICK);
        Self { files: HashMap::new(), key: RandomState::new(), begun }
    }

    pub(super) fn add(&mut self, path: &[u8], identity: Identity) {
        let key = self.key.hash_one(path);
        if self.files.len() < FILES_MAX || self.files.contains_key(&key) {
            self.files.insert(key, identity);
        }
    }

    pub(super) fn find(&self, path: &[u8]) -> Option<Identity> {
        self.files.get(&self.key.hash_one(path)).copied()
    }

    /// Whether there may be files that are not kept.
    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= FILES_MAX
    }

    /// Whether something was made since the copy began, where its file system says when.
    pub(super) fn is_as_young(&self, looked: &Statx) -> bool {
        let born = looked.stx_btime;
        let seconds = u64::try_from(born.tv_sec).unwrap_or(0);
        seconds > 0 && Duration::new(seconds, born.tv_nsec) >= self.begun
    }
}

/// Names that nobody else has, for what has not got its own yet.
pub(super) struct TemporaryNames {
    key: RandomState,
    count: u64,
}

impl TemporaryNames {
    pub(super) fn new() -> Self {
        Self { key: RandomState::new(), count: 0 }
    }

    pub(super) fn next(&mut self) -> Vec<u8> {
        self.count += 1;
        format!(".sandpen-cp-{:016x}", self.key.hash_one(self.count)).into_bytes()
    }
}
