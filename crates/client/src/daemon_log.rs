//! The file with the messages of a daemon that runs in the background: of bounded size, however long it runs, with few
//! older ones beside it.
//!
//! ```text
//!   daemon.log ──full──▶ daemon.log.1 ──▶ … ──▶ daemon.log.KEPT ──▶ gone
//! ```
//!
//! It is the standard error of the daemon and of the daemon's keeper, so what a panic or a library says gets there as
//! well, and a killed daemon has lost nothing. Whoever of both has a message looks first whether the file is full or
//! was put aside by the other, and goes over to the new one. What is written meanwhile is in the one or the other.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg, OFlag};
use sandpen_types::state_dir::StateDir;

/// How often it is looked again for who put it aside just then.
const LOOKS: u32 = 8;

/// How large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Most bytes of the file; one message that is longer has a file of its own.
    pub max_bytes: u64,
    /// Files that were put aside and are kept, at least 1.
    pub kept: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 8 << 20, kept: 2 }
    }
}

/// Opens it to append `bytes` bytes; puts it aside before, if it is too full for them.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn open(path: &Path, limits: LogLimits, bytes: u64) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    for _ in 0..LOOKS {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags.bits()).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        if found.len() == 0 || found.len().saturating_add(bytes) <= limits.max_bytes {
            return Ok(file);
        }
        let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            // Somebody puts it aside just now: it takes one message more.
            Err((file, _)) => return Ok(file),
        };
        if fs::symlink_metadata(path).is_ok_and(|there| is_same(&there, &found)) {
            put_aside(path, limits.kept)?;
        }
        drop(held);
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn put_aside(path: &Path, kept: u32) -> io::Result<()> {
    let older = |number: u32| path.with_extension(format!("log.{number}"));
    for number in (1..kept).rev() {
        match fs::rename(older(number), older(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, older(1))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Writes messages to standard error, which is this file, and keeps it within its limits.
#[derive(Debug)]
pub struct DaemonLog {
    path: PathBuf,
    limits: LogLimits,
    /// One message after the other.
    turn: Mutex<()>,
}

impl DaemonLog {
    /// That of this state directory, if standard error is it or one that was put aside: not under a service manager.
    pub fn of_stderr(dir: &StateDir, limits: LogLimits) -> Option<Self> {
        let path = dir.path().canonicalize().ok()?.join(dir.daemon_log().file_name()?);
        let stderr = fs::read_link("/proc/self/fd/2").ok()?;
        // Of one that is gone, the system's words follow the name.
        if !stderr.as_os_str().as_bytes().starts_with(path.as_os_str().as_bytes()) {
            return None;
        }
        let log = Self { path, limits, turn: Mutex::new(()) };
        // A panic may be the first message.
        log.follow(0);
        Some(log)
    }

    /// Makes the file of this name standard error, if it is not, or is too full for so many bytes. A message is worth
    /// more than the limit: where that fails, standard error stays what it is.
    fn follow(&self, bytes: u64) {
        let ours = fs::metadata("/proc/self/fd/2");
        if let (Ok(there), Ok(ours)) = (fs::symlink_metadata(&self.path), ours)
            && is_same(&there, &ours)
            && ours.len().saturating_add(bytes) <= self.limits.max_bytes
        {
            return;
        }
        if let Ok(file) = open(&self.path, self.limits, bytes) {
            let _ = nix::unistd::dup2_stderr(&file);
        }
    }
}

impl Write for &DaemonLog {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow(message.len() as u64);
        // In one piece: where it is cut, another's would stand between.
        io::stderr().lock().write_all(message)?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn the_file_and_those_put_aside_are_within_their_limits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let limits = LogLimits { max_bytes: 25, kept: 2 };
        for number in 0..20 {
            let line = format!("message {number:02}\n");
            open(&path, limits, line.len() as u64).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "message 18\nmessage 19\n");
        assert_eq!(read(&path.with_extension("log.1")), "message 16\nmessage 17\n");
        assert_eq!(read(&path.with_extension("log.2")), "message 14\nmessage 15\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        // One that is longer than any file has one of its own.
        let long = "x".repeat(99);
        open(&path, limits, 99).unwrap().write_all(long.as_bytes()).unwrap();
        assert_eq!(read(&path), long);
        open(&path, limits, 1).unwrap();
        assert_eq!((read(&path), read(&path.with_extension("log.1"))), (String::new(), long));
    }

    #[test]
    fn of_many_writers_at_once_nothing_is_lost_or_cut() {
        const WRITERS: usize = 8;
        const LINES: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let limits = LogLimits { max_bytes: 2000, kept: 100 };
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..LINES {
                        let line = format!("{writer} {number:03} {}\n", "x".repeat(number % 40));
                        open(path, limits, line.len() as u64).unwrap().write_all(line.as_bytes()).unwrap();
                    }
                });
            }
        });
        let mut seen = [0; WRITERS];
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert!((3..100).contains(&files), "{files} files");
        for number in (0..files).rev() {
            let file = if number == 0 { path.clone() } else { path.with_extension(format!("log.{number}")) };
            let text = read(&file);
            for line in text.split_inclusive('\n') {
                let (writer, rest) = line.split_once(' ').unwrap();
                let (number, filled) = rest.split_once(' ').unwrap();
                let number: usize = number.parse().unwrap();
                assert_eq!(filled, format!("{}\n", "x".repeat(number % 40)), "a whole line");
                seen[writer.parse::<usize>().unwrap()] += 1;
            }
        }
        assert_eq!(seen, [LINES; WRITERS]);
    }

    #[test]
    fn what_is_no_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let limits = LogLimits::default();
        symlink("elsewhere", &path).unwrap();
        open(&path, limits, 1).unwrap_err();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        open(&path, limits, 1).unwrap_err();
        fs::remove_dir(&path).unwrap();
        // With a reader it could be opened.
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        open(&path, limits, 1).unwrap_err();
        let _reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        open(&path, limits, 1).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // Nobody can put it aside there: it goes on beyond its limit.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "full").unwrap();
        fs::create_dir_all(path.with_extension("log.1").join("x")).unwrap();
        open(&path, LogLimits { max_bytes: 4, kept: 1 }, 1).unwrap_err();
        assert_eq!(read(&path), "full");
    }
}
