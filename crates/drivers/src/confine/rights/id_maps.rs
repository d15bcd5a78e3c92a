//! The ids of a user namespace: all that this user may give it.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

/// The whole range of ids, as the initial namespace maps it (user_namespaces(7)).
const ALL_IDS: u64 = u32::MAX as u64;
/// `CAP_SYS_ADMIN` (linux/capability.h).
const SYS_ADMIN: u64 = 1 << 21;

/// Whether this process is root in the initial user namespace, with the right to make others.
pub fn is_initial_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<u64> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    fields == [0, 0, ALL_IDS] && Uid::effective().is_root() && effective.is_some_and(|set| set & SYS_ADMIN != 0)
}

/// Part of a map: inside, outside, how many.
type Extent = (u32, u32, u32);

/// Maps of users and groups, and how they are written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IdMaps {
    /// This user as root, with subordinate ids, by newuidmap(1) and newgidmap(1).
    Subordinate { uids: Vec<Extent>, gids: Vec<Extent> },
    /// A container's root: all the ids that the container has.
    Same { uids: Vec<Extent>, gids: Vec<Extent> },
    /// This user as root, and nobody else.
    Alone,
}

impl IdMaps {
    /// The largest ones.
    pub(super) fn best() -> Self {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        if uid.is_root() {
            let same = |file: &str| same(&fs::read_to_string(file).unwrap_or_default());
            return Self::Same { uids: same("/proc/self/uid_map"), gids: same("/proc/self/gid_map") };
        }
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        let subordinate = |file: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            subordinate(&text, name.as_deref(), uid.as_raw())
        };
        match (subordinate("/etc/subuid"), subordinate("/etc/subgid")) {
            (Some((uids, count)), Some((gids, groups))) => Self::Subordinate {
                uids: vec![(0, uid.as_raw(), 1), (1, uids, count)],
                gids: vec![(0, gid.as_raw(), 1), (1, gids, groups)],
            },
            _ => Self::Alone,
        }
    }

    /// Gives them to the user namespace of a child of ours, which is in no other; where that does not work, this user
    /// alone. How many uids it has.
    pub(super) fn apply(&self, pid: u32) -> io::Result<u32> {
        let written = match self {
            Self::Subordinate { uids, gids } => {
                run("newuidmap", pid, uids).and_then(|()| run("newgidmap", pid, gids)).map(|()| count(uids))
            }
            Self::Same { uids, gids } => {
                write(pid, "uid_map", uids).and_then(|()| write(pid, "gid_map", gids)).map(|()| count(uids))
            }
            Self::Alone => return alone(pid),
        };
        written.or_else(|error| {
            tracing::warn!(%error, "subordinate ids cannot be used: the files of guests can belong to one user alone");
            alone(pid)
        })
    }
}

fn alone(pid: u32) -> io::Result<u32> {
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    write(pid, "uid_map", &[(0, Uid::effective().as_raw(), 1)])?;
    write(pid, "gid_map", &[(0, Gid::effective().as_raw(), 1)])?;
    Ok(1)
}

fn count(extents: &[Extent]) -> u32 {
    extents.iter().fold(0, |sum, (.., count)| sum.saturating_add(*count))
}

fn write(pid: u32, file: &str, extents: &[Extent]) -> io::Result<()> {
    let path = format!("/proc/{pid}/{file}");
    // Once is all: a map that is there stays.
    if fs::read(&path).is_ok_and(|map| !map.is_empty()) {
        return Ok(());
    }
    let lines: Vec<_> =
        extents.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect();
    fs::write(path, lines.concat())
}

/// newuidmap or newgidmap, which may give away what subuid(5) and subgid(5) say.
fn run(program: &str, pid: u32, extents: &[Extent]) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for (inside, outside, count) in extents {
        command.args([inside, outside, count].map(ToString::to_string));
    }
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).chars().take(200).collect::<String>();
    Err(io::Error::other(format!("{program}: {}", said.trim())))
}

/// The ids of a user namespace for its child.
fn same(map: &str) -> Vec<Extent> {
    let extent = |line: &str| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
        let (inside, _, count) = (fields.next()??, fields.next()??, fields.next()??);
        Some((inside, inside, count))
    };
    map.lines().filter_map(extent).collect()
}

/// The first and the number of a user's subordinate ids, by lines of subuid(5): `NAME-OR-UID:FIRST:COUNT`.
fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let is_ours = Some(owner) == name || owner.parse() == Ok(uid);
        let (first, count) = (fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?);
        (is_ours && count > 0).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let text = "# words\nalice:100000:65536\n1001:165536:65536\nbob:x:1\nbob:231072:10\n";
        assert_eq!(subordinate(text, Some("alice"), 1000), Some((100_000, 65_536)));
        assert_eq!(subordinate(text, None, 1001), Some((165_536, 65_536)));
        assert_eq!(subordinate(text, Some("bob"), 1002), Some((231_072, 10)));
        assert_eq!(subordinate(text, Some("carol"), 1003), None);
        assert_eq!(subordinate("", Some("alice"), 1000), None);
        assert_eq!(subordinate("alice:0:0\n", Some("alice"), 1000), None);
    }

    #[test]
    fn a_containers_root_gives_what_it_has() {
        assert_eq!(same("         0     100000      65536\n  65536 1 2\n"), [(0, 0, 65_536), (65_536, 65_536, 2)]);
        assert_eq!(count(&[(0, 1, 1), (1, 5, u32::MAX)]), u32::MAX);
    }
}
