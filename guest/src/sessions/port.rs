//! The port that sessions share: frames in, frames out, never blocking.
//!
//! At most one frame each way is held: one that has come in parts, and one that the port took a part of.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{read, write};
use sandpen_guest::protocol::session::{HostFrame, SessionCommand, SessionFrame, SessionFrameReader};

/// The non-blocking port.
#[derive(Debug)]
pub struct Port {
    file: OwnedFd,
    reader: SessionFrameReader<HostFrame>,
    frame: Vec<u8>,
    written: usize,
}

impl Port {
    pub fn new(port: OwnedFd) -> Self {
        // The host is believed, and a Resume is never to be lost, whatever an earlier host has left before it.
        Self { file: port, reader: SessionFrameReader::lenient(), frame: Vec::new(), written: 0 }
    }

    /// What to wait for; always also its host's absence.
    pub fn interest(&self, reads: bool, writes: bool) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, writes);
        PollFd::new(self.file.as_fd(), flags)
    }

    /// The next frame; `None` when there is none now.
    pub fn receive(&mut self) -> Result<Option<SessionFrame<SessionCommand>>, Errno> {
        let mut chunk = [0; 4096];
        loop {
            // A lenient reader knows no errors.
            if let Ok(Some(frame)) = self.reader.next() {
                return Ok(Some(frame));
            }
            // It has room, or there were a frame.
            let room = SessionFrameReader::<HostFrame>::CAPACITY - self.reader.buffered();
            match read(&self.file, &mut chunk[..room.min(4096)]) {
                // 0: no host has the port open just now.
                Ok(0) | Err(Errno::EAGAIN) => return Ok(None),
                Ok(len) => {
                    let taken = self.reader.push(&chunk[..len]);
                    debug_assert_eq!(taken, len);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Writes what is left of the frame; gives how much was written, and whether that was all.
    pub fn flush(&mut self) -> Result<(usize, bool), Errno> {
        let begin = self.written;
        while self.written < self.frame.len() {
            match write(&self.file, &self.frame[self.written..]) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok((self.written - begin, false)),
                Ok(len) => self.written += len,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let written = self.written - begin;
        (self.frame, self.written) = (Vec::new(), 0);
        Ok((written, true))
    }

    /// Takes the next frame to write; the last one must be flushed.
    pub fn put(&mut self, frame: Vec<u8>) {
        debug_assert!(self.frame.is_empty());
        (self.frame, self.written) = (frame, 0);
    }
}
