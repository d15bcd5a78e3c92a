//! Supervision, logs and durable status for microVMs, as actix actors.
//!
//! No VMM, no HTTP and no command line in here: a [`driver::Driver`] makes the microVMs, and this
//! crate keeps them running, their output on file and their status in the database.
//!
//! | actor | takes | tells |
//! | --- | --- | --- |
//! | [`supervisor::Supervisor`] | `StartSandbox AwaitStarted StopSandbox KillSandbox RemoveSandbox ListDisks RemoveDisk WaitSandbox AwaitRestart HoldRemoval OpenLog OpenGuest SubscribeStateChanges Reconcile Shutdown` | |
//! | [`monitor::Monitor`], one per microVM | `Stop Kill GetState GetGuest AwaitProcess Abandon` | `StateChanged Down` |
//! | [`log_writer::LogWriter`], one per live sandbox | `AttachStream WriteChunk AwaitBytes Follow Subscribe Reopen Close` | `Appended LogFailed` |
//! | [`database::Database`] | `BeginStart RecordTransition GetSandbox ListSandboxes CountSandboxes ListLiveKeys ListTransitions RemoveSandbox RecordEvent RecordHealth ListEvents WatchEvents Flush CloseDatabase` | |
//!
//! Commands live with their receiver, events with their sender. Modules depend downwards only:
//!
//! ```text
//!   supervisor
//!   monitor
//!   log_writer, database ─▶ actor_ref ─▶ hosting, intensity
//!   room ─▶ faults ─▶ outbox, counters, clock ─▶ readable
//!   what a driver promises (sandpen-vmm), the types (sandpen-types)
//! ```
//!
//! [`faults::Faults`], with the [`counters`], is handed down to all of them, and with each start its
//! [`start_timings::StartTimings`].

#[cfg(panic = "abort")]
compile_error!("sandpen isolates faults by unwinding: panic = \"abort\" would end every sandbox's supervision at once");

#[cfg(all(feature = "testing", not(debug_assertions)))]
compile_error!("the feature `testing` runs host commands without isolation and never belongs into a release build");

pub mod actor_ref;
pub mod clock;
pub mod counters;
pub mod database;
#[cfg(any(test, feature = "testing"))]
pub mod fake_driver;
pub mod faults;
pub mod hosting;
pub mod intensity;
pub mod log_writer;
pub mod long_answer;
pub mod monitor;
pub mod outbox;
#[cfg(feature = "testing")]
pub mod process_driver;
pub(crate) mod readable;
pub mod room;
pub mod spec_on_host;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing_panic;
pub mod vmm_log;

pub use sandpen_types::{backoff, event, fault, health, row, spec, state, state_dir, transition};
pub use sandpen_vmm::{blocking, driver, pidfd, process_identity, spare_descriptors, start_timings, waiter};
