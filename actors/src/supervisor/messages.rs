//! What the supervisor takes. These are the public messages: an application's own actors send them
//! to the supervisor ([`ActorRef`](crate::runtime::actor_ref::ActorRef)).

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Message, Recipient};
use sandpen_types::disk::NamedDisk;
use sandpen_types::reconcile::ReconcileReport;
use sandpen_types::row::{SandboxId, SandboxRow};
use sandpen_types::session::{SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_types::signal::Signal;
use sandpen_types::spec::{CheckedSpec, DiskName, SandboxKey, VolumeName};
use sandpen_types::volume::NamedVolume;
use sandpen_vmm::driver::GuestSession;
use sandpen_vmm::sessions::{Attachment, SessionRequest};

use super::{RemovalHold, SupervisorError};
use crate::database::JobRow;
use crate::jobs::JobStdin;
use crate::log_writer::LogWriter;
use crate::monitor::StateChanged;

/// Starts a sandbox, new or ended. Answers when it is RUNNING or has ended (a workload that could
/// not be started, or was faster than the answer): look at the row's state.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, SupervisorError>")]
pub struct StartSandbox {
    /// What to start.
    pub spec: CheckedSpec,
    /// The ended sandbox that is started again, with its disk; without one, a new sandbox, or an ended one of that name
    /// anew.
    pub again: Option<SandboxId>,
}

impl StartSandbox {
    /// With an empty disk.
    pub fn anew(spec: CheckedSpec) -> Self {
        Self { spec, again: None }
    }
}

/// Answers as [`StartSandbox`] does for a start that is under way, or the row of a sandbox that runs.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, SupervisorError>")]
pub struct AwaitStarted {
    /// Which.
    pub key: SandboxKey,
}

/// Ends a sandbox gracefully and answers its row when it has ended. No restart follows.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, SupervisorError>")]
pub struct StopSandbox {
    /// Which.
    pub key: SandboxKey,
    /// How long the workload may take after it was asked.
    pub grace: Duration,
    /// What asks it; `None` for the signal of its specification.
    pub signal: Option<Signal>,
}

/// Sends a signal; with SIGKILL answers its row when it has ended, else at once.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, SupervisorError>")]
pub struct KillSandbox {
    /// Which.
    pub key: SandboxKey,
    /// The signal's number.
    pub signal: i32,
}

/// Removes an ended sandbox: row, history, logs. With `force` a live one is killed first.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), SupervisorError>")]
pub struct RemoveSandbox {
    /// Which.
    pub key: SandboxKey,
    /// Whether a live one is killed first.
    pub force: bool,
}

/// Gives an ended sandbox another name, which nobody may have; answers its row.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, SupervisorError>")]
pub struct RenameSandbox {
    /// Which.
    pub from: SandboxKey,
    /// Its new name.
    pub to: SandboxKey,
}

/// Lists the disks with names of their own, by name.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<NamedDisk>, SupervisorError>")]
pub struct ListDisks;

/// Removes a named disk that no live sandbox has.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), SupervisorError>")]
pub struct RemoveDisk {
    /// Which.
    pub name: DiskName,
}

/// Lists the volumes with names of their own, by name.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<NamedVolume>, SupervisorError>")]
pub struct ListVolumes;

/// Removes a named volume that no sandbox has, with all that is in it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), SupervisorError>")]
pub struct RemoveVolume {
    /// Which.
    pub name: VolumeName,
}

/// Answers the row when the sandbox has ended and no restart is pending.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, SupervisorError>")]
pub struct WaitSandbox {
    /// Which.
    pub key: SandboxKey,
}

/// Keeps a sandbox that removes itself from going, at its end or with a
/// [`remove_delay`](sandpen_types::spec::SandboxSpec::remove_delay) after it, as long as the answer lives.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<RemovalHold, SupervisorError>")]
pub struct HoldRemoval {
    /// Which.
    pub key: SandboxKey,
}

/// The log writer of a live sandbox; `None` when all that there will be is on file. Between two log writers the
/// second one is waited for: who finds that the one of the answer has ended asks again.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Addr<LogWriter>>, SupervisorError>")]
pub struct OpenLog {
    /// Which.
    pub key: SandboxKey,
}

/// The way to the guest of a live sandbox: its standard input, its terminal. Between two monitors the second one is waited
/// for.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Arc<dyn GuestSession>, SupervisorError>")]
pub struct OpenGuest {
    /// Which.
    pub key: SandboxKey,
    /// Whether the guest of its helper will do, where it has ended.
    pub or_helper: bool,
}

/// Begins a session in a live sandbox: a command beside its workload. Resolves when its program runs or could not be
/// executed; what is there of that id already is answered as it is, so that it may be sent again. Between two monitors
/// the second one is waited for.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SessionInfo, SupervisorError>")]
pub struct OpenSession {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// What the session is called, at random.
    pub id: SessionId,
    /// What it runs.
    pub spec: SessionSpec,
}

/// Becomes the client of a session of a live sandbox. An attachment does not outlive the sandbox's monitor: ask again then.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Attachment, SupervisorError>")]
pub struct AttachSession {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// Which.
    pub id: SessionId,
    /// What the client has of its output; `None`: all that is kept is wanted.
    pub from: Option<SessionOffsets>,
}

/// The sessions of a live sandbox that are no jobs, oldest first.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<SessionInfo>, SupervisorError>")]
pub struct ListSessions {
    /// Of which sandbox.
    pub key: SandboxKey,
}

/// Begins a job in a live sandbox: a session whose output goes to a log of its own, and whose end is on record. Answers when
/// its program runs, or has its end if that could not be executed; asked again with one number, nothing runs twice. Between
/// two keepers of jobs the second one is waited for, here as by all that follow.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<JobRow, SupervisorError>")]
pub struct StartJob {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// What the job is called, at random.
    pub id: SessionId,
    /// What it runs.
    pub spec: SessionSpec,
}

/// Answers a job's row when its end is on record.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<JobRow, SupervisorError>")]
pub struct WaitJob {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// Which.
    pub id: SessionId,
}

/// Passes a signal for its process group, or a size of its terminal, on to a job that runs.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), SupervisorError>")]
pub struct TellJob {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// Which.
    pub id: SessionId,
    /// What.
    pub request: SessionRequest,
}

/// The log writer of a job that runs; `None` when all that there will be is on file.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Addr<LogWriter>>, SupervisorError>")]
pub struct OpenJobLog {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// Which.
    pub id: SessionId,
}

/// The standard input of a job that runs and has one.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<JobStdin, SupervisorError>")]
pub struct OpenJobStdin {
    /// Of which sandbox.
    pub key: SandboxKey,
    /// Which.
    pub id: SessionId,
}

/// Resolves to the number of a start of a sandbox that is later than `after`, once there is one, by the
/// restart policy; `None` when the sandbox has ended without one.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<u64>, SupervisorError>")]
pub struct AwaitRestart {
    /// Which.
    pub key: SandboxKey,
    /// The start that is known.
    pub after: u64,
}

/// Sends every durable state change to `recipient` from now on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct SubscribeStateChanges {
    /// Who gets them.
    pub recipient: Recipient<StateChanged>,
}

/// Brings rows and processes together: live microVMs are adopted, rows without one are resolved, and
/// what belongs to nobody is removed. To be sent before anything else; later whenever one likes, also
/// while sandboxes start and end.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<ReconcileReport, SupervisorError>")]
pub struct Reconcile;

/// Refuses new work, stops every sandbox with this grace, answers when all have ended. While the host keeps
/// their states or logs from being written, it waits no longer than the grace and [`RECORD_LIMIT`](super::RECORD_LIMIT);
/// the answer names those whose end is left to the next orchestrator.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<SandboxKey>")]
pub struct Shutdown {
    /// How long workloads may take after SIGTERM; `None` leaves the microVMs running for the next
    /// orchestrator to adopt.
    pub grace: Option<Duration>,
}
