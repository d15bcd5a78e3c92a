//! Standard input, output and errors, which somebody else may have made non-blocking: who shares a pipe or a terminal shares
//! that, too. Here they block: no byte is lost or taken for the end because the other side is slow.

use std::io::{self, Read, StderrLock, StdinLock, StdoutLock, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A stream that is waited for.
#[derive(Debug)]
pub struct Blocking<T>(pub T);

/// Standard input.
pub fn stdin() -> Blocking<StdinLock<'static>> {
    Blocking(io::stdin().lock())
}

/// Standard output.
pub fn stdout() -> Blocking<StdoutLock<'static>> {
    Blocking(io::stdout().lock())
}

/// Standard error.
pub fn stderr() -> Blocking<StderrLock<'static>> {
    Blocking(io::stderr().lock())
}

impl<T: AsFd> Blocking<T> {
    fn again<A>(&mut self, flags: PollFlags, mut act: impl FnMut(&mut T) -> io::Result<A>) -> io::Result<A> {
        loop {
            match act(&mut self.0) {
                // Nothing of what was to be done is done then.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The next try says what an error means.
                    let _ = poll(&mut [PollFd::new(self.0.as_fd(), flags)], PollTimeout::NONE);
                }
                done => return done,
            }
        }
    }
}

impl<T: AsFd> AsFd for Blocking<T> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd + Read> Read for Blocking<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.again(PollFlags::POLLIN, |from| from.read(buffer))
    }
}

impl<T: AsFd + Write> Write for Blocking<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.again(PollFlags::POLLOUT, |to| to.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.again(PollFlags::POLLOUT, Write::flush)
    }
}
