//! The control protocol between a host and the PID 1 of its guest.
//!
//! Two virtio ports carry frames (see [`frame`]); two more carry the workload's bare output, one single bytes of the
//! process that shares the host's files, and one all that runs beside the workload:
//!
//! | port | host → guest | guest → host |
//! | --- | --- | --- |
//! | [`CONTROL_PORT`] | [`HostMessage`] | [`GuestMessage`] |
//! | [`STDIN_PORT`] | [`StdinMessage`] | |
//! | [`STDOUT_PORT`], [`STDERR_PORT`] | | the workload's bytes |
//! | [`FILES_PORT`] | [`DROP_CACHES`], [`FILES_LIMIT_MET`] | |
//! | [`session::SESSIONS_PORT`] | commands beside the workload, see [`session`] | their streams |
//!
//! ```text
//!   guest                               host
//!     │ ───────────── Ready ─────────────▶ │
//!     │ ◀──────────── Start ────────────── │
//!     │ ──── Started  or  NotStarted ────▶ │
//!     │ ◀──────────── Signal ───────────── │  any number
//!     │ ───────────── Exit ──────────────▶ │  (after Started only)
//!     │ ◀──────── AcknowledgeExit ──────── │  all output is on file, the end is recorded
//!     ╵ powers off                         ╵
//! ```
//!
//! A host that lost its memory (a restarted daemon) skips to the next whole frame and sends
//! [`HostMessage::Query`]; the [`GuestMessage::Status`] that answers it repeats everything that
//! counts, so a lost `Exit` is not lost.
//!
//! Each side treats what it reads by its own trust: the guest believes the host; the host believes
//! nothing, bounds everything and ends a guest that breaks the order above.

pub mod frame;
mod frame_buffer;
mod messages;
pub mod session;
mod settings;
mod start;
#[cfg(test)]
mod tests;

pub use frame::{FrameError, FrameReader, Garbage, HEADER_LEN, Message, encode};
pub use messages::*;
pub use settings::{Begin, Settings, Tmpfs};
pub use start::*;

/// Version of messages and framing. Every frame carries it, and [`GuestMessage::Ready`] names it:
/// host and guest must have the same, since both are built from one tree.
pub const PROTOCOL_VERSION: u8 = 1;

/// Name of the virtio port that carries [`HostMessage`] and [`GuestMessage`].
pub const CONTROL_PORT: &str = "org.sandpen.control";
/// Name of the virtio port that carries [`StdinMessage`].
pub const STDIN_PORT: &str = "org.sandpen.stdin";
/// Name of the virtio port that carries the workload's standard output.
pub const STDOUT_PORT: &str = "org.sandpen.stdout";
/// Name of the virtio port that carries the workload's standard error.
pub const STDERR_PORT: &str = "org.sandpen.stderr";
/// Name of the virtio port on which whoever shares the host's files speaks to the guest, in single bytes.
pub const FILES_PORT: &str = "org.sandpen.files";
/// On [`FILES_PORT`]: the guest's kernel shall forget files that are not in use.
pub const DROP_CACHES: u8 = b'd';
/// On [`FILES_PORT`]: the guest needs more files at once than the host's limit of open files allows.
pub const FILES_LIMIT_MET: u8 = b'l';
/// virtiofs tag of a root directory.
pub const ROOTFS_TAG: &str = "sandpen-root";
/// Name of the file in the share of a [`Volume`] that is one file.
pub const VOLUME_FILE: &str = "file";

/// Largest frame, header included, that is written in one piece on a pipe (`PIPE_BUF` of Linux):
/// every host → guest frame but [`HostMessage::Start`], [`HostMessage::Begin`] and [`HostMessage::Idle`].
pub const ATOMIC_FRAME: usize = 4096;
/// Most bytes in one [`StdinMessage::Bytes`], so that its frame stays within [`ATOMIC_FRAME`].
pub const STDIN_CHUNK: usize = 4000;
