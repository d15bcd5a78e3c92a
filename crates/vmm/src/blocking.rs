//! Work that may wait for a disk or the kernel, but not for long, off the thread that asks for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// There is no answer: the work panicked, or its runtime ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("work on another thread was lost: it panicked, or its runtime ended")]
pub struct WorkLost;

/// Runs `work` on a thread for such work. On a host without room for another thread, where tokio panics, it runs on
/// this one: that is held up for a moment, which is better than a microVM whose supervision ends for want of a thread.
///
/// # Errors
/// See [`WorkLost`].
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, WorkLost> {
    let (done, result) = oneshot::channel();
    let work = Arc::new(Mutex::new(Some(move || drop(done.send(work())))));
    let theirs = work.clone();
    if catch_unwind(AssertUnwindSafe(|| drop(spawn_blocking(move || run(&theirs))))).is_err() {
        run(&work);
    }
    result.await.map_err(|_| WorkLost)
}

/// The same for work whose errors are the system's.
///
/// # Errors
/// The work's own; [`WorkLost`] as one of the kind `Other`.
pub async fn blocking_io<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    blocking(work).await.map_err(io::Error::other)?
}

/// Runs it unless it has been run.
fn run(work: &Mutex<Option<impl FnOnce()>>) {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(work) = work {
        work();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_or_the_panic_is_heard() {
        assert_eq!(blocking(|| 7).await, Ok(7));
        assert_eq!(blocking(|| assert_eq!(1, 2)).await, Err(WorkLost));
        let missing = blocking_io(|| std::fs::read("/nowhere")).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
