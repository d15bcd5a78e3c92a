//! What can go wrong for who starts and uses an orchestrator, and the words for programs.

mod files;

use actix::MailboxError;
use sandpen_actors::database::DatabaseError;
use sandpen_actors::host::fault_of::fault_of_io;
use sandpen_actors::jobs::JobError;
use sandpen_actors::log_writer::LogError;
use sandpen_actors::supervisor::SupervisorError;
use sandpen_api::ErrorCode;
use sandpen_drivers::image_helper::ImageHelperError;
use sandpen_files::FilesError;
use sandpen_files::error::Shown;
use sandpen_images::manifest::ManifestError;
use sandpen_images::store::StoreError;
use sandpen_registry::RegistryError;
use sandpen_types::fault::Fault;
use sandpen_types::session::SessionId;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::driver::DriverError;
use sandpen_vmm::sessions::SessionError;

use super::images::{CommitError, ImageError, PullError, PushError, WorkError};
use super::lock::LockError;
use files::files_code;

/// Why an orchestrator did not start; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used, or another orchestrator has it.
    #[error(transparent)]
    StateDir(#[from] LockError),
    /// The libkrunfw that was named is of no use.
    #[error(transparent)]
    Krunfw(#[from] sandpen_drivers::krun_host::KrunUnusable),
    /// The database cannot be used.
    #[error("the status database could not be opened")]
    Database(#[from] DatabaseError),
    /// Sandboxes of an earlier orchestrator could not be looked at.
    #[error("the sandboxes of an earlier run could not be taken over")]
    Reconcile(#[source] SupervisorError),
    /// No thread could be made.
    #[error("starting the orchestrator's thread")]
    Thread(#[source] std::io::Error),
    /// The thread ended before it was ready; its panic message is on stderr.
    #[error("the orchestrator's thread ended before it was ready")]
    ThreadEnded,
}

/// Why a request to an orchestrator was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum SandpenError {
    /// The supervisor refused.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// The database failed.
    #[error("the status database could not be used")]
    Database(#[source] DatabaseError),
    /// Events that are not there (any more).
    #[error(transparent)]
    Events(DatabaseError),
    /// The log could not be read.
    #[error("the log could not be read")]
    Log(#[from] LogError),
    /// The VMM log could not be read.
    #[error("the VMM log could not be read")]
    VmmLog(#[source] std::io::Error),
    /// The microVM could not be reached.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The sandbox was made without a standard input.
    #[error("sandbox {0} has no standard input; start it with -i")]
    NoStdin(SandboxKey),
    /// The sandbox was made without a terminal.
    #[error("sandbox {0} has no terminal; start it with -t")]
    NoTerminal(SandboxKey),
    /// Sandboxes were told to end, and their end could not be recorded before the orchestrator's own.
    #[error(
        "the end of {} could not be recorded, because the disk or the database cannot be written; the next start records what became of them",
        .sandboxes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Unrecorded {
        /// Which.
        sandboxes: Vec<SandboxKey>,
    },
    /// Something with an image.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// A sandbox that was to become an image.
    #[error(transparent)]
    Commit(Box<CommitError>),
    /// Something about a session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Another client has the session now.
    #[error("another client has session {0} now")]
    SessionReplaced(SessionId),
    /// The microVM that would have looked into the files of an ended sandbox did not start.
    #[error("the helper microVM for the files of sandbox {of} did not start: {reason}")]
    Helper {
        /// The sandbox.
        of: SandboxKey,
        /// How it ended.
        reason: String,
    },
    /// Something about a sandbox's files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The guest does not serve files to who asks.
    #[error("the sandbox's files cannot be used: {0}")]
    FilesNotServed(String),
    /// A range that a file does not have.
    #[error("{}: byte {offset} is wanted, and it has {size}", Shown(.path))]
    RangeBeyondEnd {
        /// Which file.
        path: Vec<u8>,
        /// The first byte.
        offset: u64,
        /// How many it has.
        size: u64,
    },
    /// A range of a file that does not say how many bytes it has.
    #[error("{}: it does not say how many bytes it has, {problem}", Shown(.path))]
    RangeUnknown {
        /// Which file.
        path: Vec<u8>,
        /// What is wrong with the range.
        problem: &'static str,
    },
    /// The orchestrator has ended.
    #[error("the orchestrator has ended")]
    Gone,
}

impl From<CommitError> for SandpenError {
    fn from(error: CommitError) -> Self {
        Self::Commit(Box::new(error))
    }
}

impl From<ImageError> for SandpenError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl From<DatabaseError> for SandpenError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::EventsGone { .. } | DatabaseError::EventsAhead { .. } => Self::Events(error),
            error => Self::Database(error),
        }
    }
}

impl From<MailboxError> for SandpenError {
    fn from(_: MailboxError) -> Self {
        Self::Gone
    }
}

impl SandpenError {
    /// A stable word for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Supervisor(error) => match error {
                SupervisorError::Spec(_)
                | SupervisorError::Nested(_)
                | SupervisorError::Driver(DriverError::Unusable { .. }) => ErrorCode::InvalidSpec,
                SupervisorError::RemovesItself { .. } => ErrorCode::InvalidRequest,
                SupervisorError::AlreadyLive { .. }
                | SupervisorError::NotEnded { .. }
                | SupervisorError::NameTaken { .. }
                | SupervisorError::NameReserved { .. }
                | SupervisorError::BeingRemoved { .. } => ErrorCode::AlreadyLive,
                SupervisorError::NotFound { .. }
                | SupervisorError::DiskNotFound { .. }
                | SupervisorError::VolumeNotFound { .. } => ErrorCode::NotFound,
                SupervisorError::NotLive { .. } => ErrorCode::NotLive,
                SupervisorError::GivenUp { .. } => ErrorCode::GivenUp,
                SupervisorError::OpenFiles { .. } => ErrorCode::NoRoom,
                SupervisorError::Storage(error) => storage_code(error.fault()),
                SupervisorError::Database(error) => database_code(error),
                SupervisorError::Unrecorded { .. } => ErrorCode::Unrecorded,
                SupervisorError::ShuttingDown => ErrorCode::ShuttingDown,
                SupervisorError::Driver(DriverError::Unavailable { .. }) => ErrorCode::DriverUnavailable,
                SupervisorError::Driver(DriverError::Unsupported { .. } | DriverError::NoTerminals) => {
                    ErrorCode::Unsupported
                }
                SupervisorError::Driver(_) | SupervisorError::Monitor(_) => ErrorCode::GuestUnreachable,
                SupervisorError::DiskInUse { .. } | SupervisorError::FilesInUse { .. } => ErrorCode::DiskInUse,
                SupervisorError::VolumeInUse { .. } | SupervisorError::VolumeLeaves { .. } => ErrorCode::VolumeInUse,
                SupervisorError::RemoveLog { .. }
                | SupervisorError::RenameFiles { .. }
                | SupervisorError::Disk { .. }
                | SupervisorError::VolumeUsersUnknown { .. }
                | SupervisorError::Volume { .. } => ErrorCode::Internal,
                SupervisorError::Session(error) => session_code(error),
                SupervisorError::JobNotFound { .. } => ErrorCode::JobNotFound,
                SupervisorError::IsJob { .. } => ErrorCode::SessionNotFound,
                SupervisorError::Job(error) => job_code(error),
                SupervisorError::Gone => ErrorCode::Gone,
            },
            Self::NoStdin(_) => ErrorCode::NoStdin,
            Self::NoTerminal(_) => ErrorCode::NoTerminal,
            Self::Driver(DriverError::NoTerminals) => ErrorCode::Unsupported,
            Self::Driver(_) | Self::Helper { .. } => ErrorCode::GuestUnreachable,
            Self::Events(DatabaseError::EventsGone { .. }) => ErrorCode::EventsGone,
            Self::Events(_) => ErrorCode::EventsAhead,
            Self::Database(error) => database_code(error),
            Self::Log(_) | Self::VmmLog(_) => ErrorCode::Internal,
            Self::Image(error) => image_code(error),
            Self::Commit(error) => commit_code(error),
            Self::Unrecorded { .. } => ErrorCode::Unrecorded,
            Self::Session(error) => session_code(error),
            Self::SessionReplaced(_) => ErrorCode::SessionReplaced,
            Self::Files(error) => files_code(error),
            Self::FilesNotServed(_) => ErrorCode::InvalidRequest,
            Self::RangeBeyondEnd { .. } | Self::RangeUnknown { .. } => ErrorCode::RangeBeyondEnd,
            Self::Gone => ErrorCode::Gone,
        }
    }
}

/// The code of what is wrong with a session.
pub fn session_code(error: &SessionError) -> ErrorCode {
    match error {
        SessionError::Spec(_) => ErrorCode::InvalidSpec,
        SessionError::NotFound(_) => ErrorCode::SessionNotFound,
        SessionError::TooMany { .. } => ErrorCode::TooManySessions,
        SessionError::NotRunning => ErrorCode::NotLive,
        SessionError::Older => ErrorCode::GuestTooOld,
        SessionError::Unsupported => ErrorCode::Unsupported,
        SessionError::NotKept { .. } => ErrorCode::SessionNotKept,
        SessionError::Ahead { .. } => ErrorCode::InvalidRequest,
        SessionError::Unreachable(_) => ErrorCode::GuestUnreachable,
    }
}

/// The code of what is wrong with a job.
fn job_code(error: &JobError) -> ErrorCode {
    match error {
        JobError::NotHeld(_) | JobError::Ended { .. } => ErrorCode::JobEnded,
        JobError::IsSession(_) => ErrorCode::InvalidRequest,
        JobError::NoStdin(_) => ErrorCode::NoStdin,
        JobError::NoTerminal(_) => ErrorCode::NoTerminal,
        JobError::InputBroke(_) => ErrorCode::GuestUnreachable,
        JobError::Session(error) => session_code(error),
        JobError::Database(error) => database_code(error),
    }
}

/// The code of a fault that keeps something from being written.
fn storage_code(fault: Fault) -> ErrorCode {
    match fault {
        Fault::DiskFull | Fault::OpenFiles | Fault::Processes => ErrorCode::NoRoom,
        Fault::ReadOnly => ErrorCode::ReadOnly,
        Fault::DatabaseLocked => ErrorCode::DatabaseBusy,
        Fault::StorageFailed | Fault::ClockJumped => ErrorCode::Internal,
    }
}

/// The code of a failure with an image.
fn image_code(error: &ImageError) -> ErrorCode {
    match error {
        ImageError::Store(error) => store_code(error),
        ImageError::Config { .. } | ImageError::Pull(PullError::Layers { .. } | PullError::Text { .. }) => {
            ErrorCode::InvalidImage
        }
        ImageError::Resolve(_) => ErrorCode::InvalidSpec,
        ImageError::Push(PushError::Nowhere { .. } | PushError::Digest { .. }) => ErrorCode::InvalidRequest,
        ImageError::Push(PushError::Manifest(_)) => ErrorCode::InvalidImage,
        ImageError::Work(error)
        | ImageError::Pull(PullError::Work(error))
        | ImageError::Push(PushError::Work(error)) => work_code(error),
        ImageError::Pull(PullError::Registry(error)) | ImageError::Push(PushError::Registry(error)) => {
            registry_code(error)
        }
    }
}

fn commit_code(error: &CommitError) -> ErrorCode {
    match error {
        CommitError::NoImage(_) | CommitError::ReadOnly(_) => ErrorCode::InvalidRequest,
        CommitError::Guest { .. } => ErrorCode::GuestUnreachable,
        CommitError::Room(error) => storage_code(error.fault()),
        CommitError::Config(_) => ErrorCode::InvalidImage,
        CommitError::Store(error) => store_code(error),
        CommitError::Work(error) => work_code(error),
    }
}

fn work_code(error: &WorkError) -> ErrorCode {
    match error {
        WorkError::Store(error) => store_code(error),
        WorkError::Invalid(_) | WorkError::Read { .. } => ErrorCode::InvalidImage,
        WorkError::Process(ImageHelperError::NoRoom(_)) => ErrorCode::NoRoom,
        WorkError::Process(_) | WorkError::Ended => ErrorCode::Internal,
        WorkError::System(error) => storage_code(fault_of_io(error)),
    }
}

fn registry_code(error: &RegistryError) -> ErrorCode {
    match error {
        RegistryError::NotFound { .. } | RegistryError::Manifest { source: ManifestError::NoPlatform { .. }, .. } => {
            ErrorCode::ImageNotFound
        }
        RegistryError::Denied { .. } => ErrorCode::RegistryDenied,
        RegistryError::Name { .. } | RegistryError::Proxy { .. } => ErrorCode::InvalidRequest,
        RegistryError::Manifest { .. } | RegistryError::Config { .. } => ErrorCode::InvalidImage,
        _ => ErrorCode::RegistryFailed,
    }
}

fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::NotFound { .. } => ErrorCode::ImageNotFound,
        StoreError::Ambiguous { .. } => ErrorCode::ImageAmbiguous,
        StoreError::Reference(_) | StoreError::TagHasDigest(_) => ErrorCode::InvalidName,
        StoreError::SeveralNames { .. } => ErrorCode::ImageHasNames,
        StoreError::InUse { .. } => ErrorCode::ImageInUse,
        StoreError::LayersMissing { .. } | StoreError::NotWhole { .. } | StoreError::Damaged { .. } => {
            ErrorCode::Internal
        }
        StoreError::Io { source, .. } => storage_code(fault_of_io(source)),
    }
}

fn database_code(error: &DatabaseError) -> ErrorCode {
    error.fault().map_or(ErrorCode::Internal, storage_code)
}

#[cfg(test)]
mod tests;
