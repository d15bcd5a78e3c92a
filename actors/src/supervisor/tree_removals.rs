//! The thread that deletes what is out of everybody's way already: one tree at a time, when nobody else needs the
//! processor, and only while there is one.
//!
//! ```text
//!   none ──a path──▶ deleting, the next ones wait ──last one done──▶ none
//!                        └─ the last supervisor is gone ─▶ none; what is left is found at the next start
//! ```
//! A tree that a guest wrote takes minutes to go. Nobody's answer, and not the end of this process, waits for that.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandpen_vmm::tree;

/// How much the thread gives way to others: setpriority(2) has none that is less important.
const NICE_MOST: i32 = 19;

/// How supervisors, one after the other, hand trees over. The thread ends soon after the last of these.
#[derive(Clone)]
pub(super) struct TreeRemovals {
    queue: Arc<Queue>,
    _owner: Arc<Owner>,
}

struct Queue {
    state: Mutex<State>,
    is_over: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<PathBuf>,
    has_thread: bool,
}

/// Ends the thread when the last who could hand something over is gone.
struct Owner(Arc<AtomicBool>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl TreeRemovals {
    /// None yet.
    pub(super) fn new() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let queue = Queue { state: Mutex::default(), is_over: is_over.clone() };
        Self { queue: Arc::new(queue), _owner: Arc::new(Owner(is_over)) }
    }

    /// Has these deleted, with all that is in them. They must have no name that anybody uses.
    pub(super) fn delete(&self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut state = self.queue.state();
        state.waiting.extend(paths);
        if state.waiting.is_empty() || state.has_thread {
            return;
        }
        let queue = self.queue.clone();
        let thread = std::thread::Builder::new().name("sandpen-removal".to_owned()).spawn(move || queue.work_off());
        match thread {
            Ok(_) => state.has_thread = true,
            // The next one that is handed over tries again, and so does the next start.
            Err(error) => tracing::warn!(%error, "removed volumes take room until later: no thread for them"),
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<PathBuf> {
        let mut state = self.state();
        let next = state.waiting.pop_front().filter(|_| !self.is_over());
        state.has_thread = next.is_some();
        next
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn work_off(&self) {
        // Of this thread alone: on Linux each has its own.
        let _ = rustix::process::setpriority_process(None, NICE_MOST);
        while let Some(path) = self.next() {
            match tree::remove(&path, &|| !self.is_over()) {
                Ok(()) => tracing::debug!(?path, "deleted"),
                Err(_) if self.is_over() => {}
                Err(error) => {
                    tracing::warn!(?path, %error, "a removed volume cannot be deleted; the next start tries again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    fn until(what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn tree(at: &Path) -> PathBuf {
        fs::create_dir_all(at.join("x/y/z")).unwrap();
        at.to_owned()
    }

    #[test]
    fn trees_go_one_after_the_other_and_the_thread_with_the_last() {
        let temp = tempfile::tempdir().unwrap();
        let removals = TreeRemovals::new();
        for round in 0..3 {
            let trees = [0, 1, 2].map(|i| tree(&temp.path().join(format!("{round}-{i}"))));
            removals.clone().delete(trees.iter().cloned().chain([temp.path().join("never there")]));
            until("all are gone", || trees.iter().all(|tree| !tree.exists()));
            until("its thread has ended", || !removals.queue.state().has_thread);
        }
    }

    #[test]
    fn nothing_is_deleted_for_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let removals = TreeRemovals::new();
        let queue = removals.queue.clone();
        drop(removals.clone());
        assert!(!queue.is_over());
        drop(removals);
        let left = tree(&temp.path().join("left"));
        let mut state = queue.state();
        state.waiting.push_back(left.clone());
        state.has_thread = true;
        drop(state);
        queue.work_off();
        assert!(left.join("x/y/z").exists() && !queue.state().has_thread);
        assert!(tree::remove(&left, &|| !queue.is_over()).is_err());
    }
}
