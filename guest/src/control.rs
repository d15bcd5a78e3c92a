//! The guest's side of the control port: messages in, messages out, never blocking.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use sandpen_guest::protocol::{FrameError, FrameReader, Garbage, GuestMessage, HostMessage, encode};

/// Messages that wait to be handled before more is read.
const INBOX_MAX: usize = 64;
/// Bytes that wait to be sent before more is read: whoever asks must also listen.
const OUTBOX_MAX: usize = 64 << 10;

/// Why the control port is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Reading or writing failed.
    #[error("the control port failed")]
    Port(#[from] Errno),
    /// The host sent what cannot be understood.
    #[error("the host broke the control protocol")]
    Frame(#[from] FrameError),
}

/// The control port with what waits on both sides of it.
#[derive(Debug)]
pub struct Control {
    port: OwnedFd,
    reader: FrameReader<HostMessage>,
    inbox: VecDeque<HostMessage>,
    outbox: Vec<u8>,
}

impl Control {
    /// Takes the non-blocking port.
    pub fn new(port: OwnedFd) -> Self {
        // A daemon that dies while it writes `Start` leaves half a frame.
        let reader = FrameReader::new(Garbage::Skip);
        Self { port, reader, inbox: VecDeque::new(), outbox: Vec::new() }
    }

    /// What to wait for.
    pub fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.has_room());
        flags.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        PollFd::new(self.port.as_fd(), flags)
    }

    fn has_room(&self) -> bool {
        self.inbox.len() < INBOX_MAX && self.outbox.len() < OUTBOX_MAX
    }

    /// Reads what has come.
    pub fn receive(&mut self) -> Result<(), ControlError> {
        let mut chunk = [0; 4096];
        while self.has_room() {
            // 0: no host has the port open just now.
            let len = match read(&self.port, &mut chunk) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(()),
                Ok(len) => len,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut rest = &chunk[..len];
            while !rest.is_empty() {
                rest = &rest[self.reader.push(rest)..];
                while let Some(message) = self.reader.next()? {
                    self.inbox.push_back(message);
                }
            }
        }
        Ok(())
    }

    /// The oldest message that was not handled yet.
    pub fn next(&mut self) -> Option<HostMessage> {
        self.inbox.pop_front()
    }

    /// What waits, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &HostMessage> {
        self.inbox.iter()
    }

    /// Sends a message, now or as soon as the port takes it.
    pub fn send(&mut self, message: &GuestMessage) -> Result<(), ControlError> {
        self.send_all(std::slice::from_ref(message))
    }

    /// Sends messages in one piece, if the port takes them.
    pub fn send_all(&mut self, messages: &[GuestMessage]) -> Result<(), ControlError> {
        for message in messages {
            self.outbox.extend(encode(message)?);
        }
        self.flush()
    }

    /// Sends what waits, as far as the port takes it.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while !self.outbox.is_empty() {
            let piece = &self.outbox[..self.outbox.len().min(4096)];
            match write(&self.port, piece) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(()),
                Ok(len) => drop(self.outbox.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Writes last words to a non-blocking port, for at most `limit`. Nobody is left to hear of errors.
pub fn write_all_until(port: &OwnedFd, mut bytes: &[u8], limit: Duration) {
    let deadline = Instant::now() + limit;
    while !bytes.is_empty() {
        match write(port, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::EAGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                match poll(&mut [PollFd::new(port.as_fd(), PollFlags::POLLOUT)], timeout) {
                    Ok(1) | Err(Errno::EINTR) => {}
                    _ => return,
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        if Instant::now() >= deadline {
            return;
        }
    }
}
