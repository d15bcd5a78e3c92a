//! A cgroup for each sandbox, with limits of memory, processor time and processes.
//!
//! ```text
//!   driver: where (below the daemon's own cgroup) and how much ──CgroupPlan──▶
//!     each host process of the sandbox, first of all: makes the cgroup, sets the limits, joins
//!   release of the sandbox, or the next daemon's start: removed; the kernel keeps one in use
//! ```
//!
//! The processes join by themselves before they touch anything of a guest, so none is ever outside;
//! both may make it, whoever comes first. The kernel removes no cgroup that has a process in it, so
//! cleaning up needs no knowledge of who lives.

mod hierarchy;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use sandpen_types::confinement::Cgroup;
use sandpen_types::reconcile::{Leftover, LeftoverKind};
use sandpen_types::spec::Resources;
use sandpen_vmm::driver::Launch;
use serde::{Deserialize, Serialize};

pub use hierarchy::Hierarchy;

use crate::step::blocking;

/// The period in which processor time is counted, in microseconds: the kernel's own default.
const PERIOD_US: u64 = 100_000;
/// Threads and processes beside the virtual CPUs: QEMU's workers (64 for files), virtiofsd's, and room.
const TASKS_BESIDE: u64 = 256;
/// Limits of swap space, of version 1 and 2.
const SWAP_LIMITS: [&str; 2] = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
/// How often joining is tried again when a clean-up removed the cgroup in between.
const JOIN_TRIES: usize = 10;
/// How long a cgroup may take to become empty, in steps of 10 ms: the kernel counts ended processes
/// out a little later.
const REMOVE_TRIES: usize = 100;

/// How much a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes: the guest's, the VMM's own, and the page cache of its files. Nothing of it goes to swap space
    /// beside it.
    pub memory: u64,
    /// Processor time in thousandths of a processor.
    pub cpu_millis: u64,
    /// Threads and processes.
    pub tasks: u64,
}

impl Limits {
    /// For a guest of this size. `overhead_mib` is what the VMM and its companions take besides.
    pub fn of(cpus: u32, memory_mib: u32, overhead_mib: u32) -> Self {
        Self {
            memory: (u64::from(memory_mib) + u64::from(overhead_mib)) << 20,
            // One more than the guest has, for what devices do.
            cpu_millis: (u64::from(cpus) + 1) * 1000,
            tasks: u64::from(cpus) + TASKS_BESIDE,
        }
    }
}

/// One directory of a plan: all of it under version 2, one of a controller under version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The cgroup.
    pub directory: PathBuf,
    /// Files in it and what they are set to.
    pub limits: Vec<(String, String)>,
}

/// Where a sandbox's processes belong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupPlan {
    /// 1 or 2.
    pub version: u8,
    /// At least one.
    pub groups: Vec<Group>,
    /// Controllers that there are none of here.
    pub missing: Vec<String>,
}

impl CgroupPlan {
    /// Puts this process into the cgroup, which is made if it is not there.
    ///
    /// # Errors
    /// What the kernel refused, for people.
    pub fn join(&self) -> Result<Cgroup, String> {
        for group in &self.groups {
            group.join().map_err(|error| format!("{}: {error}", group.directory.display()))?;
        }
        Ok(Cgroup { version: self.version, paths: self.paths() })
    }

    /// The same limits under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        for group in &mut self.groups {
            group.directory.set_file_name(name);
        }
        self
    }

    /// The directories.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.directory.clone()).collect()
    }
}

impl Group {
    fn join(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match self.make_and_join() {
                // Removed as left over, before we were in it.
                Err(error) if gone(&error) && tries < JOIN_TRIES => tries += 1,
                joined => return joined,
            }
        }
    }

    fn make_and_join(&self) -> io::Result<()> {
        // What is above it goes with the last sandbox, which may just have been.
        fs::create_dir_all(&self.directory)?;
        for (file, value) in &self.limits {
            let file = self.directory.join(file);
            // A kernel that counts no swap space has no file to bound it.
            if SWAP_LIMITS.iter().any(|name| file.ends_with(name)) && !file.exists() {
                continue;
            }
            fs::write(file, value)?;
        }
        fs::write(self.directory.join("cgroup.procs"), "0")
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// Where a sandbox's processes belong. `overhead_mib` is what the VMM and its companions take besides
/// the guest's memory. Blocking, for microseconds.
///
/// # Errors
/// Why they stay where they are, for people.
pub fn plan(launch: &Launch, overhead_mib: u32) -> Result<CgroupPlan, String> {
    let Resources { cpus, memory_mib, .. } = launch.spec.resources;
    let limits = Limits::of(cpus, memory_mib, overhead_mib);
    // Neither part has a colon, and no file of the kernel's in there has one.
    let name = format!("{}:{}", launch.spec.key.config, launch.spec.key.name);
    Hierarchy::own()?.plan(&launch.state_id, &name, limits)
}

/// Removes the cgroups of a state directory that an earlier run left, and says which; the kernel keeps those that
/// are in use.
pub(crate) async fn remove_leftovers(state_id: String) -> Vec<Leftover> {
    let sweep = move || Ok(Hierarchy::own().map(|hierarchy| hierarchy.sweep(&state_id)).unwrap_or_default());
    match blocking(sweep).await {
        Ok(paths) => paths.iter().map(|path| removed(path)).collect(),
        Err(error) => {
            tracing::warn!(error = error.chain(), "looking for cgroups that an earlier run left");
            Vec::new()
        }
    }
}

fn removed(path: &Path) -> Leftover {
    Leftover { kind: LeftoverKind::Cgroup, what: path.display().to_string(), sandbox: None, error: None }
}

/// Removes the cgroups at `paths`; waits up to a second for the kernel to count the last process out.
/// Blocking.
///
/// # Errors
/// What could not be removed.
pub fn remove(paths: &[PathBuf]) -> io::Result<()> {
    let mut failed = Ok(());
    for path in paths {
        let mut tries = 0;
        failed = failed.and(loop {
            match fs::remove_dir(path) {
                Err(error) if gone(&error) => break Ok(()),
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && tries < REMOVE_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                removed => break removed,
            }
        });
        if let Some(base) = path.parent() {
            remove_base(base);
        }
    }
    failed
}

/// Removes the directory above a sandbox's, if it was the last one; under version 2 it stays, since its
/// children's controllers are switched on in it.
fn remove_base(base: &Path) {
    if !base.join("cgroup.subtree_control").exists() {
        // Refused while another sandbox is in it.
        let _ = fs::remove_dir(base);
    }
}

/// Whether this is the path of a sandbox's cgroup, as [`plan`] makes them.
pub fn is_ours(path: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let base = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    plain && path.starts_with("/sys/fs/cgroup") && base.is_some_and(|base| base.starts_with("sandpen-"))
}

/// How often the kernel ended a process of this cgroup for want of memory. 0 where it does not say.
/// Blocking, for microseconds.
pub fn oom_kills(paths: &[PathBuf]) -> u64 {
    let count = |file: &Path| {
        let text = fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
    };
    let counts = paths.iter().flat_map(|path| ["memory.events", "memory.oom_control"].map(|file| path.join(file)));
    counts.filter_map(|file| count(&file)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
