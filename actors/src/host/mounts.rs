//! What is mounted where, as this process sees it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The mount that its mount point is on.
    pub parent: u64,
    /// Its file system, as `MAJOR:MINOR`.
    pub device: String,
    /// The directory, or the file, of that file system which is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
}

/// Reads `/proc/self/mountinfo`, in the order in which things were mounted; nothing where it cannot be read. Blocking.
pub fn now() -> Vec<Mount> {
    parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// Reads the lines of a mountinfo (`proc_pid_mountinfo(5)`); what is none is left out.
pub fn parse(mountinfo: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let device = fields.next()?.to_owned();
        Some(Mount { id, parent, device, root: unescaped(fields.next()?)?, point: unescaped(fields.next()?)? })
    };
    mountinfo.lines().filter_map(line).collect()
}

/// The mount that a path is on: the last one of those whose mount point is deepest.
pub fn containing<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    around.max_by_key(|mount| mount.point.as_os_str().len())
}

/// Undoes `\040` and the like.
fn unescaped(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'\\' {
            let (digits, after) = rest.split_at_checked(3)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    Some(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_what_is_none_is_left_out() {
        let mounts = parse(
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 8:1 /s\\040d /m\\011nt rw shared:1 - ext4 x rw\n31 22 8:1 /a /m\\9\n32 x\n\nnonsense",
        );
        let paths: Vec<_> = mounts.iter().map(|mount| (mount.id, mount.root.to_str().unwrap())).collect();
        assert_eq!(paths, [(22, "/"), (30, "/s d")]);
        assert_eq!((mounts[1].parent, mounts[1].device.as_str()), (22, "8:1"));
        assert_eq!(mounts[1].point, Path::new("/m\tnt"));
        assert_eq!(containing(&mounts, Path::new("/m\tnt/x")).unwrap().id, 30);
        assert_eq!(containing(&mounts, Path::new("/m\tntx")).unwrap().id, 22);
        // The later one lies over the earlier one.
        let twice = parse("1 0 0:1 / / rw\n2 1 0:2 / /a rw\n3 2 0:3 / /a rw");
        assert_eq!(containing(&twice, Path::new("/a")).unwrap().id, 3);
        assert!(!now().is_empty());
    }
}
