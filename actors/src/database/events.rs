//! Events: everything that happened, in one order, for whoever looks on.
//!
//! Transitions and removals of sandboxes come here by trigger, in the statement that makes them
//! true; what is told of the orchestrator itself is recorded with [`RecordEvent`](super::RecordEvent). A
//! reader asks for pages from a number on and is woken by [`WatchEvents`](super::WatchEvents): it reads the table, so that a slow one
//! holds up nobody and misses nothing.

/// So many events are kept; older ones go. At some 400 bytes each about 40 MB.
pub const EVENTS_KEPT: u64 = 100_000;
