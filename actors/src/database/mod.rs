//! The one writer of the SQLite file: status of every sandbox, and its history.
//!
//! ```text
//!   BeginStart       ─▶ pending ─┐
//!   RecordTransition ─▶ pending ─┤   idle: one transaction for all that is pending ([`batch`]),
//!   RemoveSandbox    ─▶ pending ─┤
//!   RenameSandbox    ─▶ pending ─┼─▶ durable (WAL, synchronous=FULL), then all answers;
//!   Flush            ─▶ pending ─┘   a host that cannot write now refuses all at once
//!   RecordHealth ─▶ the latest one ──▶ goes with the next batch, or begins one where it is news
//! ```
//!
//! Group commit: while one batch is being written, the next one gathers. A sender that goes away
//! does not take its update with it. Nobody is refused later than one busy time-out of SQLite after
//! the first try that could have written for him.
//!
//! A module for each noun, with its messages, what the actor does with them, and their SQL. Every message has a
//! reply: what it asked to write is durable when that is `Ok`.

mod actor;
mod batch;
mod erase;
mod error;
mod events;
mod file;
mod flush;
mod health;
mod images;
mod jobs;
mod recorder;
mod renames;
mod retention;
mod sandboxes;
mod sql;
#[cfg(test)]
mod tests;
mod transitions;
mod write_faults;

pub use actor::Database;
pub use error::DatabaseError;
pub use events::{EventPage, GetOutOfMemory, ListEvents, RecordEvent, WatchEvents};
pub use file::DatabaseFile;
pub use flush::{CloseDatabase, Flush};
pub use health::RecordHealth;
pub use images::{ImageRow, ListImages, ReplaceImages};
pub use jobs::{AddJob, EndJob, GetJob, JobRow, ListJobs, MarkJobBegun, RemoveJobs};
pub use recorder::record_all;
pub use renames::{ForgetRename, ListUnfinishedRenames, PlanRename, RenameSandbox, UnfinishedRename};
pub use retention::{EVENTS_KEPT, EVENTS_KEPT_OF_SANDBOX, OWN_EVENTS_KEPT, STARTS_KEPT};
pub use sandboxes::{
    BeginStart, CountSandboxes, EverySandbox, GetSandbox, ListEverySandbox, ListKeys, ListSandboxes, RemoveSandbox,
};
pub use transitions::{ListTransitions, RecordTransition};
