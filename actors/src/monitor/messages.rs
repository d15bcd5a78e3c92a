//! What a monitor takes (commands) and tells (events).

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use sandpen_types::row::SandboxRow;
use sandpen_types::signal::Signal;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::{SandboxState, StoppedBy};
use sandpen_vmm::driver::GuestSession;

use super::MonitorError;
use crate::runtime::hosting::DownReason;

/// Ends the microVM: a signal to the workload, after `grace` SIGTERM to the VMM, then SIGKILL.
/// Answers as soon as STOPPING is recorded.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), MonitorError>")]
pub struct Stop {
    /// How long the workload may take.
    pub grace: Duration,
    /// What asks it; `None` for the signal of its specification.
    pub signal: Option<Signal>,
    /// Who asks.
    pub by: StoppedBy,
}

/// SIGKILL ends the VMM process at once; any other signal goes to the workload.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), MonitorError>")]
pub struct Kill {
    /// The signal's number.
    pub signal: i32,
}

/// The monitor's own view.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "SandboxState")]
pub struct GetState;

/// Resolves when the monitor has its microVM, made or found; `Ended` when there is none.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), MonitorError>")]
pub struct AwaitProcess;

/// Lets go of the microVM without touching it; somebody else will adopt it. The monitor ends.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Abandon;

/// The way to its guest; `None` before there is a microVM, and where it ends before the one that runs is found again.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Option<Arc<dyn GuestSession>>")]
pub struct GetGuest;

/// A durable state change.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct StateChanged {
    /// The row after it.
    pub row: Arc<SandboxRow>,
}

/// A monitor is gone, in whatever way. The last thing that is heard of it.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Down {
    /// Its sandbox.
    pub key: SandboxKey,
    /// Its generation.
    pub generation: u64,
    /// How it ended.
    pub reason: DownReason,
    /// Whether nothing is left of its microVM.
    pub released: bool,
}
