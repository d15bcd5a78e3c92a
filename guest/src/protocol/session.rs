//! The session port: commands beside the workload, each with streams of its own, over one virtio port.
//!
//! ```text
//!   host                                            guest
//!    │ ── Resume (a new epoch) ──────────────────────▶ │   once for each host; unfinished Opens are forgotten
//!    │ ◀── Resumed, then State for each session ────── │
//!    │ ── Open, bytes of Spec ───────────────────────▶ │
//!    │ ◀── Started  or  Ended(NotStarted)  or  Refused │
//!    │ ── bytes of Stdin, EndInput ──────────────────▶ │   up to the limit of the last InputWindow
//!    │ ◀── InputWindow, InputClosed ────────────────── │
//!    │ ◀── bytes of Stdout and Stderr, StreamEnded ─── │   up to the limit of the last Taken
//!    │ ── Taken ─────────────────────────────────────▶ │   the guest forgets what was taken
//!    │ ── Resize, Signal, HangUp ────────────────────▶ │
//!    │ ◀── Ended ───────────────────────────────────── │   after both streams' ends
//!    │ ── Forget ────────────────────────────────────▶ │
//! ```
//!
//! **Nothing is lost or doubled.** Every byte of a stream has an offset. The guest keeps what was not `Taken`, at most a
//! window; after `Resume` it sends its streams again from there. The host sends input again from the `received` of a
//! `State`. So each side may die and be replaced at any moment, except for the guest, with which all sessions end.
//!
//! **Memory is bounded.** All windows of a guest share one budget, see [`Budget`]; a stream nobody reads stalls its own
//! program and nothing else.
//!
//! **Epochs.** `Resume` carries a random number in its header; every frame of either side has it from then on. What
//! either side finds of an earlier epoch is passed over, and no byte of a stream can pass for a frame to a host that joins
//! in the middle: nobody knows the number beforehand.

use std::time::Duration;

mod budget;
mod frame;
mod messages;
mod reader;
#[cfg(test)]
mod tests;
mod tool;

pub use budget::Budget;
pub use frame::{
    Content, Direction, GuestFrame, HostFrame, SESSION_HEADER_LEN, SessionFrame, SessionFrameError, SessionStream,
    encode_bytes, encode_message,
};
pub use messages::*;
pub use reader::SessionFrameReader;
pub use tool::Tool;

/// Name of the virtio port that sessions share.
pub const SESSIONS_PORT: &str = "org.sandpen.sessions";
/// How long what is hung up may take before it is killed.
pub const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// Most sessions of a guest at once, those included whose end was not forgotten.
pub const SESSIONS_MAX: usize = 256;
/// Most bytes that a host → guest frame carries: the whole frame is written in one piece on a pipe (`PIPE_BUF`).
pub const HOST_PAYLOAD_MAX: usize = super::ATOMIC_FRAME - SESSION_HEADER_LEN;
/// Most bytes that a guest → host frame carries: the whole frame is 32 KiB, which the kernel takes in one write.
pub const GUEST_PAYLOAD_MAX: usize = (32 << 10) - SESSION_HEADER_LEN;
/// Most bytes of an encoded [`SessionStart`]: those of a workload (`WORKLOAD_MAX_BYTES` of the spec), at most 1/128 of it
/// for lengths, and room for the rest.
pub const SPEC_MAX: usize = (1 << 20) + (64 << 10);
