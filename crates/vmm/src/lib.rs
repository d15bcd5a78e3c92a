//! What a driver promises, and how the processes of a microVM are kept from one orchestrator to the next.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`driver`] | the traits: who makes microVMs, acts on their processes, speaks with their guests |
//! | [`sessions`] | the same for commands beside the workload |
//! | [`waiter`] | the handle of the process between an orchestrator and a VMM, which outlives us |
//! | [`pidfd`], [`spare_descriptors`] | processes without races, descriptors kept for bad times |
//! | [`uid_block`] | uids of the host that are a sandbox's alone |
//! | [`process_owner`] | which processes are ours, and the user ids that root keeps for its sandboxes |
//! | [`cache_uses`] | what starts use of the cache, until that is forgotten |
//! | [`host_clock`] | that the host's clock was set |
//! | [`start_timings`] | where the time of a start goes |
//! | [`blocking`] | work that may wait for a disk, off the caller's thread |
//! | [`tree`] | directories that a guest wrote: removed, and measured |
//!
//! May know: the types, the waiter's records and wire, tokio. May not: a driver, an actor, the database, HTTP.

pub mod blocking;
pub mod cache_uses;
pub mod driver;
pub mod host_clock;
pub mod pidfd;
pub mod process_owner;
pub mod process_usage;
pub mod sessions;
pub mod spare_descriptors;
pub mod start_timings;
pub mod tree;
pub mod uid_block;
pub mod waiter;

pub use sandpen_waiter::process_identity;
