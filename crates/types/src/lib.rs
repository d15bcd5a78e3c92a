//! What a sandbox is, can be and has been: the types that all of sandpen speaks of.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`spec`] | what is asked for: name, root, workload, limits; checked values |
//! | [`state`], [`transition`], [`history`] | the state machine, one step of a sandbox's row, and which of them are asked for |
//! | [`row`], [`health`] | all that is known of a sandbox |
//! | [`event`], [`fault`] | what happened, and what can be wrong with the host |
//! | [`start_step`], [`output_stream`], [`log_start`] | the steps of a start; the workload's streams, and where reading them begins |
//! | [`reconcile`], [`disk`], [`disk_usage`] | what bringing rows and processes together found; disks with names; what takes room |
//! | [`stats`] | what a sandbox takes of its host at one moment |
//! | [`session`], [`session_input`], [`job`], [`process_entry`] | commands beside the workload, what is written to them, and those that the orchestrator keeps; the processes of a sandbox |
//! | [`confinement`] | what a process that serves a microVM has given up |
//! | [`units`], [`moment`], [`signal`] | amounts, points in time and signals as users write them |
//! | [`image`], [`registry`], [`default_registry`] | names and digests of images; registries and mirrors; what a name without one is of |
//! | [`state_dir`] | where everything of one state directory lies |
//! | [`backoff`], [`error_chain`] | when to try again; errors in one line |
//! | [`visible`] | text of somebody else, made harmless for a terminal |
//!
//! Whatever a command line or a file can say of a sandbox is read here (`FromStr`), next to its type.
//!
//! May know: serde, chrono, humantime, thiserror. May not: any other crate of sandpen, a file, a socket, a clock, a
//! thread. What is in here is the same on every host, and for a client that is not on the host at all.

pub mod backoff;
pub mod confinement;
pub mod default_registry;
pub mod disk;
pub mod disk_usage;
pub mod error_chain;
pub mod event;
pub mod fault;
pub mod guest_tool;
pub mod health;
pub mod history;
pub mod image;
pub mod image_changes;
pub mod job;
pub mod log_start;
pub mod moment;
pub mod output_stream;
pub mod process_entry;
pub mod reconcile;
pub mod registry;
pub mod row;
pub mod session;
pub mod session_input;
mod sha256;
pub mod signal;
pub mod spec;
pub mod start_step;
pub mod state;
pub mod state_dir;
pub mod stats;
pub mod transition;
pub mod units;
pub mod visible;
pub mod volume;
