//! The terminal of the workload or of a session: a pseudoterminal. The workload has its one end (the slave) as standard
//! streams and as controlling terminal; we carry bytes between the other one (the master) and the
//! ports.
//!
//! We hold the slave too until the workload's main process has ended: a workload that closes all of
//! its terminal and opens `/dev/tty` again must not find the stream ended. After that, the last
//! process that closes it makes reading the master fail with EIO, which is the end of the stream.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Winsize, tcgetattr, tcgetpgrp, tcsetattr, tcsetwinsize,
};
use sandpen_guest::protocol::TerminalSize;

/// Both ends.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    /// Makes one in the root directory's `/dev/pts`.
    pub fn open(size: TerminalSize) -> Result<Self, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).map_err(errno)?;
        unlockpt(&master).map_err(errno)?;
        let slave = ioctl_tiocgptpeer(&master, flags).map_err(errno)?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Erasing takes away whole characters.
        let mut modes = tcgetattr(&slave).map_err(errno)?;
        modes.input_modes |= InputModes::IUTF8;
        tcsetattr(&slave, OptionalActions::Now, &modes).map_err(errno)?;
        let terminal = Self { master, slave };
        terminal.resize(size)?;
        Ok(terminal)
    }

    /// The workload's end.
    pub fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    /// One more descriptor of our end, non-blocking.
    pub fn master(&self) -> Result<OwnedFd, Errno> {
        self.master.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
    }

    /// The process group in the foreground, where there is one.
    pub fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.master).ok().map(|group| Pid::from_raw(group.as_raw_nonzero().get()))
    }

    /// Tells how much is shown; the kernel sends SIGWINCH to the foreground group if that changed.
    pub fn resize(&self, TerminalSize { rows, cols }: TerminalSize) -> Result<(), Errno> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).map_err(errno)
    }
}

/// What has to be typed on the terminal for a reader to see the end of its input: the end-of-file
/// character, twice where a line is unfinished (the first one only hands that over). Nothing where
/// the workload has disabled the character.
pub fn end_of_file(master: BorrowedFd<'_>, last_typed: Option<u8>) -> Vec<u8> {
    let Ok(modes) = tcgetattr(master) else { return Vec::new() };
    let character = modes.special_codes[SpecialCodeIndex::VEOF];
    if character == 0 {
        return Vec::new();
    }
    let is_unfinished = modes.local_modes.contains(LocalModes::ICANON)
        && last_typed.is_some_and(|byte| ![b'\n', b'\r', character].contains(&byte));
    vec![character; if is_unfinished { 2 } else { 1 }]
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
