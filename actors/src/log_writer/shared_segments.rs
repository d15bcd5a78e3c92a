//! The segments that a log's followers read: opened once, shared by all, forgotten when nobody reads them.

use std::path::Path;
use std::sync::{Arc, Weak};

use super::LogError;
use super::follower::Queue;
use super::segment::{self, Hold, Segment};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SharedSegments {
    /// The newest one, which followers may hold while the writer has closed it.
    newest: Weak<Segment>,
    rotated: Vec<Weak<Segment>>,
    followers: Vec<Weak<Queue>>,
}

impl SharedSegments {
    /// The newest one, if somebody holds it.
    pub fn newest(&self) -> Option<Arc<Segment>> {
        self.newest.upgrade()
    }

    /// The newest one is `segment`: followers get it, unless they have it.
    pub fn begin(&mut self, segment: &Arc<Segment>) {
        if !self.newest().is_some_and(|newest| Arc::ptr_eq(&newest, segment)) {
            self.newest = Arc::downgrade(segment);
            self.followers.retain(|queue| queue.upgrade().is_some_and(|queue| queue.push(Arc::clone(segment))));
        }
    }

    /// Nothing more is added to the newest one, which ends at `end`.
    pub fn seal(&mut self, end: u64) {
        if let Some(segment) = self.newest() {
            let _ = segment.sealed.set(end);
            self.rotated.retain(|segment| segment.strong_count() > 0);
            self.rotated.push(Arc::downgrade(&segment));
        }
        self.newest = Weak::new();
    }

    /// A follower of the files from `start` on that end before `end`, then of `current` and of what follows it.
    /// Answers also the first position that is there.
    pub fn follow(
        &mut self,
        log: &Path,
        start: u64,
        end: u64,
        current: Option<&Arc<Segment>>,
    ) -> Result<(Arc<Queue>, u64), LogError> {
        let to = current.map_or(end, |segment| segment.header.base);
        let mut segments = Vec::new();
        if start < to {
            for segment in segment::open_chain(log, start, to, Hold::Newest)?.segments {
                let mut known = self.rotated.iter().filter_map(Weak::upgrade);
                let shared = known.find(|known| {
                    known.header.base == segment.header.base && known.sealed.get() == segment.sealed.get()
                });
                segments.push(shared.unwrap_or_else(|| {
                    self.rotated.push(Arc::downgrade(&segment));
                    segment
                }));
            }
        }
        segments.extend(current.map(Arc::clone));
        let oldest = segments.first().map_or(end, |segment| segment.header.base);
        let queue = Arc::new(Queue::new(segments));
        self.followers.retain(|queue| queue.strong_count() > 0);
        self.followers.push(Arc::downgrade(&queue));
        Ok((queue, oldest))
    }

    /// The rotated ones that are known.
    #[cfg(test)]
    pub fn rotated(&self) -> Vec<Option<Arc<Segment>>> {
        self.rotated.iter().map(Weak::upgrade).collect()
    }
}
