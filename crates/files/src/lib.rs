//! The files of a running sandbox, over two streams of bytes: requests go to the guest, answers come back. Watching is
//! a stream of events alone.
//!
//! ```text
//!   FilesClient ──requests, several at once──▶ Carrier ──bytes──▶ (a session's stdin)  ──▶ serve::serve ──▶ the root's files
//!        ▲                                        │                                             │
//!        └──────── answers, by number ────────────┴◀──bytes── (a session's stdout) ◀────────────┘
//! ```
//!
//! * [`request`], [`answer`], [`event`] and [`frame`]: what is said, and how it lies in a stream.
//! * [`serve`] and [`watch`]: the guest's side, blocking, in a process of its own.
//! * [`client`]: the host's side, for any runtime: it makes and reads bytes, and whoever has a session carries them.
//!
//! Nothing that a guest answers is believed: frames are bounded, numbers have to be ones that were asked for, and an
//! answer has to suit its question.
//!
//! May know: the files of a Linux system. May not: sessions, sandboxes, any runtime.

pub mod answer;
pub mod client;
pub mod error;
pub mod event;
pub mod frame;
pub mod path;
pub mod request;
pub mod serve;
pub mod watch;

pub use answer::{Answer, Entry, FileKind, Space, Stat, Time};
pub use client::{Carrier, FilesClient, FilesError};
pub use error::{FileError, FileErrorKind};
pub use event::WatchEvent;
pub use request::{Change, OpenFlags, Request};

/// Most bytes of a file in one request or answer.
pub const DATA_MAX: usize = 64 << 10;
/// Most files and directories that a client can have open at once.
pub const HANDLES_MAX: usize = 256;
/// Most bytes of a path, as the system has it.
pub const PATH_MAX: usize = 4095;
/// Most bytes of a name in one.
pub const NAME_MAX: usize = 255;
