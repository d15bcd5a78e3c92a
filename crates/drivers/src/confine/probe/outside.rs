//! A process as the host's `/proc` shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Fields of `/proc/PID/status`.
const FIELDS: [&str; 13] = [
    "Uid",
    "Gid",
    "Groups",
    "NSpid",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Threads",
];
/// Files of `/proc/PID`.
const FILES: [&str; 3] = ["uid_map", "gid_map", "setgroups"];
/// How deep and how far its directories are looked at.
const TREE_DEPTH: usize = 4;
const TREE_MAX: usize = 400;

/// What is known of it; what cannot be read is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outside {
    /// User, groups, capabilities and the like, by the kernel's names.
    pub status: BTreeMap<String, String>,
    /// Its namespaces: `net` → `net:[4026531840]`.
    pub namespaces: BTreeMap<String, String>,
    /// Mount point, type and options of each mount.
    pub mounts: Vec<String>,
    /// What there is below its root directory, to a depth of four names and to four hundred of them.
    pub tree: Vec<String>,
    /// What its descriptors lead to.
    pub descriptors: Vec<String>,
}

impl Outside {
    /// Of the last one in the line of processes that begins with `pid`: entering a PID namespace takes a child.
    pub(super) fn of(pid: u32) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", last_descendant(pid)));
        let text = |file: &str| fs::read_to_string(proc.join(file)).unwrap_or_default();
        let status = text("status");
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.filter(|(name, _)| FIELDS.contains(name)).map(|(name, value)| (name, value.to_owned()));
        let files = FILES.map(|file| (file, text(file)));
        let squeezed = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            status: fields.chain(files).map(|(name, value)| (name.to_owned(), squeezed(value))).collect(),
            namespaces: links(&proc.join("ns")).collect(),
            mounts: text("mountinfo").lines().filter_map(mount).collect(),
            tree: tree(&proc.join("root")),
            descriptors: links(&proc.join("fd")).map(|(_, target)| target).collect(),
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.status.iter().chain(&self.namespaces) {
            writeln!(f, "{name:<44} {value}")?;
        }
        for (title, lines) in [("mounts", &self.mounts), ("tree", &self.tree), ("descriptors", &self.descriptors)] {
            writeln!(f, "{title}:")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        Ok(())
    }
}

fn last_descendant(mut pid: u32) -> u32 {
    loop {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        match children.split_whitespace().next_back().and_then(|child| child.parse().ok()) {
            Some(child) => pid = child,
            None => return pid,
        }
    }
}

/// Names in a directory with what they lead to.
fn links(directory: &Path) -> impl Iterator<Item = (String, String)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), target.to_string_lossy().into_owned()))
    })
}

/// Of a line of mountinfo (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    Some(format!("{} {} {}", left.next()?, right.split(' ').next()?, left.next()?))
}

/// Breadth first, so that what is cut off is deep down.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..TREE_DEPTH {
        let mut below = Vec::new();
        for directory in level {
            let mut entries: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                // Kernel files of every process would fill it.
                let is_kernel = ["proc", "sys"].contains(&name.as_str());
                found.push(format!("/{name}"));
                if found.len() == TREE_MAX {
                    return found;
                }
                if !is_kernel && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below.push(path);
                }
            }
        }
        level = below;
    }
    found
}
