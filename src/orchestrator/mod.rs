//! The library's front door: [`Sandpen`] owns the thread on which the actors live, [`Handle`] is how
//! any thread and any runtime uses them.
//!
//! ```text
//!   Sandpen::builder()…start() ── lock ── thread: System ┬ control arbiter: supervisor, monitors
//!                                                       ├ database arbiter
//!                                                       └ log arbiters
//!   shutdown(grace): refuse new ─ stop all ─ flush ─ stop arbiters ─ join thread ─ unlock
//! ```
//!
//! The actors never share a thread with the application: a busy handler of the application cannot
//! hold up a sandbox, and ending the application's own actix System does not end ours.

mod builder;
mod disk_usage;
mod error;
mod events;
mod files;
mod handle;
mod images;
mod lock;
mod output;
mod runtime;
mod session;
mod thread;
mod vmm_log;
mod window;

pub use builder::{Sandpen, SandpenBuilder};
pub use disk_usage::PruneOptions;
pub(crate) use error::session_code;
pub use error::{SandpenError, StartError};
pub use events::{Events, EventsOptions};
pub use files::{FileRange, FileRead, FileWatch, FileWrite, Files};
pub use handle::{Handle, SavedImages, StatsOptions, StdinWriter};
pub use images::{
    ArchiveFormat, ImageError, ImageInfo, ImageSource, LoadOptions, PullError, PullMirror, PullRequest, PushError,
    PushRequest, PushedImage, RegistryAccess, WorkError,
};
pub use lock::LockError;
pub use output::{Output, OutputOptions};
pub use session::{Session, SessionOutput, SessionStdin};
pub use vmm_log::{VmmLog, VmmLogOptions};
