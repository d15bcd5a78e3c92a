//! Short reads of files, on the runtime of whoever asks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::task::spawn_blocking;

/// Runs `work` off this thread. On a host without room for another thread it runs here: tokio panics then, and
/// a reader that holds its thread up for a moment is better than one that is cut off.
///
/// # Errors
/// The runtime ends, or `work` panicked.
pub async fn off_this_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RecvError> {
    let (done, result) = oneshot::channel();
    let work = Arc::new(Mutex::new(Some(move || drop(done.send(work())))));
    let theirs = work.clone();
    if catch_unwind(AssertUnwindSafe(|| drop(spawn_blocking(move || run(&theirs))))).is_err() {
        run(&work);
    }
    result.await
}

/// Runs it unless somebody else does.
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
        assert_eq!(off_this_thread(|| 7).await, Ok(7));
        assert!(off_this_thread(|| assert_eq!(1, 2)).await.is_err());
    }
}
