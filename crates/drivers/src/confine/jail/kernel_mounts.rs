//! File systems of the kernel's that are mounted in a shared directory, a chroot's /proc for example: a guest would get at
//! the host through them, whatever user its file server is. Such a directory is not shared.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{JailError, failed};
use crate::confine::Policy;

/// Types of which no file is a user's (proc_filesystems(5)). Of devices a guest would not open any, and yet root's could put
/// something else in their places.
const KINDS: [&str; 21] = [
    "devtmpfs",
    "devpts",
    "mqueue",
    "rpc_pipefs",
    "cpuset",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "configfs",
    "efivarfs",
    "pstore",
    "binfmt_misc",
    "fusectl",
    "selinuxfs",
    "smackfs",
    "nsfs",
];

/// Refuses shares with one of them. In the process's own mount namespace nobody mounts another one meanwhile.
pub(super) fn refuse_below(policy: &Policy) -> Result<(), JailError> {
    if policy.shares.is_empty() {
        return Ok(());
    }
    let mounts = fs::read("/proc/self/mountinfo").map_err(failed("reading what is mounted"))?;
    for share in &policy.shares {
        if let Some((mount, kind)) = found(&mounts, &share.directory) {
            return Err(JailError::KernelFiles { share: share.directory.clone(), mount, kind });
        }
    }
    Ok(())
}

/// The first one at or below `directory`, and its type; `mounts` are lines of mountinfo (proc_pid_mountinfo(5)).
fn found(mounts: &[u8], directory: &Path) -> Option<(PathBuf, String)> {
    let mut all = mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let mount = unescaped(words.nth(4)?);
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        Some((mount, String::from_utf8_lossy(kind).into_owned()))
    });
    // Whatever holds the directory itself counts too: the last of them is the one that is seen.
    let mut above: Option<(PathBuf, String)> = None;
    let below = all.find(|(mount, kind)| {
        if directory.starts_with(mount) && above.as_ref().is_none_or(|(known, _)| mount.starts_with(known)) {
            above = Some((mount.clone(), kind.clone()));
        }
        mount.starts_with(directory) && mount != directory && is_kernels(kind)
    });
    below.or(above.filter(|(_, kind)| is_kernels(kind)))
}

fn is_kernels(kind: &str) -> bool {
    KINDS.contains(&kind)
}

/// A path with its octal escapes undone.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = rest.get(1..4).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Path::new(OsStr::from_bytes(&bytes)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"1 0 8:1 / / rw - ext4 /dev/vda rw\n\
        2 1 0:5 / /proc rw shared:3 - proc proc rw\n\
        3 1 0:6 / /srv/a\\040b/proc rw - proc proc rw\n\
        4 1 0:7 / /srv/disk rw - xfs /dev/x rw\n\
        5 2 0:8 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n\
        6 1 0:9 / /dev rw - devtmpfs udev rw\n\
        7 6 0:10 / /dev/shm rw - tmpfs none rw\n\
        8 6 0:11 / /dev/pts rw - devpts none rw\n";

    fn kind(directory: &str) -> Option<String> {
        found(MOUNTS, Path::new(directory)).map(|(_, kind)| kind)
    }

    #[test]
    fn what_is_mounted_in_a_directory_and_what_holds_it_counts() {
        assert_eq!(found(MOUNTS, Path::new("/srv/a b")), Some(("/srv/a b/proc".into(), "proc".into())));
        for refused in ["/", "/srv", "/proc", "/proc/1/root", "/srv/a b/proc/self", "/dev", "/dev/disk", "/dev/pts"] {
            assert!(kind(refused).is_some(), "{refused}");
        }
        for shared in ["/home", "/srv/disk", "/srv/disk/root", "/srv/a", "/proc2", "/dev/shm"] {
            assert_eq!(kind(shared), None, "{shared}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescaped(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescaped(b"/a\\9"), Path::new("/a\\9"));
    }
}
