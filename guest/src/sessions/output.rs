//! One output stream of a session: what it wrote and the host has not taken for good.
//!
//! ```text
//!   open ──▶ draining (the main process has ended) ──▶ ended
//!     │           what was in the pipe then is read       ▲
//!     └─ end of the pipe ─────────────────────────────────┘
//! ```
//!
//! ```text
//!            taken         sent            written
//!   ───────────┼─────────────┼────────────────┼──────▶ offsets
//!              └─────────── buffer ───────────┘  at most a window, or nothing is read
//! ```

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::poll::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionread, read};
use sandpen_guest::protocol::session::{Direction as _, GuestFrame, OutputState, SessionStream, encode_bytes};

use crate::log::log;

/// A buffer of so little is kept when it is empty.
const KEPT: usize = 4 << 10;
/// More than a terminal holds of what was written on it.
const TERMINAL_MAX: u64 = 128 << 10;

/// See the module.
#[derive(Debug)]
pub struct Output {
    stream: SessionStream,
    source: Option<OwnedFd>,
    is_terminal: bool,
    /// While draining: how much more is read at most.
    left: Option<u64>,
    buffer: VecDeque<u8>,
    taken: u64,
    sent: u64,
    /// Up to where the host has room.
    limit: u64,
}

impl Output {
    /// A stream out of the non-blocking `source`; without one it has ended.
    pub fn new(stream: SessionStream, source: Option<OwnedFd>, is_terminal: bool) -> Self {
        Self { stream, source, is_terminal, left: None, buffer: VecDeque::new(), taken: 0, sent: 0, limit: 0 }
    }

    /// Bytes that were read so far.
    pub fn written(&self) -> u64 {
        self.taken + self.buffer.len() as u64
    }

    /// Bytes that are here.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no more will be.
    pub fn has_ended(&self) -> bool {
        self.source.is_none()
    }

    /// For the host.
    pub fn state(&self) -> OutputState {
        OutputState { taken: self.taken, written: self.written(), ended: self.has_ended() }
    }

    /// What to wait for: nothing while the buffer is as large as it may be.
    pub fn interest(&self, window: usize) -> Option<PollFd<'_>> {
        let source = self.source.as_ref().filter(|_| self.buffer.len() < window)?;
        Some(PollFd::new(source.as_fd(), PollFlags::POLLIN))
    }

    /// The main process has ended: only what it has written is read now. Others may still write, for ever perhaps.
    pub fn drain(&mut self) {
        let Some(source) = &self.source else { return };
        self.left = Some(match self.is_terminal {
            true => TERMINAL_MAX,
            false => ioctl_fionread(source).unwrap_or(0),
        });
    }

    /// Reads at most `share` bytes, through `scratch`, which has room. Gives the source when the stream ends here although
    /// somebody may still write.
    pub fn read(&mut self, window: usize, mut share: usize, scratch: &mut [MaybeUninit<u8>]) -> Option<OwnedFd> {
        loop {
            let source = self.source.as_ref()?;
            let left = self.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
            if left == 0 {
                return self.source.take();
            }
            let most = window.saturating_sub(self.buffer.len()).min(share).min(left).min(scratch.len());
            if most == 0 {
                return None;
            }
            match read(source, &mut scratch[..most]).map(|(bytes, _)| &*bytes) {
                Ok(bytes @ [_, ..]) => {
                    self.keep(bytes, window);
                    share -= bytes.len();
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.left.is_some() => return self.source.take(),
                Err(Errno::AGAIN) => return None,
                // A terminal says EIO when nobody has it open any more.
                Ok([]) | Err(Errno::IO) => self.source = None,
                Err(errno) => {
                    log!("reading a session's output, which ends here: {errno}");
                    self.source = None;
                }
            }
        }
    }

    /// Grows the buffer as needed, and never beyond the window.
    fn keep(&mut self, bytes: &[u8], window: usize) {
        let needed = self.buffer.len() + bytes.len();
        if needed > self.buffer.capacity() {
            let wanted = (2 * self.buffer.capacity()).clamp(needed, window.max(needed));
            self.buffer.reserve_exact(wanted - self.buffer.len());
        }
        self.buffer.extend(bytes);
    }

    /// The source, where there still is one: nothing more is read.
    pub fn give_up(&mut self) -> Option<OwnedFd> {
        self.source.take()
    }

    /// The host has what is before `taken`, and room for what is before `limit`; says whether that can be.
    pub fn take(&mut self, taken: u64, limit: u64) -> bool {
        if taken > self.written() || limit < taken {
            return false;
        }
        if let Ok(len) = usize::try_from(taken.saturating_sub(self.taken)) {
            self.buffer.drain(..len.min(self.buffer.len()));
        }
        self.taken = self.taken.max(taken);
        self.sent = self.sent.max(self.taken);
        self.limit = self.limit.max(limit);
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = VecDeque::new();
        }
        true
    }

    /// Another host: what was not taken is sent again, as soon as it has told its limit.
    pub fn resume(&mut self) {
        (self.sent, self.limit) = (self.taken, 0);
    }

    /// The next frame of what was written and the host has room for.
    pub fn frame(&mut self, epoch: u64, session: u64) -> Option<Vec<u8>> {
        let len = self.written().min(self.limit).saturating_sub(self.sent);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(GuestFrame::PAYLOAD_MAX);
        let begin = usize::try_from(self.sent - self.taken).ok()?;
        let (front, back) = self.buffer.as_slices();
        let part = |slice: &'_ [u8], from: usize, to: usize| from.min(slice.len())..to.min(slice.len());
        let (first, second) = (
            part(front, begin, begin + len),
            part(back, begin.saturating_sub(front.len()), (begin + len).saturating_sub(front.len())),
        );
        let parts = [&front[first], &back[second]];
        // None of no bytes.
        let frame = encode_bytes::<GuestFrame>(epoch, session, self.stream, self.sent, &parts).ok()?;
        self.sent += len as u64;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;
    use sandpen_guest::protocol::session::{Content, SessionFrameReader};

    use super::*;

    fn output() -> (File, Output) {
        let (source, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (writer.into(), Output::new(SessionStream::Stdout, Some(source), false))
    }

    fn read(output: &mut Output, window: usize, share: usize) -> Option<OwnedFd> {
        output.read(window, share, &mut [MaybeUninit::uninit(); 1000])
    }

    fn sent(output: &mut Output) -> Vec<(u64, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = output.frame(1, 2) {
            let mut reader = SessionFrameReader::<GuestFrame>::new();
            assert_eq!(reader.push(&frame), frame.len());
            let Ok(Some(frame)) = reader.next() else { panic!() };
            let Content::Bytes { offset, bytes, .. } = frame.content else { panic!() };
            frames.push((offset, bytes));
        }
        frames
    }

    #[test]
    fn bytes_are_kept_until_they_are_taken_and_never_beyond_the_window() {
        let (mut writer, mut output) = output();
        writer.write_all(&[7; 10_000]).unwrap();
        assert!(read(&mut output, 6000, 1 << 20).is_none());
        assert_eq!(output.state(), OutputState { taken: 0, written: 6000, ended: false });
        assert!(output.buffer.capacity() <= 6000 && output.interest(6000).is_none());
        assert!(sent(&mut output).is_empty(), "the host has said nothing of its room");
        assert!(output.take(0, 4000));
        assert_eq!(sent(&mut output), [(0, vec![7; 4000])]);
        output.resume();
        assert!(sent(&mut output).is_empty());
        assert!(output.take(3999, 9000));
        assert_eq!(sent(&mut output), [(3999, vec![7; 2001])]);
        assert!(!output.take(6001, 9000), "nobody can have what was never written");
        assert!(!output.take(6000, 5999));
        assert!(output.take(100, 200), "what was said before still counts");
        assert_eq!(output.state().taken, 3999);
        assert!(output.interest(6000).is_some());
        drop(writer);
        assert!(read(&mut output, 1 << 20, 1000).is_none() && read(&mut output, 1 << 20, 1 << 20).is_none());
        assert_eq!(output.state(), OutputState { taken: 3999, written: 10_000, ended: true });
        assert!(output.take(10_000, 10_000) && output.buffer.capacity() == 0);
    }

    #[test]
    fn what_others_write_after_the_end_is_none_of_it() {
        let (mut writer, mut output) = output();
        writer.write_all(b"before").unwrap();
        output.drain();
        writer.write_all(b"after").unwrap();
        assert!(read(&mut output, 3, 100).is_none() && !output.has_ended(), "the window is full");
        assert!(output.take(3, 100));
        assert!(read(&mut output, 3, 100).is_some() && output.has_ended());
        assert_eq!(sent(&mut output), [(3, b"ore".to_vec())]);
    }
}
