//! The host's side of sessions: commands beside a guest's workload, over one port of it.
//!
//! ```text
//!   SessionLink (handle, any task) ──asks──▶┐                        ┌──frames──▶ sessions.in
//!   clients ──requests──▶ Clients ─────────▶│ Link (task) ─▶ SessionTable (pure)
//!           ◀──events────         ◀─────────┘                        └◀─frames─── sessions.out
//! ```
//!
//! **At rest** a link is nothing: its FIFOs are opened and its task begins with the first call. A mark in the runtime
//! directory tells the next daemon that there may be sessions; then it asks for them at once, since a client that does not
//! come back is waited for only so long. All links' tasks are on one [thread] of their own.
//!
//! ```text
//!   unused ──first call, or marked──▶ in use ──the guest is gone──▶ over: what came is served while anybody has it
//!      ▲                                │ │                            ▲
//!      └── port cannot be opened, or ───┘ └── what it says is broken ──┘
//!          no sessions for a while
//! ```
//!
//! The guest is hostile: what it sends is bounded in size by the reader and the limits that it was given, and checked by
//! [`table`] one by one. Anything else ends its sessions, and nothing besides.

mod broken;
mod clients;
mod input;
mod link;
mod output;
mod port;
mod session;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod thread;
mod wire;

pub(crate) use link::{LinkEnd, SessionLink};
#[cfg(feature = "krun-driver")]
pub(crate) use port::leave_out;
pub(crate) use port::{OUT, check, was_used};
pub(crate) use task::vmm_ended;
