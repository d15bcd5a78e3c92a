//! How long a thread was on a processor.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// Of the thread with this directory below /proc; for a process's own, its first thread, be it ended and not reaped.
pub fn cpu_of(thread: &Path) -> Result<Duration, Box<dyn Error>> {
    // Nanoseconds on a processor come first (proc_pid_schedstat of the kernel's documentation).
    let text = std::fs::read_to_string(thread.join("schedstat"))?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).ok_or("no schedstat")?;
    Ok(Duration::from_nanos(nanos))
}
