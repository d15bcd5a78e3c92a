//! Whose a process is. Root may signal everybody's, so a pid on record, or a command line that names one of our
//! sandboxes, is not enough to take one for ours: its user has to be ours too.
//!
//! Which users are ours: the one we run as; below root also [`SANDBOX_UIDS`], which belong to nobody else.

use std::io;
use std::ops::RangeInclusive;

/// The user ids that root may give to its sandboxes' processes, so that none of them can touch another one's, or root's.
///
/// They are what lies between the last range that systemd gives to containers (up to `0x6FFF_FFFF`) and the ids that
/// are negative as 32-bit numbers, which some programs and file systems take for errors: no package, no `useradd` and
/// no `/etc/subuid` of any distribution hands them out by itself. Only a daemon of root treats them as its own.
pub const SANDBOX_UIDS: RangeInclusive<u32> = 0x7000_0000..=0x7FFF_FFFF;

/// What the kernel says of a process's place among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessOwner {
    /// The pid of its parent; 0 when that is in no namespace of ours.
    pub parent: u32,
    /// Its real user id: whose it is, whatever setuid program it executes.
    pub user: u32,
}

impl ProcessOwner {
    /// Of the process that has this pid now (a zombie counts).
    ///
    /// # Errors
    /// `NotFound` when there is none; otherwise what reading `/proc` said.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = match std::fs::read(format!("/proc/{pid}/status")) {
            // The process was reaped between open and read.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Err(io::ErrorKind::NotFound.into()),
            status => status,
        }?;
        Self::parse(&status)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/status names no owner")))
    }

    /// The name is the process's own choice; the kernel escapes line ends in it.
    fn parse(status: &[u8]) -> Option<Self> {
        let first_number = |name: &[u8]| {
            let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
            std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Self { parent: first_number(b"PPid:")?, user: first_number(b"Uid:")? })
    }

    /// Whether it is a process of the user that we run as, or of one that root keeps for its sandboxes.
    pub fn is_ours(&self) -> bool {
        belongs(self.user, nix::unistd::geteuid().as_raw())
    }
}

fn belongs(user: u32, to: u32) -> bool {
    user == to || (to == 0 && SANDBOX_UIDS.contains(&user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_its_sandboxes_users_beside_its_own_and_nobody_else_has() {
        for user in [0x7000_0000, 0x7123_4567, 0x7FFF_FFFF] {
            assert!(belongs(user, 0) && belongs(user, user) && !belongs(user, 1000));
        }
        for user in [1, 1000, 65_534, 0x6FFF_FFFF, 0x8000_0000, u32::MAX] {
            assert!(!belongs(user, 0) && belongs(user, user));
        }
        assert!(belongs(0, 0) && !belongs(0, 1000));
    }

    #[test]
    fn the_real_user_counts_and_a_name_lies_in_vain() {
        let status =
            b"Name:\tx\\nPPid:\t9\\nUid:\t9\nUmask:\t0022\nPid:\t7\nPPid:\t5\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n";
        assert_eq!(ProcessOwner::parse(status), Some(ProcessOwner { parent: 5, user: 1000 }));
        for broken in ["", "PPid:\t5\n", "Uid:\t0\t0\n", "PPid:\t-1\nUid:\t0\n", "PPid:\t1\nUid:\tx\n"] {
            assert_eq!(ProcessOwner::parse(broken.as_bytes()), None, "{broken:?}");
        }
        let own = ProcessOwner::of(std::process::id()).unwrap();
        assert!(own.is_ours());
        assert_eq!(own.parent, std::os::unix::process::parent_id());
    }
}
