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
/// What the kernel says of such an end (`__oom_kill_process` in mm/oom_kill.c), behind what it was for: `Killed process 80 (tail)
/// total-vm:…`.
const KILLED: &str = ": Killed process ";
/// The machine's memory was used up…
const OF_MACHINE: &str = "Out of memory";
/// …or that of a memory cgroup in it, which the counter counts as well.
const OF_CGROUP: &str = "Memory cgroup out of memory";

/// Looks for such ends.
#[derive(Debug, Default)]
pub struct OutOfMemory {
    /// Held open: the workload may mount anything over /proc and /dev.
    counters: Option<File>,
    messages: Option<File>,
    /// Ends that are known to be no fault of the machine's.
    of_cgroups: u64,
    /// It was told; once is enough to know why.
    told: bool,
}

impl OutOfMemory {
    /// From now on. Where the kernel does not tell, nothing is ever found.
    pub fn watch() -> Self {
        let counters = File::open(COUNTERS).map_err(|error| log!("{COUNTERS}: {error}")).ok();
        let messages = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(MESSAGES);
        Self { counters, messages: messages.ok(), of_cgroups: 0, told: false }
    }

    /// The process that was ended last, the first time that there is one; its name is empty where it is not known.
    pub fn found(&mut self) -> Option<String> {
        if self.told || self.kills() <= self.of_cgroups {
            return None;
        }
        let name = self.last_name();
        // A message that has not come yet is one of the machine's: mostly there are no cgroups.
        if name.is_none() && self.kills() <= self.of_cgroups {
            return None;
        }
        self.told = true;
        Some(name.unwrap_or_default())
    }

    fn kills(&self) -> u64 {
        let mut text = [0; 16 << 10];
        let read = self.counters.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        counter(&String::from_utf8_lossy(&text[..read]))
    }

    /// The last process that was ended for the machine; those of cgroups are counted.
    fn last_name(&mut self) -> Option<String> {
        let messages = self.messages.as_mut()?;
        let (mut record, mut name) = ([0; 8 << 10], None);
        loop {
            match messages.read(&mut record) {
                Ok(0) => return name,
                Ok(length) => match killed(&String::from_utf8_lossy(&record[..length])) {
                    Some((OF_CGROUP, _)) => self.of_cgroups += 1,
                    Some((_, last)) => name = Some(last),
                    None => {}
                },
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

/// What for, and the name in a message; a process may have parentheses in its own.
fn killed(message: &str) -> Option<(&'static str, String)> {
    // Behind what the record says of itself (its number and time).
    let (_, text) = message.split_once(';')?;
    let (why, rest) = [OF_CGROUP, OF_MACHINE].into_iter().find_map(|why| Some((why, text.strip_prefix(why)?)))?;
    let rest = rest[rest.find(KILLED)?..].strip_prefix(KILLED)?;
    let (name, _) = rest.split_once(" (")?.1.split_once(") total-vm:")?;
    Some((why, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    #[test]
    fn counters_and_messages_are_read() {
        assert_eq!(counter("pgfault 1\noom_kill 3\ndrop_pagecache 0\n"), 3);
        assert_eq!((counter(""), counter("oom_kill x"), counter("xoom_kill 3")), (0, 0, 0));
        let line = |name: &str| {
            format!("3,211,2345,-;Out of memory: Killed process 80 ({name}) total-vm:1kB, anon-rss:1kB, UID:0\n")
        };
        for name in ["tail", "a) (b", "", "ü \\x20"] {
            assert_eq!(killed(&line(name)), Some((OF_MACHINE, name.to_owned())));
            let of_cgroup = line(name).replace("Out of memory", "Memory cgroup out of memory");
            assert_eq!(killed(&of_cgroup), Some((OF_CGROUP, name.to_owned())));
        }
        for other in
            ["", ": Killed process", "6,1,1,-;Killed process 80", "oom-kill:constraint=CONSTRAINT_NONE,task=tail"]
        {
            assert_eq!(killed(other), None, "{other}");
        }
        assert_eq!(OutOfMemory::default().found(), None);
    }

    fn out_of_memory(kills: u64, messages: &[&str]) -> OutOfMemory {
        let file = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            file
        };
        // A record for each read is the kernel's way; here there is one.
        let messages = messages.concat();
        OutOfMemory {
            counters: Some(file(&format!("oom_kill {kills}\n"))),
            messages: Some(file(&messages)),
            ..OutOfMemory::default()
        }
    }

    /// A container in the machine may have a limit of its own.
    #[test]
    fn what_a_cgroup_has_used_up_is_not_the_machines() {
        let of = |why: &str| format!("3,1,1,-;{why}: Killed process 80 (tail) total-vm:1kB\n");
        let mut cgroups = out_of_memory(1, &[&of(OF_CGROUP)]);
        assert_eq!((cgroups.found(), cgroups.told), (None, false));
        assert_eq!(cgroups.found(), None);
        // The next one is.
        cgroups.counters = out_of_memory(2, &[]).counters;
        cgroups.messages = out_of_memory(0, &[&of(OF_MACHINE)]).messages;
        assert_eq!(cgroups.found(), Some("tail".to_owned()));
        assert_eq!(cgroups.found(), None, "once");
        assert_eq!(out_of_memory(1, &[]).found(), Some(String::new()), "nobody says which");
        assert_eq!(out_of_memory(0, &[&of(OF_MACHINE)]).found(), None);
    }
}
