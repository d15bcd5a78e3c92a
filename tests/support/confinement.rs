//! What the kernel tells of a process, for tests of its confinement.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sandpen_skip::{Reason, skip};

use super::Home;

/// A field of `/proc/PID/status`.
pub fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}: {text}")).trim().to_owned()
}

/// What a process's descriptors lead to. Files that it has for reading lie in mounts of their own, where they have no
/// path: they are looked for in `directories`.
pub fn descriptors(pid: u32, directories: &[&Path]) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // One may be closed while the directory is read.
    let targets = entries.filter_map(|entry| {
        let entry = entry.ok()?.path();
        let target = fs::read_link(&entry).ok()?;
        let is_apart = target == Path::new("/");
        let found = is_apart.then(|| directories.iter().find_map(|directory| same_file(directory, &entry))).flatten();
        Some(found.unwrap_or(target).to_string_lossy().into_owned())
    });
    targets.collect()
}

/// The file at or below `path` that is the open one.
fn same_file(path: &Path, open: &Path) -> Option<PathBuf> {
    let meta = path.symlink_metadata().ok()?;
    let (wanted, is_dir) = (fs::metadata(open).ok()?, meta.is_dir());
    if !is_dir {
        return ((meta.dev(), meta.ino()) == (wanted.dev(), wanted.ino())).then(|| path.to_owned());
    }
    fs::read_dir(path).ok()?.flatten().find_map(|entry| same_file(&entry.path(), open))
}

/// Compares a process's report with what the doctor says of this kernel.
pub fn landlock_is_as_the_doctor_says(home: &Home, report: &serde_json::Value) {
    let doctor: serde_json::Value = serde_json::from_slice(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "landlock").unwrap();
    if check["status"] == "ok" {
        let landlock = &report["landlock"];
        assert_eq!(check["detail"], format!("ABI {}", landlock["abi"]), "{report}");
        let abi = landlock["abi"].as_i64().unwrap();
        assert_eq!(landlock["network_denied"], abi >= 4, "{report}");
        assert_eq!(landlock["scoped"], abi >= 6, "{report}");
    } else {
        skip(Reason::NoLandlock, &check["detail"]);
        assert!(report["landlock"].is_null() && report["left_out"]["landlock"].is_string(), "{report}");
    }
}

/// Compares a process's report with what the doctor says of cgroups here, and the limits with the
/// kernel's; the directories.
pub fn cgroups_are_as_the_doctor_says(home: &Home, report: &serde_json::Value) -> Vec<PathBuf> {
    let doctor: serde_json::Value = serde_json::from_slice(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "cgroup").unwrap();
    if check["status"] != "ok" {
        skip(Reason::NoCgroups, &check["detail"]);
        assert!(report["cgroup"].is_null() && report["left_out"]["cgroup"].is_string(), "{report}");
        return Vec::new();
    }
    let paths = report["cgroup"]["paths"].as_array().unwrap().iter().map(|path| PathBuf::from(path.as_str().unwrap()));
    let paths: Vec<PathBuf> = paths.collect();
    assert!(!paths.is_empty(), "{report}");
    let limits = ["memory.limit_in_bytes", "memory.max", "pids.max"].map(|file| {
        paths.iter().find_map(|path| fs::read_to_string(path.join(file)).ok()).and_then(|text| text.trim().parse().ok())
    });
    let limits: Vec<u64> = limits.into_iter().flatten().collect();
    assert!(limits.iter().any(|limit| (1..1000).contains(limit)), "{limits:?}");
    assert!(limits.iter().any(|limit| ((96 << 20)..(8 << 30)).contains(limit)), "{limits:?}");
    paths
}
