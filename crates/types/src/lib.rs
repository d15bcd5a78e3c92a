//! What a sandbox is, can be and has been: the types that all of sandpen speaks of.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`spec`] | what is asked for: name, root, workload, limits; checked values |
//! | [`state`], [`transition`] | the state machine, and one step of a sandbox's row |
//! | [`row`], [`health`] | all that is known of a sandbox |
//! | [`event`], [`fault`] | what happened, and what can be wrong with the host |
//! | [`start_step`], [`output_stream`] | the steps of a start, and the workload's streams |
//! | [`reconcile`], [`disk`] | what bringing rows and processes together found; disks with names |
//! | [`state_dir`] | where everything of one state directory lies |
//! | [`error_chain`] | errors in one line |
//!
//! May know: serde, chrono, thiserror. May not: any other crate of sandpen, a file, a socket, a clock, a
//! thread. What is in here is the same on every host, and for a client that is not on the host at all.

pub mod disk;
pub mod error_chain;
pub mod event;
pub mod fault;
pub mod health;
pub mod output_stream;
pub mod reconcile;
pub mod row;
pub mod spec;
pub mod start_step;
pub mod state;
pub mod state_dir;
pub mod transition;
