//! The client of the daemon, which starts one where there is none.
//!
//! | | |
//! | --- | --- |
//! | [`Client`] | finds or starts a daemon; one method for each thing that can be asked |
//! | [`OutputReader`], [`EventReader`], [`StatsReader`], [`Client::wait`] | go on with the next daemon when one dies or is replaced |
//! | [`SessionClient`] | a command beside a sandbox's workload, with its streams; goes on with the next daemon likewise |
//! | [`SandboxFiles`] | the files of a running sandbox |
//! | [`SessionCarrier`], [`Forward`] | a session's streams from and to any others; connections to a sandbox's ports |
//! | [`Foreground`] | a sandbox with its output, input and signals, as `run` and `attach` have it |
//! | [`daemon_log`] | the file that a daemon in the background writes its messages to |
//! | [`private_dir`] | whether a state directory is safe to use, which the daemon asks as well |
//!
//! May know: `sandpen-api`, `sandpen-types`, hyper, tokio. May not: what a daemon is made of; a test compares
//! what is linked.
//!
//! Every request is one HTTP/1.1 connection whose peer is checked first: connecting to a unix
//! socket costs microseconds, and nothing has to be kept alive or pooled.

mod connection;
pub mod daemon_environment;
pub mod daemon_log;
mod error;
mod events;
mod files;
mod foreground;
mod forward;
mod host;
mod images;
mod jobs;
mod lifecycle;
mod lines;
mod output;
pub mod private_dir;
mod request;
mod resume;
mod session;
mod source;
mod start;
mod stats;
mod stdin;
mod terminal;
mod vmm_log;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use sandpen_api::{
    ErrorBody, HistoryQuery, Metric, NAME, Sandbox, ShutdownReply, ShutdownRequest, StdinReply, Transition, Version,
};
use sandpen_types::history::HistoryPage;
use sandpen_types::spec::{SandboxKey, TerminalSize};
use sandpen_types::state_dir::StateDir;
use serde::de::DeserializeOwned;

use connection::{Body, Connection};
pub use error::ClientError;
pub use events::{EventReader, EventsRequest};
pub use files::{FileContentReader, FileEventReader, SandboxFiles};
pub use foreground::{
    Beginning, Foreground, ForegroundEnd, Input, JobForeground, JobForegroundEnd, Notice, OnSignal, OpenStdin,
    OpenTerminal, StopLevel,
};
pub use forward::{Forward, ForwardEnd, leave};
pub use images::{ImageArchiveReader, ImageWorkReader};
pub use output::OutputReader;
use request::{encoded, milliseconds, path};
use resume::Resume;
pub use sandpen_api::{CreateSandbox, ErrorCode, OutputQuery};
pub use session::{
    CarryEnd, OnSessionSignal, SessionBytes, SessionCarrier, SessionClient, SessionControl, SessionForeground,
    SessionForegroundEnd, SessionNotice, SessionStep, random_session_id,
};
use source::Source;
pub use start::DaemonCommand;
pub use stats::StatsReader;
pub use stdin::{StdinReceiver, StdinSender, stdin_channel};
pub use terminal::TerminalInput;
pub use vmm_log::VmmLogReader;

/// How long a daemon may take to say its version before it counts as something else.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection that breaks without an answer is tried.
const LOOKS: u32 = 4;
/// Pause before the next try.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Where the daemon is, and how to start it.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The state directory.
    pub state_dir: PathBuf,
    /// What starts a daemon where none runs; `None` never starts one.
    pub daemon: Option<DaemonCommand>,
}

/// A daemon that was found, or started, and checked. Every method may fail as a connection does
/// ([`ClientError::NotRunning`], [`ClientError::Http`], [`ClientError::OtherVersion`]), and with a code of the
/// daemon's ([`ClientError::code`]); each names those that it is worth while to tell apart.
#[derive(Debug, Clone)]
pub struct Client {
    dir: Arc<StateDir>,
    version: Arc<Version>,
}

impl Client {
    /// Finds the daemon of a state directory or starts it.
    ///
    /// # Errors
    /// [`ClientError::StateDir`]; without a daemon command [`ClientError::NotRunning`], with one [`ClientError::Start`];
    /// [`ClientError::Foreign`] where something else listens.
    pub async fn connect(options: &ClientOptions) -> Result<Self, ClientError> {
        let dir = private_dir::prepare_state_dir(&options.state_dir)?;
        match Self::find(&dir).await {
            Err(error) if error.is_not_running() => match &options.daemon {
                Some(daemon) => start::start(&dir, daemon).await,
                None => Err(error),
            },
            found => found,
        }
    }

    /// Finds a daemon that already runs.
    async fn find(dir: &StateDir) -> Result<Self, ClientError> {
        let mut attempt = 1;
        loop {
            match Self::look(dir).await {
                // The socket of a daemon that is dying still takes connections, for a moment.
                Err(ClientError::Http { source, .. }) if !source.is_parse() && attempt < LOOKS => attempt += 1,
                Err(ClientError::Http { socket, source }) => {
                    return Err(ClientError::Foreign { socket, reason: source.to_string() });
                }
                found => return found,
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Looks once whether a daemon answers.
    async fn look(dir: &StateDir) -> Result<Self, ClientError> {
        let request = async {
            let connection = Connection::open(dir).await?;
            let reply = connection.send(Method::GET, "/v1/version", Body::Empty).await?;
            reply.collect().await
        };
        let socket = dir.socket();
        let foreign = |reason: String| ClientError::Foreign { socket: socket.clone(), reason };
        let (status, body) = match tokio::time::timeout(VERSION_TIMEOUT, request).await {
            Ok(reply) => reply?,
            Err(_) => return Err(foreign(format!("it says nothing for {} s", VERSION_TIMEOUT.as_secs()))),
        };
        if status != StatusCode::OK {
            if let Ok(ErrorBody { error }) = serde_json::from_slice(&body) {
                return Err(ClientError::Api { status: status.as_u16(), error });
            }
            return Err(foreign(format!("it answers status {}", status.as_u16())));
        }
        let version: Version = serde_json::from_slice(&body).map_err(|_| foreign("its answer is not ours".into()))?;
        if version.name != NAME {
            return Err(foreign("it has another name".to_owned()));
        }
        Ok(Self { dir: Arc::new(dir.clone()), version: Arc::new(version) })
    }

    /// What the daemon says of itself.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The state directory.
    pub fn state_dir(&self) -> &StateDir {
        &self.dir
    }

    /// Starts a sandbox; answers when it is RUNNING or has ended.
    ///
    /// # Errors
    /// Codes [`InvalidSpec`](ErrorCode::InvalidSpec), [`AlreadyLive`](ErrorCode::AlreadyLive),
    /// [`DiskInUse`](ErrorCode::DiskInUse), [`DriverUnavailable`](ErrorCode::DriverUnavailable) or
    /// [`NoRoom`](ErrorCode::NoRoom). After [`ClientError::Http`] it may have been started.
    pub async fn start_sandbox(&self, sandbox: &CreateSandbox) -> Result<Sandbox, ClientError> {
        self.call(Method::POST, "/v1/sandboxes", Some(sandbox)).await
    }

    /// All sandboxes, oldest first; without `all` the active ones only.
    pub async fn list(&self, all: bool) -> Result<Vec<Sandbox>, ClientError> {
        self.get(&format!("/v1/sandboxes?all={all}")).await
    }

    /// One sandbox.
    ///
    /// # Errors
    /// Code [`NotFound`](ErrorCode::NotFound).
    pub async fn inspect(&self, key: &SandboxKey) -> Result<Sandbox, ClientError> {
        self.get(&path(key, "")).await
    }

    /// A page of what happened to a sandbox, oldest first. It goes on with [`HistoryPage::after`] the last one's number
    /// until a page is empty; numbers that are missing are of starts that are no longer kept.
    ///
    /// # Errors
    /// Codes [`NotFound`](ErrorCode::NotFound) and [`InvalidRequest`](ErrorCode::InvalidRequest).
    pub async fn history(&self, key: &SandboxKey, page: HistoryPage) -> Result<Vec<Transition>, ClientError> {
        self.get(&path(key, &format!("/history?{}", HistoryQuery(page)))).await
    }

    /// Everything that happened, in one order. `options` find the next daemon if this one dies or is replaced.
    ///
    /// # Errors
    /// Codes [`EventsGone`](ErrorCode::EventsGone) and [`EventsAhead`](ErrorCode::EventsAhead);
    /// [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn events(&self, options: &ClientOptions, request: EventsRequest) -> Result<EventReader, ClientError> {
        EventReader::open(self.clone(), options, request).await
    }

    /// Counters and gauges.
    pub async fn metrics(&self) -> Result<Vec<Metric>, ClientError> {
        self.get("/v1/metrics?format=json").await
    }

    /// Answers when the sandbox has ended. `options` find the next daemon if this one dies or is replaced.
    ///
    /// # Errors
    /// Code [`NotFound`](ErrorCode::NotFound); [`ClientError::RemovedMeanwhile`] where it was removed before the next
    /// daemon could be asked, [`ClientError::NoSuccessor`] where there is none.
    pub async fn wait(&self, options: &ClientOptions, key: &SandboxKey) -> Result<Sandbox, ClientError> {
        let (mut client, mut resume) = (self.clone(), Resume::new(options, Some(key)));
        loop {
            match client.wait_here(&Source::workload(key)).await {
                Ok(sandbox) => return Ok(sandbox),
                // Waiting changes nothing: it is done again.
                Err(error) => client = resume.after(error).await?,
            }
        }
    }

    /// Answers when it has ended, while this daemon is there.
    async fn wait_here<T: DeserializeOwned>(&self, source: &Source) -> Result<T, ClientError> {
        self.get(&source.path("/wait")).await
    }

    /// Reads a sandbox's output. `options` find the next daemon if this one dies or is replaced.
    ///
    /// # Errors
    /// Code [`NotFound`](ErrorCode::NotFound); [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn output(
        &self,
        options: &ClientOptions,
        key: &SandboxKey,
        request: OutputQuery,
    ) -> Result<OutputReader, ClientError> {
        OutputReader::open(self.clone(), options, Source::workload(key), request).await
    }

    /// Reads what a sandbox's VMM and its guest's console printed: all of it or the last `tail` lines,
    /// with `follow` until the sandbox has ended. It has no positions, so it does not go on over the daemon's end.
    ///
    /// # Errors
    /// Code [`NotFound`](ErrorCode::NotFound).
    pub async fn vmm_log(
        &self,
        key: &SandboxKey,
        tail: Option<usize>,
        follow: bool,
    ) -> Result<VmmLogReader, ClientError> {
        let tail = tail.map_or_else(String::new, |lines| format!("&tail={lines}"));
        let query = format!("/vmm-log?follow={follow}{tail}");
        Ok(VmmLogReader::new(self.send(Method::GET, &path(key, &query), Body::Empty).await?))
    }

    /// Passes what comes out of `input` to a sandbox's stdin, and with `close` ends that then.
    ///
    /// # Errors
    /// Codes [`NotFound`](ErrorCode::NotFound), [`NotLive`](ErrorCode::NotLive), [`NoStdin`](ErrorCode::NoStdin) and
    /// [`GuestUnreachable`](ErrorCode::GuestUnreachable). What was taken before that is not known.
    pub async fn stdin(&self, key: &SandboxKey, input: StdinReceiver, close: bool) -> Result<StdinReply, ClientError> {
        self.feed(&Source::workload(key), input, close).await
    }

    /// Tells the size of a sandbox's terminal.
    ///
    /// # Errors
    /// Codes [`NotFound`](ErrorCode::NotFound), [`NotLive`](ErrorCode::NotLive),
    /// [`NoTerminal`](ErrorCode::NoTerminal) and [`GuestUnreachable`](ErrorCode::GuestUnreachable).
    pub async fn resize(&self, key: &SandboxKey, size: TerminalSize) -> Result<(), ClientError> {
        self.resize_source(&Source::workload(key), size).await
    }

    async fn feed(&self, source: &Source, input: StdinReceiver, close: bool) -> Result<StdinReply, ClientError> {
        let target = source.path(&format!("/stdin?close={close}"));
        let reply = self.send(Method::POST, &target, Body::Stream(input)).await?;
        self.decode(reply).await
    }

    async fn resize_source(&self, source: &Source, size: TerminalSize) -> Result<(), ClientError> {
        let reply = self.send(Method::POST, &source.path("/resize"), Body::json(&size)?).await?;
        reply.collect().await.map(drop)
    }

    /// Ends the daemon; answers when the state directory is free. With a grace the sandboxes are
    /// stopped, else they run on for the next daemon.
    ///
    /// # Errors
    /// Code [`ShuttingDown`](ErrorCode::ShuttingDown) where somebody else was faster.
    pub async fn shutdown(&self, stop_sandboxes: Option<Duration>) -> Result<ShutdownReply, ClientError> {
        let body = ShutdownRequest {
            stop_sandboxes: stop_sandboxes.is_some(),
            grace_ms: milliseconds(stop_sandboxes.unwrap_or_default()),
        };
        // Also for a daemon of another version: it is how one gets rid of it.
        let reply = self.send_unchecked(Method::POST, "/v1/shutdown", Body::json(&body)?).await?;
        self.decode(reply).await
    }
}
