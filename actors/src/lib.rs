//! Supervision, logs and durable status for microVMs, as actix actors.
//!
//! A [`driver::Driver`] makes the microVMs; this crate keeps them running, their output on file and their status in
//! the database. May know: types, the traits of a driver, actix, sqlx. May not: a driver, a VMM, HTTP, the command line.
//!
//! | actor | takes | tells |
//! | --- | --- | --- |
//! | [`supervisor::Supervisor`] | `StartSandbox AwaitStarted StopSandbox KillSandbox RemoveSandbox RenameSandbox ListDisks RemoveDisk ListVolumes RemoveVolume WaitSandbox AwaitRestart HoldRemoval OpenLog OpenGuest OpenSession AttachSession ListSessions StartJob WaitJob TellJob OpenJobLog OpenJobStdin SubscribeStateChanges Reconcile Shutdown` | |
//! | [`monitor::Monitor`], one per microVM | `Stop Kill GetState GetGuest AwaitProcess Abandon` | `StateChanged Down` |
//! | [`jobs::JobKeeper`], one per microVM | `UseGuest BeginJob AwaitJob PassToJob GetJobLog GetJobStdin GetHeldJobs CloseJobs` | |
//! | [`log_writer::LogWriter`], one per live sandbox and per running job | `AttachStream WriteChunk AwaitBytes GetOnFile Follow Subscribe Reopen Close` | `Appended LogFailed` |
//! | [`database::Database`] | `BeginStart RecordTransition GetOutOfMemory GetSandbox ListSandboxes ListEverySandbox CountSandboxes ListKeys ListTransitions RemoveSandbox PlanRename RenameSandbox ForgetRename ListUnfinishedRenames RecordEvent RecordHealth ReplaceImages ListImages AddJob MarkJobBegun EndJob RemoveJobs GetJob ListJobs ListEvents WatchEvents Flush CloseDatabase` | |
//!
//! Commands live with their receiver, events with their sender. Modules depend downwards only:
//!
//! ```text
//!   supervisor
//!   monitor
//!   jobs
//!   log_writer, database, vmm_log
//!   telemetry (faults ─▶ counters, outbox)    runtime (actor_ref ─▶ hosting, intensity)
//!   host (room ─▶ fault_of, clock ─▶ readable, spec_on_host)
//!   what a driver promises (sandpen-vmm), the types (sandpen-types)
//! ```
//!
//! [`telemetry::faults::Faults`], with the [`telemetry::counters`], is handed down to all of them, and with each start
//! its [`start_timings::StartTimings`].

#[cfg(panic = "abort")]
compile_error!("sandpen isolates faults by unwinding: panic = \"abort\" would end every sandbox's supervision at once");

#[cfg(all(feature = "testing", not(debug_assertions)))]
compile_error!("the feature `testing` runs host commands without isolation and never belongs into a release build");

pub mod database;
pub mod host;
pub mod jobs;
pub mod log_writer;
pub mod monitor;
pub mod runtime;
pub mod supervisor;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vmm_log;

// What an embedding application speaks of with these actors.
pub use sandpen_types::{
    disk, event, fault, health, history, output_stream, reconcile, row, spec, start_step, state, state_dir, transition,
};
pub use sandpen_vmm::{driver, start_timings};
