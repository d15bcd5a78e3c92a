//! Which process is meant, beyond its pid: pids are used again, and after a host restart they mean
//! nothing at all.

use std::{fs, io};

/// A process of one boot of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// The kernel's random id of this boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Its pid, above 0.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// `NotFound` when there is none; otherwise what reading `/proc` said.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { boot_id: boot_id()?, pid, start_time: start_time(pid)? })
    }

    /// Whether the pid still means this process (a zombie counts).
    ///
    /// # Errors
    /// What reading `/proc` said, but for "no such process".
    pub fn holds(&self) -> io::Result<bool> {
        if boot_id()? != self.boot_id {
            return Ok(false);
        }
        match start_time(self.pid) {
            Ok(start_time) => Ok(start_time == self.start_time),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The id of this boot.
///
/// # Errors
/// What reading `/proc` said.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether a signal or a debugger has suspended it.
///
/// # Errors
/// As [`ProcessIdentity::of`].
pub fn is_suspended(pid: u32) -> io::Result<bool> {
    // Field 3, the first one after the name.
    let letter = |stat: &[u8]| stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2).copied());
    Ok(matches!(letter(&stat(pid)?), Some(b'T' | b't')))
}

fn stat(pid: u32) -> io::Result<Vec<u8>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        // The process was reaped between open and read.
        Err(error) if error.raw_os_error() == Some(3) => Err(io::ErrorKind::NotFound.into()),
        stat => stat,
    }
}

fn start_time(pid: u32) -> io::Result<u64> {
    parse_start_time(&stat(pid)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))
}

/// Field 22 of a `stat` line. The program's name (field 2, in parentheses) is the process's own
/// choice and may hold anything, so fields are counted from the last parenthesis.
pub fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
