//! Where this process may make cgroups.
//!
//! Version 1: below its own cgroup of each controller. Version 2 knows cgroups that have processes and
//! cgroups that have children with limits, and no other process than the manager (systemd) may change
//! its tree, except where it gave a part away (`Delegate=yes`). So: below the parent of its own, where
//! that was given away (`DelegateSubgroup=`); or below its own, where that is a scope that was given
//! away and it is alone in it: then it moves into a child first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{CgroupPlan, Group, Limits, PERIOD_US, SWAP_LIMITS};

/// The controllers that sandboxes have limits of.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Where it goes when its own cgroup shall have children.
const LEAF: &str = "sandpen-daemon";
/// What systemd sets on a cgroup that it gave away.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// This process's own cgroups: version 1 directories by controller, or one of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// Controllers with the directories of this process.
    V1(Vec<(String, PathBuf)>),
    /// The directory of this process.
    V2(PathBuf),
}

impl Hierarchy {
    /// This process's own.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn own() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        Self::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
    }

    /// The same from the contents of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    pub(super) fn parse(cgroup: &str, mountinfo: &str) -> Result<Self, String> {
        let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
        let own = |wanted: &str| {
            cgroup.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|controller| controller == wanted).then_some(path)
            })
        };
        let first = CONTROLLERS.into_iter().filter_map(|controller| {
            let mount = mounts.iter().find(|mount| mount.version == 1 && mount.has(controller))?;
            Some((controller.to_owned(), mount.directory(own(controller)?)?))
        });
        let first: Vec<_> = first.collect();
        if !first.is_empty() {
            return Ok(Self::V1(first));
        }
        let mut second = mounts.iter().filter(|mount| mount.version == 2);
        let second = second.find_map(|mount| mount.directory(own("")?));
        second.map(Self::V2).ok_or_else(|| "no cgroup file system is mounted here".to_owned())
    }

    /// The directory below which all of a state directory's cgroups are made, one for each controller
    /// under version 1. It is made if it is not there.
    fn bases(&self, state_id: &str) -> Result<Vec<(Option<&str>, PathBuf)>, String> {
        let name = format!("sandpen-{state_id}");
        let make = |parent: &Path| {
            let base = parent.join(&name);
            match fs::create_dir(&base) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(format!("{}: {error}", base.display()))
                }
                _ => Ok(base),
            }
        };
        match self {
            Self::V1(own) => own.iter().map(|(controller, own)| Ok((Some(controller.as_str()), make(own)?))).collect(),
            Self::V2(own) => {
                let parent = delegated_parent(own, is_delegated, std::process::id())?;
                enable(&parent)?;
                let base = make(&parent)?;
                enable(&base)?;
                Ok(vec![(None, base)])
            }
        }
    }

    /// Where the processes of a sandbox belong; `name` is its file name among those of the state
    /// directory. Makes what is above it. Blocking, for microseconds.
    ///
    /// # Errors
    /// Why it gets none, for people.
    pub fn plan(&self, state_id: &str, name: &str, limits: Limits) -> Result<CgroupPlan, String> {
        let bases = self.bases(state_id)?;
        let group = |controller: Option<&str>, base: &Path| Group {
            directory: base.join(name),
            limits: match controller {
                Some(controller) => first_version(controller, limits),
                None => second_version(limits),
            },
        };
        let groups = bases.iter().map(|(controller, base)| group(*controller, base)).collect();
        let (version, missing) = match self {
            Self::V1(own) => {
                let lacks = |controller: &&str| !own.iter().any(|(known, _)| known == controller);
                (1, CONTROLLERS.into_iter().filter(lacks).map(str::to_owned).collect())
            }
            Self::V2(_) => (2, Vec::new()),
        };
        Ok(CgroupPlan { version, groups, missing })
    }

    /// Whether this process may make cgroups; changes nothing.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn examine(&self) -> Result<String, String> {
        match self {
            Self::V1(own) => {
                for (_, own) in own {
                    access(own, AccessFlags::W_OK).map_err(|errno| format!("{}: {errno}", own.display()))?;
                }
                let controllers: Vec<_> = own.iter().map(|(controller, _)| controller.as_str()).collect();
                Ok(format!("version 1 with {}", controllers.join(", ")))
            }
            Self::V2(own) => match own.parent() {
                Some(parent) if is_delegated(parent) || is_delegated(own) => Ok("version 2, delegated".to_owned()),
                _ => Err(not_given(own)),
            },
        }
    }

    /// Removes the cgroups of a state directory that no process is in, and says which. Blocking.
    pub fn sweep(&self, state_id: &str) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        let own = match self {
            Self::V1(own) => own.iter().map(|(_, own)| own.clone()).collect(),
            Self::V2(own) => own.parent().map(Path::to_owned).into_iter().chain([own.clone()]).collect::<Vec<_>>(),
        };
        for base in own.into_iter().map(|own| own.join(format!("sandpen-{state_id}"))) {
            for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && fs::remove_dir(entry.path()).is_ok() {
                    removed.push(entry.path());
                }
            }
            super::remove_base(&base);
        }
        removed
    }
}

fn first_version(controller: &str, limits: Limits) -> Vec<(String, String)> {
    let set = |file: &str, value: u64| (file.to_owned(), value.to_string());
    match controller {
        // The second counts memory and swap space together.
        "memory" => ["memory.limit_in_bytes", SWAP_LIMITS[0]].map(|file| set(file, limits.memory)).into(),
        "cpu" => {
            vec![set("cpu.cfs_period_us", PERIOD_US), set("cpu.cfs_quota_us", limits.cpu_millis * PERIOD_US / 1000)]
        }
        _ => vec![set("pids.max", limits.tasks)],
    }
}

pub(super) fn second_version(limits: Limits) -> Vec<(String, String)> {
    let quota = limits.cpu_millis * PERIOD_US / 1000;
    [
        ("memory.max", limits.memory.to_string()),
        (SWAP_LIMITS[1], "0".to_owned()),
        // One of them without the other is no microVM.
        ("memory.oom.group", "1".to_owned()),
        ("cpu.max", format!("{quota} {PERIOD_US}")),
        ("pids.max", limits.tasks.to_string()),
    ]
    .map(|(file, value)| (file.to_owned(), value))
    .into()
}

/// The cgroup of version 2 that may have children with limits.
pub(super) fn delegated_parent(own: &Path, is_delegated: impl Fn(&Path) -> bool, pid: u32) -> Result<PathBuf, String> {
    if let Some(parent) = own.parent()
        && is_delegated(parent)
    {
        return Ok(parent.to_owned());
    }
    if !is_delegated(own) {
        return Err(not_given(own));
    }
    let failed = |error: io::Error| format!("{}: {error}", own.display());
    let processes = fs::read_to_string(own.join("cgroup.procs")).map_err(failed)?;
    let alone = processes.split_whitespace().all(|other| other == pid.to_string());
    // A service is started again while its microVMs go on, and could not enter its own cgroup then.
    if !alone || own.extension().is_none_or(|kind| kind != "scope") {
        return Err(format!(
            "the cgroup {} has to stay as it is; add DelegateSubgroup=daemon to the unit",
            own.display()
        ));
    }
    let leaf = own.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), pid.to_string()).map_err(failed)?;
    Ok(own.to_owned())
}

fn not_given(own: &Path) -> String {
    let own = own.display();
    format!("the cgroup {own} was not given to sandpen; in a systemd unit: Delegate=yes and DelegateSubgroup=daemon")
}

fn is_delegated(directory: &Path) -> bool {
    let mut value = [0; 8];
    DELEGATED
        .iter()
        .any(|name| rustix::fs::getxattr(directory, *name, &mut value).is_ok_and(|len| &value[..len] == b"1"))
}

/// Lets the children of a cgroup of version 2 have limits.
pub(super) fn enable(directory: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let there = fs::read_to_string(directory.join("cgroup.controllers")).map_err(failed)?;
    if let Some(missing) = CONTROLLERS.iter().find(|wanted| !there.split_whitespace().any(|there| there == **wanted)) {
        return Err(format!("the cgroup {} has no controller {missing}", directory.display()));
    }
    let words: Vec<String> = CONTROLLERS.iter().map(|controller| format!("+{controller}")).collect();
    fs::write(directory.join("cgroup.subtree_control"), words.join(" ")).map_err(failed)
}

/// A cgroup file system.
struct Mount<'a> {
    version: u8,
    /// Which part of it is mounted.
    root: &'a str,
    point: &'a str,
    /// The controllers, among other options.
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// Of a line of mountinfo (proc_pid_mountinfo(5)).
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let version = match right.next()? {
            "cgroup" => 1,
            "cgroup2" => 2,
            _ => return None,
        };
        // Escaped characters do not occur in the paths that managers choose.
        (!point.contains('\\')).then_some(Self { version, root, point, options: right.nth(1).unwrap_or("") })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// The directory of the cgroup `path`, where this mount shows it.
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).ok()?;
        let plain = below.components().all(|component| matches!(component, std::path::Component::Normal(_)));
        plain.then(|| Path::new(self.point).join(below))
    }
}
