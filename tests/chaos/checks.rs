//! What is checked when a round has settled.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sandpen_vmm::process_identity::ProcessIdentity;

use crate::actions::Chaos;
use crate::daemon;
use crate::plan::Kind;
use crate::settle::SETTLE_LIMIT;
use crate::world::{Life, Sandbox, WaiterKilled};

/// Open files of a daemon without sandboxes, and for each live one.
const DAEMON_FILES: usize = 64;
const SANDBOX_FILES: usize = 12;
/// Processes of virtiofsd for each live sandbox with Linux: it and its child in a namespace.
const COMPANIONS: usize = 2;
/// Memory that a daemon may take more than the first one took.
const MORE_MEMORY_KIB: u64 = 24 << 10;

impl Chaos {
    pub fn check(&mut self) {
        self.logs_are_whole();
        self.rows_are_true();
        self.nothing_is_left();
        self.daemon_stays_small();
    }

    /// Every byte that was written is in its place, once, and no other.
    fn logs_are_whole(&mut self) {
        let logs = self.home.state().join("logs/default");
        for sandbox in &mut self.sandboxes {
            if let (Kind::Writer, Life::Live) = (sandbox.kind, sandbox.life) {
                let control = sandbox.last_start().control.as_ref().unwrap();
                until_none(|| {
                    let (written, limit) = (control.written(), control.limit());
                    (written.done < limit).then(|| format!("{} is stuck: {written:?} of {limit}", sandbox.name))
                });
            }
            let mut files = Files::open(&logs, &sandbox.name);
            if let Some(length) = sandbox.final_length {
                assert_eq!(files.length(), length, "the log of {} changed after its end", sandbox.name);
                continue;
            }
            let possible = sandbox.possible_lengths();
            if let Some([least, most]) = possible
                && sandbox.life == Life::Live
            {
                let name = &sandbox.name;
                until_none(|| {
                    files = Files::open(&logs, name);
                    let length = files.length();
                    (length < least).then(|| format!("the log of {name} has {length} bytes, not {least}"))
                });
                assert!(files.length() <= most, "the log of {name} has {} bytes, not {most}", files.length());
            } else if let Some(possible) = possible {
                let length = files.length();
                // A pipe goes with its last holder, and what is in it: the workload was that here, because waiter
                // and reader had both been ended in this round.
                let unheld = self.unwatched && sandbox.waiter_killed == WaiterKilled::ThisRound && length < possible[0];
                self.report.unheld += u64::from(unheld);
                assert!(
                    unheld || possible.contains(&length),
                    "the log of {} has {length} bytes, not {possible:?}",
                    sandbox.name
                );
            }
            self.report.bytes += compare(sandbox, &files);
            if sandbox.life == Life::Ended {
                sandbox.final_length = Some(sandbox.verified);
            }
        }
    }

    /// Rows and sandboxes are the same set; who was not harmed runs on in the same process.
    fn rows_are_true(&self) {
        let rows = self.rows();
        let names: BTreeSet<_> = rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        let expected: BTreeSet<_> = self.sandboxes.iter().map(|sandbox| sandbox.name.clone()).collect();
        assert_eq!(names, expected, "rows");
        for sandbox in self.sandboxes.iter().filter(|sandbox| sandbox.life == Life::Live) {
            let row = rows.iter().find(|row| row["name"] == sandbox.name.as_str()).unwrap();
            let (pid, start_time) = sandbox.vmm.unwrap();
            assert_eq!((&row["state"], &row["microvm_pid"]), (&"RUNNING".into(), &pid.into()), "{row:#}");
            let now = ProcessIdentity::of(pid).unwrap_or_else(|error| panic!("{}: {error}", sandbox.name));
            assert_eq!(now.start_time, start_time, "the process of {} is another one", sandbox.name);
        }
    }

    pub fn live(&self) -> Vec<&Sandbox> {
        self.sandboxes.iter().filter(|sandbox| sandbox.life == Life::Live).collect()
    }

    /// No process, runtime directory, log or mount of a sandbox that is over; one waiter for each that lives.
    fn nothing_is_left(&self) {
        let live = self.live();
        until_none(|| {
            let daemon = daemon::pid(&self.home);
            let is_of_live = |pid: u32, line: &str| {
                live.iter().any(|sandbox| {
                    let waits = line.contains("waiter") && line.contains(&format!("default/{} ", sandbox.name));
                    let waits = waits || line.contains(&format!("default/{}/", sandbox.name));
                    waits || sandbox.vmm.is_some_and(|(vmm, _)| vmm == pid)
                })
            };
            let linux = live.iter().filter(|sandbox| sandbox.kind == Kind::Linux).count();
            let mut strangers = self.home.processes();
            let holders = strangers.iter().filter(|(_, line)| line.starts_with("sandpen-waiter")).count();
            let mut companions = 0;
            strangers.retain(|(pid, line)| {
                let is_companion = line.contains("__virtiofsd");
                companions += usize::from(is_companion);
                let is_known = is_companion && companions <= linux * COMPANIONS;
                daemon != Some(*pid) && !is_known && !is_of_live(*pid, line)
            });
            let run = entries(&self.home.state().join("run/default"));
            let names: BTreeSet<_> = live.iter().map(|sandbox| sandbox.name.clone()).collect();
            let zombies = daemon.map_or(0, zombies_of);
            (!strangers.is_empty() || run != names || holders != names.len() || zombies > 0).then(|| {
                format!(
                    "left: {strangers:?}, {zombies} that nobody reaped; {holders} waiters; \
                     runtime directories of {run:?}, not {names:?}"
                )
            })
        });
        for log in entries(&self.home.state().join("logs/default")) {
            let known = self.sandboxes.iter().any(|sandbox| log.starts_with(&format!("{}.", sandbox.name)));
            assert!(known, "the log {log} is left");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let home = self.home.path().to_str().unwrap();
        assert!(!mounts.contains(home), "a mount is left: {mounts}");
    }

    fn daemon_stays_small(&mut self) {
        let daemon = daemon::pid(&self.home).unwrap();
        let most = DAEMON_FILES + SANDBOX_FILES * self.live().len();
        until_none(|| {
            let open = fs::read_dir(format!("/proc/{daemon}/fd")).map_or(0, Iterator::count);
            (open > most).then(|| format!("the daemon has {open} files open, more than {most}"))
        });
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        self.report.memory_kib.push(kib);
        let first = self.report.memory_kib[0];
        assert!(kib < first + MORE_MEMORY_KIB, "the daemon's memory grew: {:?}", self.report.memory_kib);
    }
}

/// Waits until there is nothing left to complain of.
fn until_none(mut complaint: impl FnMut() -> Option<String>) {
    let deadline = Instant::now() + SETTLE_LIMIT;
    while let Some(text) = complaint() {
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Children of a process that ended and were not waited for.
fn zombies_of(parent: u32) -> usize {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let is_zombie = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    children.split_whitespace().filter(is_zombie).count()
}

fn entries(dir: &PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Compares what is new in a log with what must be there; the number of bytes.
fn compare(sandbox: &mut Sandbox, files: &Files) -> u64 {
    let from = sandbox.verified;
    while sandbox.verified < files.length() {
        let (lines, position, end) = sandbox.lines_at(sandbox.verified);
        let length = (files.length().min(end) - sandbox.verified).min(1 << 20);
        let bytes = files.read(sandbox.verified, usize::try_from(length).unwrap());
        let matching = lines.matching(position, &bytes);
        if matching < bytes.len() {
            let near = &bytes[matching.saturating_sub(40)..bytes.len().min(matching + 40)];
            let (name, at) = (&sandbox.name, sandbox.verified + matching as u64);
            panic!("the log of {name} differs at byte {at}: {:?}", String::from_utf8_lossy(near));
        }
        sandbox.verified += length;
    }
    sandbox.verified - from
}

/// The files of a log, the current one first. A rotation that was cut off leaves one number free.
fn all_files(logs: &std::path::Path, name: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut missing = 0;
    for number in 0.. {
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        match File::open(logs.join(format!("{name}.log{suffix}"))) {
            Ok(file) => {
                files.push(file);
                missing = 0;
            }
            Err(_) if missing == 2 => break,
            Err(_) => missing += 1,
        }
    }
    files
}

/// A log's files, oldest first, as one row of bytes. Nothing was rotated away.
pub struct Files(Vec<(u64, u64, File)>);

impl Files {
    pub fn open(logs: &std::path::Path, name: &str) -> Self {
        // A rotation meanwhile would show a file twice, or not at all. It makes another file the current one.
        let inodes = |files: &[File]| files.iter().map(|file| file.metadata().unwrap().ino()).collect::<Vec<_>>();
        let mut files = all_files(logs, name);
        loop {
            let again = all_files(logs, name);
            if inodes(&files) == inodes(&again) {
                break;
            }
            files = again;
        }
        files.reverse();
        let mut from = 0;
        let placed = files.into_iter().map(|file| {
            let length = file.metadata().unwrap().len();
            from += length;
            (from - length, length, file)
        });
        Self(placed.collect())
    }

    pub fn length(&self) -> u64 {
        self.0.last().map_or(0, |(from, length, _)| from + length)
    }

    fn read(&self, from: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        for (start, size, file) in &self.0 {
            let at = from + done as u64;
            if (*start..start + size).contains(&at) && done < length {
                let count = usize::try_from(start + size - at).unwrap().min(length - done);
                file.read_exact_at(&mut bytes[done..done + count], at - start).unwrap();
                done += count;
            }
        }
        assert_eq!(done, length);
        bytes
    }
}
