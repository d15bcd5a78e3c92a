//! Feeds the workload's standard input, a pipe or a terminal, from the stdin port.
//!
//! ```text
//!            ┌──── pipe took all ────┐
//!            ▼                       │
//!   ──▶ reading the port ──bytes──▶ writing the pipe
//!            │      │                │
//!            │      └── reader gone ─┴──▶ discarding (reads on, so that the host is not held up)
//!            └─ end of input, all written, or garbage ──▶ done
//! ```
//!
//! While the pipe is full the port is not read: the host's writer waits. With a terminal, the end of
//! the input is its end-of-file character, and reading goes on.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{read, write};
use sandpen_guest::protocol::{FrameReader, Garbage, StdinMessage};

use crate::log::log;
use crate::terminal::end_of_file;

/// Reads of the port in one go, before others get their turn.
const ROUNDS: usize = 32;

/// The stdin port and the workload's pipe.
#[derive(Debug)]
pub struct StdinFeed {
    port: OwnedFd,
    reader: FrameReader<StdinMessage>,
    pipe: Option<OwnedFd>,
    is_terminal: bool,
    /// The last byte for the workload.
    last: Option<u8>,
    pending: Vec<u8>,
    written: usize,
    ended: bool,
}

impl StdinFeed {
    /// A feed from the non-blocking `port` into the non-blocking pipe.
    pub fn new(port: OwnedFd, pipe: OwnedFd) -> Self {
        let reader = FrameReader::new(Garbage::Refuse);
        let (pipe, pending) = (Some(pipe), Vec::new());
        Self { port, reader, pipe, is_terminal: false, last: None, pending, written: 0, ended: false }
    }

    /// A feed from the non-blocking `port` into a terminal by its non-blocking master. The end of the
    /// input is typed there, after which more may come: whoever types next.
    pub fn of_terminal(port: OwnedFd, master: OwnedFd) -> Self {
        Self { is_terminal: true, ..Self::new(port, master) }
    }

    /// What to wait for on the port.
    pub fn port_interest(&self) -> Option<PollFd<'_>> {
        (!self.ended && self.pending.is_empty()).then(|| PollFd::new(self.port.as_fd(), PollFlags::POLLIN))
    }

    /// What to wait for on the pipe; also an error there, when the workload closes its end.
    pub fn pipe_interest(&self) -> Option<PollFd<'_>> {
        let flags = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        self.pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), flags))
    }

    /// The workload closed its end.
    pub fn reader_gone(&mut self) {
        self.pipe = None;
        self.pending.clear();
    }

    /// Carries what can be carried now.
    pub fn carry(&mut self) -> Result<(), Errno> {
        for _ in 0..ROUNDS {
            if !self.write_pending()? {
                return Ok(());
            }
            if !self.take_message()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Says whether nothing is left to write.
    fn write_pending(&mut self) -> Result<bool, Errno> {
        while let (Some(pipe), false) = (&self.pipe, self.pending.is_empty()) {
            match write(pipe, &self.pending[self.written..]) {
                Ok(len) => {
                    self.written += len;
                    if self.written == self.pending.len() {
                        self.pending.clear();
                    }
                }
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                // EIO: the same of a terminal.
                Err(Errno::EPIPE | Errno::EIO) => self.reader_gone(),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// Takes the next message from the port; `false` when there is none now or ever.
    fn take_message(&mut self) -> Result<bool, Errno> {
        while !self.ended {
            match self.reader.next() {
                Ok(Some(StdinMessage::Bytes(bytes))) => {
                    self.last = bytes.last().copied().or(self.last);
                    self.pass_on(bytes.into_vec());
                    return Ok(true);
                }
                Ok(Some(StdinMessage::End)) if self.is_terminal => {
                    if let Some(master) = &self.pipe {
                        let end = end_of_file(master.as_fd(), self.last.take());
                        self.pass_on(end);
                    }
                    return Ok(true);
                }
                Ok(Some(StdinMessage::End)) => self.end(),
                Ok(None) => {
                    // No more is read than the reader takes; it has room, or there were a message.
                    let mut chunk = [0; 4096];
                    let room = FrameReader::<StdinMessage>::CAPACITY - self.reader.buffered();
                    match read(&self.port, &mut chunk[..room.min(4096)]) {
                        Ok(0) | Err(Errno::EAGAIN) => return Ok(false),
                        Ok(len) => {
                            let taken = self.reader.push(&chunk[..len]);
                            debug_assert_eq!(taken, len);
                        }
                        Err(Errno::EINTR) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                Err(error) => {
                    log!("standard input ends here: {error}");
                    self.end();
                }
            }
        }
        Ok(false)
    }

    fn pass_on(&mut self, bytes: Vec<u8>) {
        if self.pipe.is_some() {
            self.pending = bytes;
            self.written = 0;
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.pipe = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;
    use sandpen_guest::protocol::{Bytes, encode};

    use super::*;

    fn feed() -> (File, StdinFeed, File) {
        let (port, host) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let (workload, pipe) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (File::from(host), StdinFeed::new(port, pipe), File::from(workload))
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        encode(&StdinMessage::Bytes(Bytes::from(bytes))).unwrap()
    }

    #[test]
    fn bytes_then_end_reach_the_workload() {
        let (mut host, mut feed, mut workload) = feed();
        host.write_all(&[frame(b"one "), frame(b"two"), encode(&StdinMessage::End).unwrap()].concat()).unwrap();
        feed.carry().unwrap();
        let mut text = [0; 7];
        workload.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one two");
        assert!(feed.port_interest().is_none() && feed.pipe_interest().is_none());
    }

    #[test]
    fn a_workload_that_does_not_read_holds_up_the_host() {
        let (mut host, mut feed, mut workload) = feed();
        let mut sent = 0;
        while let Ok(len) = host.write(&frame(&[1; 4000])) {
            assert_eq!(len, frame(&[1; 4000]).len());
            sent += 4000;
            feed.carry().unwrap();
            assert!(sent < 1 << 20, "held up by nothing");
        }
        assert!(feed.port_interest().is_none(), "the port is left alone while the pipe is full");
        let mut received = 0;
        while received < sent {
            let mut chunk = [0; 9000];
            received += workload.read(&mut chunk).unwrap_or(0);
            feed.carry().unwrap();
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn a_workload_that_closed_its_input_is_no_error() {
        let (mut host, mut feed, workload) = feed();
        drop(workload);
        for _ in 0..100 {
            host.write_all(&frame(&[1; 4000])).unwrap();
            feed.carry().unwrap();
        }
        assert!(feed.pipe_interest().is_none() && feed.port_interest().is_some());
    }

    #[test]
    fn garbage_ends_the_input() {
        let (mut host, mut feed, mut workload) = feed();
        host.write_all(&[frame(b"good"), b"garbage".to_vec()].concat()).unwrap();
        feed.carry().unwrap();
        let mut text = [0; 4];
        workload.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"good");
        assert!(feed.port_interest().is_none() && feed.pipe_interest().is_none());
    }
}
