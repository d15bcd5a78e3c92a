//! What can go wrong between a client and its daemon, with what to do about it.

use std::io;
use std::path::PathBuf;

use sandpen_api::{API_VERSION, ErrorCode, ErrorDetail, Version};
use sandpen_types::spec::SandboxKey;
use tokio_tungstenite::tungstenite;

use super::resume::PATIENCE;
use crate::private_dir::PrivateDirError;

/// A failure of a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] PrivateDirError),
    /// Nobody listens on the socket.
    #[error("no daemon runs for {socket:?}")]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be reached.
    #[error("cannot connect to the daemon at {socket:?}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error(
        "what listens at {socket:?} is not a sandpen daemon of yours: {reason}; end it or choose another --state-dir"
    )]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// How it was noticed.
        reason: String,
    },
    /// The daemon speaks another version of the API.
    #[error(
        "the daemon (sandpen {}, process {}) speaks API version {}, this program {API_VERSION}; end it with `sandpen shutdown`, its sandboxes go on",
        .version.version, .version.pid, .version.api
    )]
    OtherVersion {
        /// What the daemon says.
        version: Box<Version>,
    },
    /// The daemon is older than this program and does not know what is asked for.
    #[error(
        "the daemon that runs (sandpen {}, process {}) is of another version and does not know this; `sandpen daemon --replace` \
         puts one of this version in its place, and the sandboxes run on",
        .version.version, .version.pid
    )]
    Unknown {
        /// What the daemon says.
        version: Box<Version>,
    },
    /// No daemon could be started.
    #[error("cannot start the daemon: {reason}")]
    Start {
        /// Why, one line; with the last lines of its log where it died without a word.
        reason: String,
    },
    /// A system call around the start of a daemon failed.
    #[error("cannot start the daemon: {action} {path:?}")]
    StartSystem {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon at {socket:?} broke off; its log is daemon.log beside the socket")]
    Http {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: hyper::Error,
    },
    /// An answer that is not what the API says.
    #[error("the daemon at {socket:?} gave an answer that cannot be read")]
    Json {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The daemon broke off while images came in or went out.
    #[error("the daemon broke off before all images were there; ask again, what is done already is not done twice")]
    ImagesCut(#[source] Option<Box<Self>>),
    /// The daemon broke off while a file was read.
    #[error(
        "the file is not complete: it became shorter while it was read, or the daemon or the sandbox ended; read it again"
    )]
    FileCut(#[source] Box<Self>),
    /// An answer larger than any that we ask for.
    #[error("the daemon at {socket:?} gave an answer of more than {limit} bytes")]
    TooLarge {
        /// The socket.
        socket: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// More in a directory than is kept.
    #[error(
        "the directory has more than is kept at once: {} entries, or {} MiB of names",
        super::files::ENTRIES_MAX, super::files::NAMES_MAX >> 20
    )]
    DirectoryTooLarge,
    /// A request that cannot be written.
    #[error("the request cannot be written as JSON")]
    Request(#[source] serde_json::Error),
    /// A request line that HTTP does not allow.
    #[error("the request cannot be made")]
    Malformed(#[source] hyper::http::Error),
    /// A broken stream of output frames.
    #[error("the output stream is broken")]
    Frame(#[from] sandpen_api::frame::FrameError),
    /// The output stream ended before everything was sent, in the daemon's words.
    #[error("the output is not complete: {}", .0.one_line())]
    OutputIncomplete(ErrorDetail),
    /// The stream of events ended before everything was sent, in the daemon's words.
    #[error("the events are not complete: {}", .0.one_line())]
    EventsIncomplete(ErrorDetail),
    /// The output stream was cut.
    #[error("the output stream was cut by the daemon's end")]
    OutputCut,
    /// The connection to a session was cut.
    #[error("the connection to the session was cut by the daemon's end")]
    SessionCut {
        /// The daemon says that it ends.
        ends: bool,
        /// What was found broken.
        #[source]
        source: Option<Box<tungstenite::Error>>,
    },
    /// The daemon sends of a session what cannot be.
    #[error("what the daemon says of the session cannot be: {0}")]
    SessionBroken(String),
    /// The VMM log was cut: it has no positions from which another daemon could go on.
    #[error(
        "the VMM log is not complete: the daemon ended or could not read it; it has no positions to go on from, so ask for it again"
    )]
    VmmLogCut(#[source] Box<ClientError>),
    /// The daemon went away while it was read from or waited for, and no other one goes on.
    #[error(
        "the daemon went away, and no other one went on within {} s; the sandboxes run on, and any other command of sandpen starts one",
        PATIENCE.as_secs()
    )]
    NoSuccessor(#[source] Box<ClientError>),
    /// A sandbox is no more at the daemon that came after one that went away.
    #[error("sandbox {key} was removed while its daemon was away; `sandpen events {key}` says how it ended")]
    RemovedMeanwhile {
        /// Which.
        key: SandboxKey,
    },
    /// The user's terminal cannot be used.
    #[error("cannot use this terminal")]
    Terminal(#[source] io::Error),
    /// The daemon refused or failed.
    #[error("{}", .error.one_line())]
    Api {
        /// HTTP status.
        status: u16,
        /// Its words.
        error: ErrorDetail,
    },
}

impl ClientError {
    /// Whether there simply is no daemon.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }

    /// The daemon's code, where it answered with one that this version knows.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api { error, .. } | Self::OutputIncomplete(error) | Self::EventsIncomplete(error) => {
                error.code.known()
            }
            _ => None,
        }
    }

    /// Whether the daemon went away: it died, or it says that it ends, or it is not there (yet). Another one
    /// can be asked the same.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Http { .. } | Self::OutputCut | Self::SessionCut { .. } | Self::NotRunning { .. })
            || matches!(self.code(), Some(ErrorCode::ShuttingDown | ErrorCode::Gone))
    }
}
