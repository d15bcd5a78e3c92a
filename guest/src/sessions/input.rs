//! The standard input of a session.
//!
//! ```text
//!   open ──EndInput──▶ ending ──all written──▶ ended          (a terminal stays: its end-of-file character is typed)
//!     └──── nobody reads it any more ────┴───▶ closed
//! ```
//!
//! What the host sends lies in a buffer of at most a window until its reader takes it.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::write;
use sandpen_guest::protocol::session::SessionReport;

use crate::log::log;
use crate::terminal::end_of_file;

/// So much is written at once, where so much has come.
const WRITTEN: usize = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Input {
    sink: Option<OwnedFd>,
    is_terminal: bool,
    /// Whether there ever was somebody to read it.
    is_fed: bool,
    buffer: VecDeque<u8>,
    received: u64,
    /// How much there will be, once that is known.
    total: Option<u64>,
    /// The last byte, for a terminal.
    last: Option<u8>,
    /// The end was typed on the terminal.
    typed_end: bool,
    /// Nobody reads it any more.
    is_closed: bool,
    /// Something has come that nobody tried to write yet.
    is_fresh: bool,
    /// What the host knows of `received` and of its limit; `None`: of neither.
    told: Option<u64>,
    limit: u64,
    told_closed: bool,
}

impl Input {
    /// An input into the non-blocking `sink`; without one, nothing comes.
    pub fn new(sink: Option<OwnedFd>, is_terminal: bool) -> Self {
        Self { is_fed: sink.is_some(), sink, is_terminal, ..Self::default() }
    }

    /// Whether it takes input.
    pub fn is_open(&self) -> bool {
        self.is_fed && !self.is_closed
    }

    /// Bytes that have come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that are here, or that the host may send.
    pub fn held(&self) -> usize {
        let promised = if self.sink.is_some() { self.limit.saturating_sub(self.received) } else { 0 };
        self.buffer.len() + usize::try_from(promised).unwrap_or(usize::MAX)
    }

    /// Whether the end has come.
    pub fn has_ended(&self) -> bool {
        self.total == Some(self.received)
    }

    /// What to wait for; also an error, when its reader goes.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let flags = if self.buffer.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        self.sink.as_ref().map(|sink| PollFd::new(sink.as_fd(), flags))
    }

    /// Takes bytes, which [`Input::write_fresh`] has to follow; says whether the host may send them. What is there already is passed
    /// over.
    pub fn push(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len() as u64) else { return false };
        if offset > self.received || end > self.limit.max(self.received) || self.total.is_some_and(|total| end > total)
        {
            return false;
        }
        let known = usize::try_from(self.received - offset).unwrap_or(usize::MAX);
        let fresh = bytes.get(known..).unwrap_or_default();
        self.received += fresh.len() as u64;
        if self.sink.is_some() {
            self.last = fresh.last().copied().or(self.last);
            self.buffer.extend(fresh);
            self.is_fresh = true;
        }
        // A reader that waits is woken by each write, and runs before the next one: few large ones.
        if self.buffer.len() >= WRITTEN {
            self.write();
        }
        true
    }

    /// The end comes after `total` bytes; says whether that can be.
    pub fn end(&mut self, total: u64) -> bool {
        if total < self.received || self.total.is_some_and(|known| known != total) {
            return false;
        }
        self.total = Some(total);
        self.write();
        true
    }

    /// Its reader has gone, or nobody is to feed it any more.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.sink = None;
        self.buffer = VecDeque::new();
    }

    /// Writes what has come since it was tried last; a reader that takes nothing costs nothing here.
    pub fn write_fresh(&mut self) {
        if self.is_fresh {
            self.write();
        }
    }

    /// Writes what the reader takes now.
    pub fn write(&mut self) {
        self.is_fresh = false;
        while let Some(sink) = &self.sink {
            let bytes = self.buffer.as_slices().0;
            if bytes.is_empty() {
                if !self.finish() {
                    return;
                }
                continue;
            }
            match write(sink, bytes) {
                Ok(len) => drop(self.buffer.drain(..len)),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // EIO: the same of a terminal.
                Err(Errno::EPIPE | Errno::EIO) => self.close(),
                Err(errno) => {
                    log!("writing a session's input, which ends here: {errno}");
                    self.close();
                }
            }
        }
    }

    /// All is written: the end, if it has come. Says whether there is more to do.
    fn finish(&mut self) -> bool {
        if self.buffer.capacity() > 4096 {
            self.buffer = VecDeque::new();
        }
        if !self.has_ended() || self.typed_end {
            return false;
        }
        match &self.sink {
            Some(master) if self.is_terminal => {
                self.buffer.extend(end_of_file(master.as_fd(), self.last));
                self.typed_end = true;
            }
            _ => self.sink = None,
        }
        true
    }

    /// The host has what a state says.
    pub fn told_state(&mut self) {
        self.told = None;
        self.told_closed = !self.is_open();
    }

    /// What the host is to hear now. Not of each byte: when half of the window is free again, or all is written.
    pub fn report(&mut self, window: usize) -> Option<SessionReport> {
        if !self.is_fed || self.told_closed {
            return None;
        }
        if self.is_closed {
            self.told_closed = true;
            return Some(SessionReport::InputClosed);
        }
        let room = window.saturating_sub(self.buffer.len()) as u64;
        let limit = if self.total.is_some() { self.limit } else { self.limit.max(self.received + room) };
        let is_news = self.told.is_none_or(|told| {
            (self.buffer.is_empty() && self.received > told) || limit - self.limit >= (window as u64 / 2).max(1)
        });
        if !is_news {
            return None;
        }
        (self.told, self.limit) = (Some(self.received), limit.max(self.received));
        Some(SessionReport::InputWindow { received: self.received, limit: self.limit })
    }

    /// Bytes that wait for the reader.
    #[cfg(test)]
    fn buffered(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::unistd::pipe2;

    use super::*;

    const WINDOW: usize = 6000;

    fn input() -> (Input, File) {
        let (reader, sink) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        fcntl(&sink, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        (Input::new(Some(sink), false), reader.into())
    }

    fn window(input: &mut Input) -> Option<(u64, u64)> {
        match input.report(WINDOW) {
            Some(SessionReport::InputWindow { received, limit }) => Some((received, limit)),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reader_that_does_not_read_fills_one_window() {
        let (mut input, mut reader) = input();
        assert!(!input.push(0, b"x"), "before any window was told");
        assert_eq!(window(&mut input), Some((0, 6000)));
        assert_eq!(window(&mut input), None);
        assert!(input.push(0, &[1; 100]));
        assert_eq!(window(&mut input), None, "it is not written yet");
        input.write_fresh();
        assert_eq!(window(&mut input), Some((100, 6100)));
        assert!(input.push(100, &[2; 5000]) && window(&mut input).is_none(), "less than half is free");
        assert!(!input.push(5101, b"x"), "a gap");
        assert!(!input.push(5100, &[3; 1001]), "beyond the limit");
        assert!(!input.push(u64::MAX, b"x"));
        assert!(input.push(50, &[9; 60]), "what has come is passed over");
        assert!(input.push(5000, &[3; 1100]));
        assert_eq!(input.received(), 6100);
        assert!(input.buffered() <= WINDOW);
        let mut text = Vec::new();
        while text.len() < 6100 {
            let mut chunk = [0; 1000];
            let len = reader.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..len]);
            input.write();
        }
        assert!(text == [vec![1; 100], vec![2; 5000], vec![3; 1000]].concat());
        assert_eq!(window(&mut input), Some((6100, 12_100)));
    }

    #[test]
    fn it_ends_where_the_host_says() {
        let (mut input, mut reader) = input();
        assert!(window(&mut input).is_some());
        assert!(input.end(5) && !input.has_ended());
        assert!(input.end(5) && !input.end(6), "once");
        assert!(!input.push(0, b"123456"), "beyond the end");
        assert!(input.push(0, b"12345") && input.has_ended());
        input.write_fresh();
        assert_eq!(window(&mut input), Some((5, 6000)), "it has all");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "12345");
        assert_eq!(window(&mut input), None);
    }

    #[test]
    fn a_reader_that_goes_is_told_once() {
        let (mut input, reader) = input();
        assert!(window(&mut input).is_some());
        drop(reader);
        assert!(input.push(0, b"x"));
        input.write_fresh();
        assert_eq!(input.report(WINDOW), Some(SessionReport::InputClosed));
        assert_eq!(input.report(WINDOW), None);
        assert!(input.push(1, b"x") && input.end(2), "it is passed over");
        assert!(!input.is_open() && input.buffered() == 0);
    }
}
