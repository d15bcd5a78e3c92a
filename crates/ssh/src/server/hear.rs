//! What a client says, message by message.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use sandpen_client::{Forward, SessionControl};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::channel::{ChannelId, ChannelReader, PIECE, WINDOW, writers};
use super::request::{self, Program, Setup, is_loopback};
use super::run::{self, Ends};
use super::{CHANNELS_MAX, CONTROLS, Channel, ServeError, Server, Stage};
use crate::message;
use crate::sftp;
use crate::transport::TransportError;
use crate::wire::{Reader, Writer};

impl Server {
    /// Takes what came.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), ServeError> {
        self.transport.push(bytes);
        while let Some(message) = self.transport.next_message()? {
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
        let (ours_left, input, setup, gone) = (WINDOW, Some(input), None, gone.drop_guard());
        (
            ends,
            Channel {
                theirs,
                window,
                ours_left,
                input,
                control,
                setup,
                is_ended: false,
                is_closed: false,
                is_left: false,
                gone,
            },
        )
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
                if channel.is_ended && !channel.is_closed {
                    // Both have said all: what it sent last still goes to the program, and comes to the program's end.
                    (channel.input, channel.is_left) = (None, true);
                    return Ok(());
                }
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
        // Who has heard that the channel is closed knows it no more.
        if wants_reply && !channel.is_closed { self.send(Writer::message(number).u32(theirs)) } else { Ok(()) }
    }
}
