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
mod request;
pub(crate) mod run;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sandpen_client::{Client, ClientOptions, Forward, SessionControl};
use sandpen_types::spec::{SandboxKey, WorkloadUser};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::host_key::HostKey;
use crate::message;
use crate::sftp;
use crate::transport::{Transport, TransportError};
use crate::wire::{Reader, WireError, Writer};
use channel::{ChannelId, ChannelReader, Consumed, Exit, PIECE, Said, WINDOW, writers};
use request::{Program, Setup, is_loopback};
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
const END_LIMIT: Duration = Duration::from_secs(5);

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
    is_ended: bool,
    is_closed: bool,
    _gone: DropGuard,
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

/// Where the user of a connection is at home, once that was looked up.
pub(crate) type Home = Arc<OnceCell<Option<Vec<u8>>>>;

/// Serves a client until it leaves, or the sandbox ends: `ended` resolves with words for the client.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    target: Target,
    key: Arc<HostKey>,
    mut input: impl Stream<Item = io::Result<Bytes>> + Unpin,
    output: mpsc::Sender<Bytes>,
    ended: impl Future<Output = String>,
) -> Result<(), ServeError> {
    let ((said, mut has_said), (tell, mut told)) = (mpsc::channel(CONTROLS), mpsc::unbounded_channel());
    let mut server = Server {
        target,
        transport: Transport::new(key)?,
        stage: Stage::Greeting,
        channels: HashMap::new(),
        channels_so_far: 0,
        tasks: JoinSet::new(),
        said,
        tell,
        home: Home::default(),
    };
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
            () = wait(farewell.as_ref()), if farewell.is_some() => {
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

async fn wait(farewell: Option<&(String, Instant)>) {
    match farewell {
        Some((_, until)) => sleep_until(*until).await,
        None => std::future::pending().await,
    }
}

impl Server {
    fn send(&mut self, message: Writer) -> Result<(), ServeError> {
        Ok(self.transport.send(message.done())?)
    }

    /// Takes what came.
    fn take(&mut self, bytes: &[u8]) -> Result<(), ServeError> {
        self.transport.push(bytes);
        while let Some(message) = self.transport.next()? {
            self.hear(&message)?;
        }
        Ok(())
    }

    fn hear(&mut self, message: &[u8]) -> Result<(), ServeError> {
        let mut reader = Reader::new(message);
        let number = reader.u8()?;
        match (number, &self.stage) {
            (message::SERVICE_REQUEST, _) => {
                let name = reader.bytes()?;
                self.send(Writer::message(message::SERVICE_ACCEPT).bytes(name))
            }
            (message::USERAUTH_REQUEST, Stage::Greeting) => self.greet(reader),
            // It has been let in.
            (message::USERAUTH_REQUEST, Stage::Open(_)) => Ok(()),
            (message::GLOBAL_REQUEST.., Stage::Greeting) => {
                Err(TransportError::Unexpected { number, when: "nobody has said who it is" }.into())
            }
            (message::GLOBAL_REQUEST, _) => {
                let _name = reader.bytes()?;
                // There are none that would be granted: nothing listens here for a sandbox.
                if reader.bool()? { self.send(Writer::message(message::REQUEST_FAILURE)) } else { Ok(()) }
            }
            (message::CHANNEL_OPEN, _) => self.open(reader),
            (message::CHANNEL_WINDOW_ADJUST..=message::CHANNEL_REQUEST, _) => self.hear_of(number, reader),
            // Answers to what was never asked.
            (message::CHANNEL_SUCCESS | message::CHANNEL_FAILURE, _) => Ok(()),
            _ => Ok(self.transport.reject()?),
        }
    }

    /// Who it wants to be: anybody is let in, with whatever it offers.
    fn greet(&mut self, mut reader: Reader<'_>) -> Result<(), ServeError> {
        let (user, service) = (reader.text()?, reader.bytes()?);
        let own = self.target.user.as_ref().map_or_else(|| "root".to_owned(), ToString::to_string);
        let user = if user == own { Ok(None) } else { user.parse().map(Some) };
        match user {
            Ok(user) if service == b"ssh-connection" => {
                self.stage = Stage::Open(user);
                self.send(Writer::message(message::USERAUTH_SUCCESS))
            }
            Ok(_) => self.send(Writer::message(message::USERAUTH_FAILURE).bytes(b"none").bool(false)),
            Err(error) => {
                let text = format!("sandpen: {error}\r\n");
                self.send(Writer::message(message::USERAUTH_BANNER).bytes(text.as_bytes()).bytes(b""))?;
                self.send(Writer::message(message::USERAUTH_FAILURE).bytes(b"none").bool(false))
            }
        }
    }

    fn open(&mut self, mut reader: Reader<'_>) -> Result<(), ServeError> {
        let (kind, theirs, window, piece) = (reader.bytes()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let refusal = |reason: u32, text: &str| {
            Writer::message(message::CHANNEL_OPEN_FAILURE).u32(theirs).u32(reason).bytes(text.as_bytes()).bytes(b"")
        };
        if self.channels.len() >= CHANNELS_MAX {
            let text = format!("{CHANNELS_MAX} channels are open, which is all there can be");
            return self.send(refusal(message::RESOURCE_SHORTAGE, &text));
        }
        let port = match kind {
            b"session" => None,
            b"direct-tcpip" => {
                let (host, port) = (reader.text()?, reader.u32()?);
                if !is_loopback(host) {
                    let text =
                        format!("a sandbox is asked for its own ports only, as localhost: {host:?} is another host");
                    return self.send(refusal(message::PROHIBITED, &text));
                }
                let Some(port) = u16::try_from(port).ok().and_then(NonZeroU16::new) else {
                    return self.send(refusal(message::CONNECT_FAILED, &format!("there is no port {port}")));
                };
                Some(port)
            }
            _ => return self.send(refusal(message::UNKNOWN_CHANNEL_TYPE, "there are sessions and direct-tcpip here")),
        };
        let (ends, mut channel) = self.channel(theirs, window, piece);
        let (id, target) = (ends.channel, self.target.clone());
        match port {
            None => channel.setup = Some((Setup::default(), ends)),
            Some(port) => {
                let (client, options, key) = (target.client.clone(), target.options.clone(), target.key.clone());
                self.tasks.spawn(run::connection(target, Forward { client, options, key, port }, ends));
            }
        }
        self.channels.insert(id, channel);
        let confirmed = Writer::message(message::CHANNEL_OPEN_CONFIRMATION);
        self.send(confirmed.u32(theirs).u32(id.0).u32(WINDOW).u32(PIECE))
    }

    fn channel(&mut self, theirs: u32, window: u32, piece: u32) -> (Ends, Channel) {
        let id = ChannelId(self.channels_so_far);
        self.channels_so_far = self.channels_so_far.wrapping_add(1);
        let window = Arc::new(Semaphore::new(usize::try_from(window).unwrap_or(usize::MAX)));
        let (input, came) = mpsc::unbounded_channel();
        let (control, controls) = mpsc::channel(CONTROLS);
        let gone = CancellationToken::new();
        let [output, errors] = writers(id, &window, piece, &self.said);
        let ends = Ends {
            channel: id,
            input: ChannelReader { channel: id, came, rest: Bytes::new(), consumed: 0, tell: self.tell.clone() },
            output,
            errors,
            control: controls,
            said: self.said.clone(),
            gone: gone.clone(),
        };
        let (ours_left, input, setup, _gone) = (WINDOW, Some(input), None, gone.drop_guard());
        (ends, Channel { theirs, window, ours_left, input, control, setup, is_ended: false, is_closed: false, _gone })
    }

    /// What the client says of a channel.
    fn hear_of(&mut self, number: u8, mut reader: Reader<'_>) -> Result<(), ServeError> {
        let id = ChannelId(reader.u32()?);
        let unexpected = |when| ServeError::from(TransportError::Unexpected { number, when });
        let Some(channel) = self.channels.get_mut(&id) else { return Err(unexpected("there is no such channel")) };
        match number {
            message::CHANNEL_WINDOW_ADJUST => {
                let more = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
                let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
                if channel.window.available_permits().saturating_add(more) > most {
                    return Err(unexpected("its window has no end"));
                }
                channel.window.add_permits(more);
            }
            message::CHANNEL_DATA | message::CHANNEL_EXTENDED_DATA => {
                if number == message::CHANNEL_EXTENDED_DATA {
                    reader.u32()?;
                }
                let bytes = reader.bytes()?;
                let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                channel.ours_left =
                    channel.ours_left.checked_sub(count).ok_or_else(|| unexpected("its window is full"))?;
                if let Some(input) = channel.input.as_ref().filter(|_| !bytes.is_empty()) {
                    // A program that has ended reads no more.
                    let _ = input.send(Bytes::copy_from_slice(bytes));
                }
            }
            message::CHANNEL_EOF => channel.input = None,
            message::CHANNEL_CLOSE => {
                channel.window.close();
                let (theirs, is_closed) = (channel.theirs, channel.is_closed);
                self.channels.remove(&id);
                if !is_closed {
                    return self.send(Writer::message(message::CHANNEL_CLOSE).u32(theirs));
                }
            }
            message::CHANNEL_REQUEST => return self.request(id, reader),
            _ => return Err(unexpected("channels are open")),
        }
        Ok(())
    }

    fn request(&mut self, id: ChannelId, mut reader: Reader<'_>) -> Result<(), ServeError> {
        let (kind, wants_reply) = (reader.bytes()?, reader.bool()?);
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        let home = self.home.clone();
        let is_done = match (kind, &mut channel.setup) {
            (b"window-change", _) => {
                let size = request::size(&mut reader)?;
                channel.control.try_send(SessionControl::Resize(size)).is_ok()
            }
            (b"signal", _) => request::signal(reader.text()?)
                .is_some_and(|signal| channel.control.try_send(SessionControl::Signal(signal)).is_ok()),
            (b"pty-req", Some((setup, _))) => setup.terminal(&mut reader)?,
            (b"env", Some((setup, _))) => setup.variable(reader.bytes()?, reader.bytes()?),
            (b"exec" | b"shell" | b"subsystem", Some(_)) => {
                let program = match kind {
                    b"shell" => Some(Program::Shell),
                    b"exec" => Some(Program::Command(reader.bytes()?.to_vec())),
                    _ => (reader.bytes()? == b"sftp").then_some(Program::Sftp),
                };
                match (program, &self.stage, channel.setup.take()) {
                    (Some(Program::Sftp), Stage::Open(user), Some((_, ends))) => {
                        self.tasks.spawn(sftp::run(self.target.clone(), user.clone(), home, ends));
                        true
                    }
                    (Some(program), Stage::Open(user), Some((setup, ends))) => {
                        let spec = setup.spec(program, user.clone());
                        self.tasks.spawn(run::session(self.target.clone(), spec, home, ends));
                        true
                    }
                    (_, _, setup) => {
                        channel.setup = setup;
                        false
                    }
                }
            }
            _ => false,
        };
        let (theirs, number) =
            (channel.theirs, if is_done { message::CHANNEL_SUCCESS } else { message::CHANNEL_FAILURE });
        if wants_reply { self.send(Writer::message(number).u32(theirs)) } else { Ok(()) }
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
                Writer::message(message::CHANNEL_CLOSE).u32(theirs)
            }
        };
        self.send(message)
    }

    /// A channel has read so much: the client may send as much again.
    fn adjust(&mut self, id: ChannelId, count: u32) -> Result<(), ServeError> {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| !channel.is_closed) else { return Ok(()) };
        channel.ours_left = channel.ours_left.saturating_add(count);
        let message = Writer::message(message::CHANNEL_WINDOW_ADJUST).u32(channel.theirs).u32(count);
        self.send(message)
    }
}
