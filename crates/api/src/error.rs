//! Failures on the wire: a code for programs with its HTTP status, and words for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Keyword, Word};

/// What failed, as a stable word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A body, query or value that cannot be read.
    InvalidRequest,
    /// A config or sandbox name that is not allowed.
    InvalidName,
    /// A sandbox that cannot be as it was asked for.
    InvalidSpec,
    /// An event that has not happened yet.
    EventsAhead,
    /// A path that no file of a sandbox can have.
    InvalidPath,
    /// Another user.
    Forbidden,
    /// A registry does not allow it.
    RegistryDenied,
    /// The sandbox's user may not do that with the file.
    PermissionDenied,
    /// No such path.
    NoSuchRoute,
    /// No such sandbox, disk or volume.
    NotFound,
    /// No such image, here or in its registry.
    ImageNotFound,
    /// No such session, or its end was taken.
    SessionNotFound,
    /// No such file or directory in the sandbox.
    FileNotFound,
    /// No such job of the sandbox, or it is no longer kept.
    JobNotFound,
    /// A known path with another method.
    MethodNotAllowed,
    /// It runs already.
    AlreadyLive,
    /// Another live sandbox has that disk.
    DiskInUse,
    /// A sandbox has that volume.
    VolumeInUse,
    /// A microVM or a sandbox has that image.
    ImageInUse,
    /// An image with several names was to be removed by its digest.
    ImageHasNames,
    /// Several images have digests that begin so.
    ImageAmbiguous,
    /// It does not run.
    NotLive,
    /// Its end was asked for before its start was on record.
    GivenUp,
    /// It was started without a standard input.
    NoStdin,
    /// It was started without a terminal.
    NoTerminal,
    /// The job has ended.
    JobEnded,
    /// As many sessions as a sandbox can have.
    TooManySessions,
    /// Another client has the session now.
    SessionReplaced,
    /// Its guest knows no sessions: an earlier version started it.
    GuestTooOld,
    /// Another daemon has the state directory: what a daemon that is started says instead of serving.
    AlreadyRunning,
    /// There is something of that name in the sandbox.
    FileExists,
    /// A directory of the sandbox is needed, and it is none.
    NotADirectory,
    /// It is a directory of the sandbox, and something else is needed.
    IsADirectory,
    /// The sandbox's directory has something in it.
    DirectoryNotEmpty,
    /// It is a pipe, a socket or the like of the sandbox.
    NotAFile,
    /// The sandbox's file system is read-only.
    FilesReadOnly,
    /// The sandbox's file system is full.
    FilesFull,
    /// The sandbox's system says something else of the file.
    FileFailed,
    /// An event that is no longer kept.
    EventsGone,
    /// Output of a session that an earlier client has taken.
    SessionNotKept,
    /// A body above [`BODY_MAX_BYTES`](crate::BODY_MAX_BYTES).
    TooLarge,
    /// A range that begins at the end of the file or behind it.
    RangeBeyondEnd,
    /// An archive, a directory or a configuration that is no image, or cannot be one here.
    InvalidImage,
    /// The driver cannot do this.
    Unsupported,
    /// No such driver, or it does not work on this host.
    DriverUnavailable,
    /// The host has too little left: files, processes, disk.
    NoRoom,
    /// The file system of the state directory is read-only.
    ReadOnly,
    /// Another program has locked the database.
    DatabaseBusy,
    /// An end that was asked for cannot be recorded now.
    Unrecorded,
    /// The daemon is ending.
    ShuttingDown,
    /// It has ended.
    Gone,
    /// The microVM does not answer.
    GuestUnreachable,
    /// Everything else.
    Internal,
    /// A registry cannot be reached, or answers something that is of no use.
    RegistryFailed,
}

impl ErrorCode {
    /// Every one, by status.
    pub const ALL: [Self; 54] = [
        Self::InvalidRequest,
        Self::InvalidName,
        Self::InvalidSpec,
        Self::EventsAhead,
        Self::InvalidPath,
        Self::Forbidden,
        Self::RegistryDenied,
        Self::PermissionDenied,
        Self::NoSuchRoute,
        Self::NotFound,
        Self::ImageNotFound,
        Self::SessionNotFound,
        Self::FileNotFound,
        Self::JobNotFound,
        Self::MethodNotAllowed,
        Self::AlreadyLive,
        Self::DiskInUse,
        Self::VolumeInUse,
        Self::ImageInUse,
        Self::ImageHasNames,
        Self::ImageAmbiguous,
        Self::NotLive,
        Self::GivenUp,
        Self::NoStdin,
        Self::NoTerminal,
        Self::JobEnded,
        Self::TooManySessions,
        Self::SessionReplaced,
        Self::GuestTooOld,
        Self::AlreadyRunning,
        Self::FileExists,
        Self::NotADirectory,
        Self::IsADirectory,
        Self::DirectoryNotEmpty,
        Self::NotAFile,
        Self::FilesReadOnly,
        Self::FilesFull,
        Self::FileFailed,
        Self::EventsGone,
        Self::SessionNotKept,
        Self::TooLarge,
        Self::RangeBeyondEnd,
        Self::InvalidImage,
        Self::Unsupported,
        Self::DriverUnavailable,
        Self::NoRoom,
        Self::ReadOnly,
        Self::DatabaseBusy,
        Self::Unrecorded,
        Self::ShuttingDown,
        Self::Gone,
        Self::GuestUnreachable,
        Self::Internal,
        Self::RegistryFailed,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidName => "invalid_name",
            Self::InvalidSpec => "invalid_spec",
            Self::EventsAhead => "events_ahead",
            Self::InvalidPath => "invalid_path",
            Self::Forbidden => "forbidden",
            Self::RegistryDenied => "registry_denied",
            Self::PermissionDenied => "permission_denied",
            Self::NoSuchRoute => "no_such_route",
            Self::NotFound => "not_found",
            Self::ImageNotFound => "image_not_found",
            Self::SessionNotFound => "session_not_found",
            Self::FileNotFound => "file_not_found",
            Self::JobNotFound => "job_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::AlreadyLive => "already_live",
            Self::DiskInUse => "disk_in_use",
            Self::VolumeInUse => "volume_in_use",
            Self::ImageInUse => "image_in_use",
            Self::ImageHasNames => "image_has_names",
            Self::ImageAmbiguous => "image_ambiguous",
            Self::NotLive => "not_live",
            Self::GivenUp => "given_up",
            Self::NoStdin => "no_stdin",
            Self::NoTerminal => "no_terminal",
            Self::JobEnded => "job_ended",
            Self::TooManySessions => "too_many_sessions",
            Self::SessionReplaced => "session_replaced",
            Self::GuestTooOld => "guest_too_old",
            Self::AlreadyRunning => "already_running",
            Self::FileExists => "file_exists",
            Self::NotADirectory => "not_a_directory",
            Self::IsADirectory => "is_a_directory",
            Self::DirectoryNotEmpty => "directory_not_empty",
            Self::NotAFile => "not_a_file",
            Self::FilesReadOnly => "files_read_only",
            Self::FilesFull => "files_full",
            Self::FileFailed => "file_failed",
            Self::EventsGone => "events_gone",
            Self::SessionNotKept => "session_not_kept",
            Self::TooLarge => "too_large",
            Self::RangeBeyondEnd => "range_beyond_end",
            Self::InvalidImage => "invalid_image",
            Self::Unsupported => "unsupported",
            Self::DriverUnavailable => "driver_unavailable",
            Self::NoRoom => "no_room",
            Self::ReadOnly => "read_only",
            Self::DatabaseBusy => "database_busy",
            Self::Unrecorded => "unrecorded",
            Self::ShuttingDown => "shutting_down",
            Self::Gone => "gone",
            Self::GuestUnreachable => "guest_unreachable",
            Self::Internal => "internal",
            Self::RegistryFailed => "registry_failed",
        }
    }

    /// The status of an answer with it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::InvalidName | Self::InvalidSpec | Self::EventsAhead | Self::InvalidPath => 400,
            Self::Forbidden | Self::RegistryDenied | Self::PermissionDenied => 403,
            Self::NoSuchRoute
            | Self::NotFound
            | Self::ImageNotFound
            | Self::SessionNotFound
            | Self::FileNotFound
            | Self::JobNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::AlreadyLive
            | Self::DiskInUse
            | Self::VolumeInUse
            | Self::ImageInUse
            | Self::ImageHasNames
            | Self::ImageAmbiguous
            | Self::NotLive
            | Self::GivenUp
            | Self::NoStdin
            | Self::NoTerminal
            | Self::JobEnded
            | Self::TooManySessions
            | Self::SessionReplaced
            | Self::GuestTooOld
            | Self::AlreadyRunning
            | Self::FileExists
            | Self::NotADirectory
            | Self::IsADirectory
            | Self::DirectoryNotEmpty
            | Self::NotAFile
            | Self::FilesReadOnly
            | Self::FilesFull
            | Self::FileFailed => 409,
            Self::EventsGone | Self::SessionNotKept => 410,
            Self::TooLarge => 413,
            Self::RangeBeyondEnd => 416,
            Self::InvalidImage | Self::Unsupported => 422,
            Self::GuestUnreachable | Self::Internal => 500,
            Self::RegistryFailed => 502,
            Self::DriverUnavailable
            | Self::NoRoom
            | Self::ReadOnly
            | Self::DatabaseBusy
            | Self::Unrecorded
            | Self::ShuttingDown
            | Self::Gone => 503,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Keyword for ErrorCode {
    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// Body of every answer with a status of 400 and above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// A failure on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A stable word, for programs.
    pub code: Word<ErrorCode>,
    /// One line, for people.
    pub message: String,
    /// The causes, outermost first, without `message` itself.
    #[serde(default)]
    pub chain: Vec<String>,
}

impl ErrorDetail {
    /// The detail of an error value with its causes.
    pub fn new(code: ErrorCode, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        Self { code: code.into(), message: error.to_string(), chain }
    }

    /// A detail without causes.
    pub fn message(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), chain: Vec::new() }
    }

    /// Message and causes in one line.
    pub fn one_line(&self) -> String {
        let mut text = self.message.clone();
        for cause in &self.chain {
            if !text.ends_with(cause.as_str()) {
                text.push_str(": ");
                text.push_str(cause);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status and the whole body of each code.
    #[test]
    fn codes_are_those_of_version_1() {
        let lines = include_str!("golden/errors.jsonl").lines();
        let mut golden: Vec<(u16, ErrorBody)> = Vec::new();
        for line in lines {
            let (status, body) = line.split_once(' ').unwrap();
            let read: ErrorBody = serde_json::from_str(body).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), body);
            golden.push((status.parse().unwrap(), read));
        }
        for (status, body) in &golden {
            assert_eq!(body.error.code.known().map(ErrorCode::http_status), Some(*status), "{body:?}");
        }
        let told = ErrorCode::ALL.into_iter().filter(|code| *code != ErrorCode::AlreadyRunning).count();
        assert_eq!(golden.len(), told);
    }

    #[test]
    fn a_code_of_a_later_version_is_kept() {
        let json = r#"{"code":"of_the_future","message":"m","chain":[]}"#;
        let detail: ErrorDetail = serde_json::from_str(json).unwrap();
        assert_eq!(detail.code.known(), None);
        assert_eq!(serde_json::to_string(&detail).unwrap(), json);
        assert_eq!(
            serde_json::from_str::<ErrorDetail>(r#"{"code":"gone","message":"m"}"#).unwrap().code,
            ErrorCode::Gone
        );
    }

    #[test]
    fn each_word_is_of_one_code() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::of_word(code.as_str()), Some(code));
            assert_eq!(ErrorCode::ALL.iter().filter(|other| other.as_str() == code.as_str()).count(), 1);
        }
    }
}
