//! The one thread on which all links with guests' sessions run: their bytes hold up nobody else.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Its name, for people who look at a process's threads.
const NAME: &str = "sessions";

/// Its runtime; begun at the first call, and there for as long as the process is.
///
/// # Errors
/// When there is no room for a thread; the next call tries again.
pub(super) fn handle() -> io::Result<Handle> {
    static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);
    let mut begun = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*begun {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(NAME.to_owned()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(begun.insert(handle).clone())
}
