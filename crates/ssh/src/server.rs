//! The server of one client: its requests become sessions of one sandbox. RFC 4252 and 4254.
//!
//! ```text
//!   service ──▶ user: whoever may use the daemon may be anybody in a sandbox ──▶ channels ─┬ session: exec, shell, sftp
//!                                                                                          └ direct-tcpip: a port
//!   over: the client leaves, breaks the protocol, or the sandbox has ended and what it wrote last is told
//! ```
//!
//! Nothing of one channel waits for another: what a client sends is kept within its channel's window, and what it does not take
//! waits at the channel. Only what goes out by one pipe goes in turns.

pub(crate) mod channel;
mod hear;
mod request;
pub(crate) mod run;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sandpen_client::{Client, ClientOptions, SessionControl};
use sandpen_types::spec::{SandboxKey, WorkloadUser};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::DropGuard;

use crate::host_key::HostKey;
use crate::message;
use crate::transport::{Transport, TransportError};
use crate::wire::{WireError, Writer};
use channel::{ChannelId, Consumed, Exit, Said};
use request::Setup;
use run::Ends;

/// Channels at once.
const CHANNELS_MAX: usize = 128;
/// Bytes that wait to be written while the client's own are still read.
const OUTPUT_MAX: usize = 1 << 20;
/// Bytes that wait to be written while channels may add to them.
const OUTPUT_FEW: usize = 256 << 10;
/// Requests to a session that wait for it.
const CONTROLS: usize = 16;
/// How long sessions may take to be left, and a client that is told to go to read that.
const END_LIMIT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(5) };

/// Whose sessions a client gets.
#[derive(Debug, Clone)]
pub struct Target {
    /// The daemon.
    pub client: Client,
    /// The next one.
    pub options: ClientOptions,
    /// The sandbox.
    pub key: SandboxKey,
    /// Whom its workload runs as; `None`: root.
    pub user: Option<WorkloadUser>,
    /// Tells the user what the protocol has no place for.
    pub note: fn(&str),
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client broke the protocol.
    #[error("the SSH client cannot be served")]
    Protocol(#[from] TransportError),
    /// Nothing more can be read.
    #[error("the SSH client cannot be heard")]
    Input(#[source] io::Error),
    /// One of the server's own tasks has panicked.
    #[error("a channel of the SSH client broke")]
    Panicked(#[source] tokio::task::JoinError),
}

impl From<WireError> for ServeError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.into())
    }
}

/// A channel that is open.
struct Channel {
    /// What the client calls it.
    theirs: u32,
    /// What the client still has room for.
    window: Arc<Semaphore>,
    /// What the client may still send.
    ours_left: u32,
    /// Where that goes; `None` behind its end.
    input: Option<mpsc::UnboundedSender<Bytes>>,
    control: mpsc::Sender<SessionControl>,
    /// Before its program.
    setup: Option<(Setup, Ends)>,
    /// It was told that no more is said.
    is_ended: bool,
    /// It was told that all is over.
    is_closed: bool,
    /// The client has closed it: it says no more, and hears how it ended.
    is_left: bool,
    /// Dropped with the channel, of which its program hears.
    #[expect(dead_code, reason = "it is dropped")]
    gone: DropGuard,
}

/// How far the client is.
enum Stage {
    Greeting,
    Open(Option<WorkloadUser>),
}

struct Server {
    target: Target,
    transport: Transport,
    stage: Stage,
    channels: HashMap<ChannelId, Channel>,
    channels_so_far: u32,
    tasks: JoinSet<()>,
    said: mpsc::Sender<Said>,
    tell: mpsc::UnboundedSender<Consumed>,
    home: Home,
}

/// What the channels' tasks have for the client.
struct FromChannels {
    has_said: mpsc::Receiver<Said>,
    told: mpsc::UnboundedReceiver<Consumed>,
}

/// Where the user of a connection is at home, once that was looked up.
pub(crate) type Home = Arc<OnceCell<Option<Vec<u8>>>>;

/// Serves a client until it leaves, or the sandbox ends: `ended` resolves with words for the client.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    target: Target,
    key: Arc<HostKey>,
    input: impl Stream<Item = io::Result<Bytes>> + Unpin,
    output: mpsc::Sender<Bytes>,
    ended: impl Future<Output = String>,
) -> Result<(), ServeError> {
    let (server, from) = Server::new(target, Transport::new(key));
    run(server, from, input, output, ended).await
}

async fn run(
    mut server: Server,
    FromChannels { mut has_said, mut told }: FromChannels,
    mut input: impl Stream<Item = io::Result<Bytes>> + Unpin,
    output: mpsc::Sender<Bytes>,
    ended: impl Future<Output = String>,
) -> Result<(), ServeError> {
    let mut ended = std::pin::pin!(ended);
    let mut farewell: Option<(String, Instant)> = None;
    let result = loop {
        if let Some((text, _)) = &farewell
            && server.tasks.is_empty()
            && has_said.is_empty()
        {
            server.transport.disconnect(message::BY_APPLICATION, text);
            break Ok(());
        }
        let is_slow = server.transport.is_held() || server.transport.output() >= OUTPUT_FEW;
        let step = tokio::select! {
            place = output.reserve(), if server.transport.output() > 0 => match place {
                Ok(place) => {
                    place.send(server.transport.take_output().into());
                    // Whoever reads hears the last words, however slowly.
                    if let Some((_, until)) = farewell.as_mut().filter(|_| server.tasks.is_empty()) {
                        *until = Instant::now() + END_LIMIT;
                    }
                    Ok(())
                }
                // Nobody reads any more.
                Err(_) => break Ok(()),
            },
            came = input.next(), if server.transport.output() < OUTPUT_MAX => match came {
                Some(Ok(bytes)) => server.take(&bytes),
                Some(Err(error)) => break Err(ServeError::Input(error)),
                None => break Ok(()),
            },
            Some(said) = has_said.recv(), if !is_slow => server.say(said),
            Some((channel, count)) = told.recv(), if !is_slow => server.adjust(channel, count),
            Some(joined) = server.tasks.join_next() => joined.map_err(ServeError::Panicked),
            text = &mut ended, if farewell.is_none() => {
                farewell = Some((text, Instant::now() + END_LIMIT));
                Ok(())
            }
            text = wait(farewell.as_mut()), if farewell.is_some() => {
                if server.tasks.is_empty() {
                    // What is left to say, nobody reads.
                    server.transport.disconnect(message::BY_APPLICATION, &text);
                    break Ok(());
                }
                server.tasks.abort_all();
                Ok(())
            }
        };
        match step {
            Ok(()) => {}
            Err(ServeError::Protocol(TransportError::Disconnected(text))) => {
                tracing::debug!(text, "the client says goodbye");
                break Ok(());
            }
            Err(ServeError::Panicked(error)) if error.is_cancelled() => {}
            Err(error) => {
                server.transport.disconnect(message::PROTOCOL_ERROR, &error.to_string());
                break Err(error);
            }
        }
    };
    let last = server.transport.take_output();
    if !last.is_empty() {
        // Whoever does not read it has gone.
        let _ = timeout(END_LIMIT, output.send(last.into())).await;
    }
    drop((has_said, told));
    let Server { mut tasks, channels, .. } = server;
    drop(channels);
    // Sessions of those that take longer end by themselves.
    let _ = timeout(END_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
    result
}

/// Waits for the end of a client's time, which then begins anew, and says what it is told.
async fn wait(farewell: Option<&mut (String, Instant)>) -> String {
    match farewell {
        Some((text, until)) => {
            sleep_until(*until).await;
            *until = Instant::now() + END_LIMIT;
            text.clone()
        }
        None => std::future::pending().await,
    }
}

impl Server {
    fn new(target: Target, transport: Transport) -> (Self, FromChannels) {
        let ((said, has_said), (tell, told)) = (mpsc::channel(CONTROLS), mpsc::unbounded_channel());
        let server = Self {
            target,
            transport,
            stage: Stage::Greeting,
            channels: HashMap::new(),
            channels_so_far: 0,
            tasks: JoinSet::new(),
            said,
            tell,
            home: Home::default(),
        };
        (server, FromChannels { has_said, told })
    }

    fn send(&mut self, message: Writer) -> Result<(), ServeError> {
        Ok(self.transport.send(message.done())?)
    }

    /// Tells the client what a channel says.
    fn say(&mut self, said: Said) -> Result<(), ServeError> {
        let (Said::Data { channel: id, .. } | Said::Eof(id) | Said::Exit(id, _) | Said::Done(id)) = said;
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| !channel.is_closed) else { return Ok(()) };
        let theirs = channel.theirs;
        let message = match said {
            Said::Data { .. } | Said::Eof(_) if channel.is_ended => return Ok(()),
            Said::Data { is_error: false, bytes, .. } => {
                Writer::message(message::CHANNEL_DATA).u32(theirs).bytes(&bytes)
            }
            Said::Data { bytes, .. } => {
                Writer::message(message::CHANNEL_EXTENDED_DATA).u32(theirs).u32(message::STDERR).bytes(&bytes)
            }
            Said::Eof(_) => {
                channel.is_ended = true;
                Writer::message(message::CHANNEL_EOF).u32(theirs)
            }
            Said::Exit(_, exit) => {
                let request = Writer::message(message::CHANNEL_REQUEST).u32(theirs);
                match exit {
                    Exit::Status(status) => request.bytes(b"exit-status").bool(false).u32(status),
                    Exit::Signal(name) => request
                        .bytes(b"exit-signal")
                        .bool(false)
                        .bytes(name.as_bytes())
                        .bool(false)
                        .bytes(b"")
                        .bytes(b""),
                }
            }
            Said::Done(_) => {
                channel.is_closed = true;
                if channel.is_left {
                    self.channels.remove(&id);
                }
                Writer::message(message::CHANNEL_CLOSE).u32(theirs)
            }
        };
        self.send(message)
    }

    /// A channel has read so much: the client may send as much again.
    fn adjust(&mut self, id: ChannelId, count: u32) -> Result<(), ServeError> {
        let is_open = |channel: &&mut Channel| !channel.is_closed && !channel.is_left;
        let Some(channel) = self.channels.get_mut(&id).filter(is_open) else { return Ok(()) };
        channel.ours_left = channel.ours_left.saturating_add(count);
        let message = Writer::message(message::CHANNEL_WINDOW_ADJUST).u32(channel.theirs).u32(count);
        self.send(message)
    }
}
