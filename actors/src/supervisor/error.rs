//! Why a request to the supervisor was not fulfilled.

use sandpen_types::session::SessionId;
use sandpen_types::spec::{DiskName, SandboxKey, SpecError, VolumeName};
use sandpen_vmm::driver::DriverError;
use sandpen_vmm::sessions::SessionError;

use crate::database::DatabaseError;
use crate::host::places::Nested;
use crate::host::room::NoRoom;
use crate::jobs::JobError;
use crate::log_writer::LogError;
use crate::monitor::MonitorError;

/// Why the supervisor refused or could not finish a request.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The specification was refused; nothing was changed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Another sandbox's guest could put something else in the place of what it is to have; nothing was changed.
    #[error(transparent)]
    Nested(#[from] Box<Nested>),
    /// The name is taken by a sandbox that has not ended; nothing was changed.
    #[error("sandbox {key} is already {status}; stop it first or use another name")]
    AlreadyLive {
        /// Which.
        key: SandboxKey,
        /// Its state's word.
        status: &'static str,
    },
    /// It has not ended; nothing was changed.
    #[error("sandbox {key} is {status}{advice}")]
    NotEnded {
        /// Which.
        key: SandboxKey,
        /// Its state's word.
        status: &'static str,
        /// What to do, after what is asked.
        advice: &'static str,
    },
    /// Another sandbox has the name; nothing was changed.
    #[error("there is a sandbox {key} already; use another name or remove it first")]
    NameTaken {
        /// The name.
        key: SandboxKey,
    },
    /// A rename that was cut off may have left files of that name; nothing was changed.
    #[error(
        "files of a renamed sandbox still have the name {key}; `sandpen reconcile` clears them away, or use another name"
    )]
    NameReserved {
        /// The name.
        key: SandboxKey,
    },
    /// Its files cannot have that name; nothing was changed.
    #[error("giving the files of a sandbox the name {key}")]
    RenameFiles {
        /// Its new name.
        key: SandboxKey,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What is left of an earlier sandbox of the name is being removed; nothing was changed.
    #[error("sandbox {key} is being removed; try again in a moment or use another name")]
    BeingRemoved {
        /// Which.
        key: SandboxKey,
    },
    /// There is no such sandbox.
    #[error("there is no sandbox {key}; `sandpen ps -a` lists all")]
    NotFound {
        /// Which.
        key: SandboxKey,
    },
    /// There will be nothing left of it to start again; nothing was changed.
    #[error(
        "sandbox {key} removes itself when it ends (--rm), so it cannot be started again; `sandpen run` starts another one"
    )]
    RemovesItself {
        /// Which.
        key: SandboxKey,
    },
    /// The sandbox has ended already.
    #[error("sandbox {key} is not running (it is {status}); `sandpen start {key}` starts one that has ended again")]
    NotLive {
        /// Which.
        key: SandboxKey,
        /// Its state's word.
        status: &'static str,
    },
    /// This process cannot hold more sandboxes.
    #[error(
        "no room for another sandbox: {live} live ones, and this process may open {limit} files; raise the limit on open files (ulimit -n)"
    )]
    OpenFiles {
        /// How many there are.
        live: usize,
        /// The limit on open files.
        limit: u64,
        /// How many it would keep open.
        needed: u64,
    },
    /// The state directory's disk takes nothing more.
    #[error(transparent)]
    Storage(#[from] NoRoom),
    /// The orchestrator is ending and takes no new work.
    #[error("sandpen is shutting down and starts nothing new")]
    ShuttingDown,
    /// No driver can be used.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The database refused.
    #[error("the status database could not be used")]
    Database(#[from] DatabaseError),
    /// The monitor refused.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// Files of a removed sandbox are still there.
    #[error("removing the log of sandbox {key}")]
    RemoveLog {
        /// Which.
        key: SandboxKey,
        /// The cause.
        #[source]
        source: LogError,
    },
    /// There is no such job of the sandbox, or no longer.
    #[error("sandbox {key} has no job {id}, or none any more; `sandpen jobs {key}` lists those that it has")]
    JobNotFound {
        /// Of which sandbox.
        key: SandboxKey,
        /// Which.
        id: SessionId,
    },
    /// What was asked for is of a job, not of a session that is there for a client.
    #[error("{id} is a job of sandbox {key}: `sandpen attach --job {id} {key}` shows it")]
    IsJob {
        /// Of which sandbox.
        key: SandboxKey,
        /// Which.
        id: SessionId,
    },
    /// Something about a job.
    #[error(transparent)]
    Job(JobError),
    /// A live sandbox has the disk; nothing was changed.
    #[error("disk {name} is in use by sandbox {user}; stop that one first or use another disk")]
    DiskInUse {
        /// Which disk.
        name: DiskName,
        /// Who has it.
        user: SandboxKey,
    },
    /// A copy has the files of an ended sandbox; nothing was changed.
    #[error(
        "files of sandbox {key} are being copied or read; try again when that is done, or end it: `sandpen sessions {key}` lists what has them"
    )]
    FilesInUse {
        /// Which.
        key: SandboxKey,
    },
    /// There is no such disk.
    #[error("there is no disk {name}; `sandpen disk ls` lists all")]
    DiskNotFound {
        /// Which.
        name: DiskName,
    },
    /// The disks could not be read or changed.
    #[error("{action}")]
    Disk {
        /// What was being done.
        action: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A sandbox has the volume; nothing was changed.
    #[error("volume {name} is in use by sandbox {user}; remove that one first")]
    VolumeInUse {
        /// Which volume.
        name: VolumeName,
        /// Who has it.
        user: SandboxKey,
    },
    /// There is no such volume.
    #[error("there is no volume {name}; `sandpen volume ls` lists all")]
    VolumeNotFound {
        /// Which.
        name: VolumeName,
    },
    /// Who has it cannot be told; nothing was changed.
    #[error(
        "volume {name} stays: {unreadable} of the sandboxes on record cannot be read, and may have it; the daemon's log says which, and the program that made them can remove them"
    )]
    VolumeUsersUnknown {
        /// Which volume.
        name: VolumeName,
        /// How many sandboxes cannot be read.
        unreadable: usize,
    },
    /// It is on its way out.
    #[error("volume {name} is being removed; try again in a moment or use another name")]
    VolumeLeaves {
        /// Which.
        name: VolumeName,
    },
    /// The volumes could not be read or changed.
    #[error("{action}")]
    Volume {
        /// What was being done.
        action: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The microVM is being ended, or has been, and a fault of the host keeps that from being recorded.
    #[error(
        "sandbox {key} was told to end, which cannot be recorded now ({faults}); that is tried again until it works, and `sandpen wait {key}` waits for it"
    )]
    Unrecorded {
        /// Which.
        key: SandboxKey,
        /// The faults of the moment.
        faults: String,
    },
    /// Its end was asked for before it was on record; nothing was changed.
    #[error("the start of sandbox {key} was given up: its end was asked for")]
    GivenUp {
        /// Which.
        key: SandboxKey,
    },
    /// Something about one of its sessions.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An actor that the request needs is gone.
    #[error("an internal part has ended; look into the daemon's log")]
    Gone,
}

impl From<JobError> for SupervisorError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Session(error) => Self::Session(error),
            JobError::Database(error) => Self::Database(error),
            error => Self::Job(error),
        }
    }
}

impl From<actix::MailboxError> for SupervisorError {
    fn from(_: actix::MailboxError) -> Self {
        Self::Gone
    }
}
