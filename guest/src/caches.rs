//! What the kernel remembers of the host's files: each costs the host an open file, so the host asks on a port of its
//! own to drop what is not in use.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::read;
use sandpen_guest::protocol::{DROP_CACHES, FILES_LIMIT_MET};

use crate::log::log;

/// The kernel's switch (`Documentation/admin-guide/sysctl/vm.rst`).
pub const SWITCH: &str = "/proc/sys/vm/drop_caches";
/// No line in the kernel's log for each use.
const QUIETLY: &[u8] = b"4";
/// Directory entries and inodes that are not in use.
const ENTRIES: &[u8] = b"2";

/// The port, and the kernel's switch.
#[derive(Debug)]
pub struct Caches {
    port: OwnedFd,
    /// Held open: the workload may mount anything over /proc.
    switch: Option<File>,
    /// Whether it was said that the host's limit of open files was met.
    told: bool,
}

impl Caches {
    /// Takes the non-blocking port; `switch` is [`SWITCH`].
    pub fn new(port: OwnedFd, switch: &Path) -> Self {
        let opened = OpenOptions::new().write(true).open(switch).and_then(|switch| {
            switch.write_all_at(QUIETLY, 0)?;
            Ok(switch)
        });
        let switch = opened.map_err(|error| log!("the kernel's caches cannot be dropped: {error}")).ok();
        Self { port, switch, told: false }
    }

    /// What to wait for.
    pub fn interest(&self) -> PollFd<'_> {
        PollFd::new(self.port.as_fd(), PollFlags::POLLIN)
    }

    /// Does what has come, and says once whether the host's limit of open files was met while the workload is
    /// `running`.
    pub fn carry(&mut self, running: bool) -> Result<bool, Errno> {
        let (mut drop, mut limit_met) = (false, false);
        let mut chunk = [0; 64];
        loop {
            // 0: no host has the port open just now.
            match read(&self.port, &mut chunk) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(len) => {
                    drop |= chunk[..len].contains(&DROP_CACHES);
                    limit_met |= chunk[..len].contains(&FILES_LIMIT_MET);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        if drop
            && let Some(switch) = &self.switch
            && let Err(error) = drop_entries(switch)
        {
            log!("dropping the kernel's caches: {error}");
        }
        let tell = limit_met && running && !self.told;
        self.told |= tell;
        Ok(tell)
    }
}

/// Twice: the first time the kernel spares what was used more than once. It ignores what is not written at 0.
fn drop_entries(switch: &File) -> std::io::Result<()> {
    switch.write_all_at(ENTRIES, 0)?;
    switch.write_all_at(ENTRIES, 0)
}
