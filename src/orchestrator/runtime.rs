//! The tokio runtimes of the orchestrator's threads.
//!
//! Work that blocks goes to threads beside each of them. Tokio makes such a thread when it is needed, ends it
//! soon after, and panics when there is none and none can be made. Ours stay, the first one from the
//! beginning: on a host without room for another thread, work waits for them.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Threads for blocking work of one runtime at most. They read and write small files, mostly.
const BLOCKING_THREADS: usize = 32;
/// Longer than any orchestrator lives.
const KEEP: Duration = Duration::from_hours(10 * 365 * 24);

/// A runtime of one thread, for a System or an Arbiter.
///
/// # Errors
/// The system's: no descriptor, no thread.
pub(super) fn make() -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(KEEP).build()?;
    drop(runtime.handle().spawn_blocking(|| ()));
    Ok(runtime)
}
