//! Whether the kernel has ended processes because the machine's memory was used up, and which: nobody else is told, and a
//! bare SIGKILL looks like anybody's.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use nix::libc;

use crate::log::log;

/// The kernel's counters (proc(5)); the one of interest.
const COUNTERS: &str = "/proc/vmstat";
const KILLS: &str = "oom_kill ";
/// The kernel's messages, a record for each read.
const MESSAGES: &str = "/dev/kmsg";
/// What the kernel says of such an end (`__oom_kill_process` in mm/oom_kill.c): `Killed process 80 (tail) total-vm:…`.
const KILLED: &str = "Killed process ";

/// Looks for such ends.
#[derive(Debug, Default)]
pub struct OutOfMemory {
    /// Held open: the workload may mount anything over /proc and /dev.
    counters: Option<File>,
    messages: Option<File>,
    /// It was told; once is enough to know why.
    told: bool,
}

impl OutOfMemory {
    /// From now on. Where the kernel does not tell, nothing is ever found.
    pub fn watch() -> Self {
        let counters = File::open(COUNTERS).map_err(|error| log!("{COUNTERS}: {error}")).ok();
        let messages = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(MESSAGES);
        Self { counters, messages: messages.ok(), told: false }
    }

    /// The process that was ended last, the first time that there is one; its name is empty where it is not known.
    pub fn found(&mut self) -> Option<String> {
        if self.told || self.kills() == 0 {
            return None;
        }
        self.told = true;
        Some(self.last_name().unwrap_or_default())
    }

    fn kills(&self) -> u64 {
        let mut text = [0; 16 << 10];
        let read = self.counters.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        counter(&String::from_utf8_lossy(&text[..read]))
    }

    fn last_name(&mut self) -> Option<String> {
        let messages = self.messages.as_mut()?;
        let (mut record, mut name) = ([0; 8 << 10], None);
        loop {
            match messages.read(&mut record) {
                Ok(0) => return name,
                Ok(length) => name = killed(&String::from_utf8_lossy(&record[..length])).or(name),
                // Overwritten before it was read: it goes on with the next one.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => return name,
            }
        }
    }
}

fn counter(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(KILLS));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The name in a message; a process may have parentheses in its own.
fn killed(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(KILLED)?;
    let (name, _) = rest.split_once(" (")?.1.split_once(") total-vm:")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_messages_are_read() {
        assert_eq!(counter("pgfault 1\noom_kill 3\ndrop_pagecache 0\n"), 3);
        assert_eq!((counter(""), counter("oom_kill x"), counter("xoom_kill 3")), (0, 0, 0));
        let line = |name: &str| {
            format!("3,211,2345,-;Out of memory: Killed process 80 ({name}) total-vm:1kB, anon-rss:1kB, UID:0\n")
        };
        for name in ["tail", "a) (b", "", "ü \\x20"] {
            assert_eq!(killed(&line(name)), Some(name.to_owned()));
        }
        for other in
            ["", "Killed process", "6,1,1,-;Killed process 80", "oom-kill:constraint=CONSTRAINT_NONE,task=tail"]
        {
            assert_eq!(killed(other), None, "{other}");
        }
        assert_eq!(OutOfMemory::default().found(), None);
    }
}
