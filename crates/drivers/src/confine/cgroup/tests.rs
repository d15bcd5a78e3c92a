//! Paths and limits, on texts and directories that look like the kernel's. Real cgroups are in
//! `tests/vm/confine.rs`.

use super::hierarchy::{delegated_parent, enable};
use super::*;

const LIMITS: Limits = Limits { memory: 1 << 30, cpu_millis: 1500, tasks: 300 };

fn hierarchy(cgroup: &str, mountinfo: &str) -> Hierarchy {
    Hierarchy::parse(cgroup, mountinfo).unwrap()
}

#[test]
fn version_1_is_found_by_controller() {
    let cgroup = "8:pids:/\n4:memory:/jobs/a\n1:cpu,cpuacct:/jobs/a\n0::/unified\n";
    let mountinfo = "\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 /jobs /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    let own = [("memory", "memory/a"), ("cpu", "cpu,cpuacct/jobs/a"), ("pids", "pids")];
    let own = own.map(|(controller, path)| (controller.to_owned(), Path::new("/sys/fs/cgroup").join(path)));
    assert_eq!(hierarchy(cgroup, mountinfo), Hierarchy::V1(own.into()));
}

#[test]
fn version_2_is_found_and_what_is_not_mounted_is_not() {
    let mountinfo = "33 25 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    let own = hierarchy("0::/user.slice/a.scope\n", mountinfo);
    assert_eq!(own, Hierarchy::V2("/sys/fs/cgroup/user.slice/a.scope".into()));
    assert!(Hierarchy::parse("0::/a\n", "").is_err());
    // Of another namespace, or outside of what is mounted.
    assert!(Hierarchy::parse("0::/../b\n", mountinfo).is_err());
    assert!(Hierarchy::parse("0::/b\n", &mountinfo.replace(" / /", " /a /")).is_err());
    for strange in ["", "x", "1 2 3 / - cgroup2", "0::"] {
        assert!(Hierarchy::parse(strange, strange).is_err());
    }
}

/// Directories in the place of cgroups of version 1.
fn first() -> (tempfile::TempDir, Hierarchy) {
    let dir = tempfile::tempdir().unwrap();
    let own = ["memory", "pids"].map(|controller| (controller.to_owned(), dir.path().join(controller)));
    for (_, path) in &own {
        fs::create_dir(path).unwrap();
    }
    (dir, Hierarchy::V1(own.into()))
}

#[test]
fn a_sandbox_of_version_1_has_a_directory_for_each_controller() {
    let (dir, hierarchy) = first();
    let plan = hierarchy.plan("id", "default.a", LIMITS).unwrap();
    assert_eq!((plan.version, plan.missing.as_slice()), (1, &["cpu".to_owned()][..]));
    let group = plan.join().unwrap();
    let memory = dir.path().join("memory/sandpen-id/default.a");
    assert_eq!(group.paths, [memory.clone(), dir.path().join("pids/sandpen-id/default.a")]);
    assert_eq!(fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap(), "1073741824");
    assert_eq!(fs::read_to_string(memory.join("cgroup.procs")).unwrap(), "0");
    // Who comes second joins as well.
    assert_eq!(plan.join().unwrap(), group);
    assert_eq!(oom_kills(&group.paths), 0);
    fs::write(memory.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").unwrap();
    assert_eq!(oom_kills(&group.paths), 2);
}

#[test]
fn swap_space_is_bounded_where_the_kernel_counts_it() {
    let (_dir, hierarchy) = first();
    let first = hierarchy.plan("id", "default.a", LIMITS).unwrap().groups[0].clone();
    assert!(first.limits.contains(&("memory.memsw.limit_in_bytes".to_owned(), "1073741824".to_owned())));
    first.join().unwrap();
    let swap = first.directory.join("memory.memsw.limit_in_bytes");
    assert!(!swap.exists());
    fs::write(&swap, "").unwrap();
    first.join().unwrap();
    assert_eq!(fs::read_to_string(&swap).unwrap(), "1073741824");
    assert!(hierarchy::second_version(LIMITS).contains(&("memory.swap.max".to_owned(), "0".to_owned())));
}

#[test]
fn what_is_empty_is_removed_and_what_is_not_stays() {
    let (dir, hierarchy) = first();
    hierarchy.plan("id", "default.a", LIMITS).unwrap();
    let base = dir.path().join("memory/sandpen-id");
    fs::create_dir(base.join("default.a")).unwrap();
    fs::create_dir_all(base.join("default.b/in-use")).unwrap();
    hierarchy.sweep("id");
    assert!(!base.join("default.a").exists() && base.join("default.b").exists());
    assert!(remove(&[base.join("default.a"), base.join("default.b/in-use")]).is_ok());
    assert!(!base.join("default.b/in-use").exists());
    assert!(remove(&[base.join("default.b")]).is_ok());
    assert!(!base.exists());
}

/// Directories in the place of cgroups of version 2: `unit/own`, with these processes in `own`.
fn second(own: &str, processes: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unit").join(own);
    fs::create_dir_all(&path).unwrap();
    for directory in [&path, path.parent().unwrap()] {
        fs::write(directory.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    }
    fs::write(path.join("cgroup.procs"), processes).unwrap();
    (dir, path)
}

#[test]
fn version_2_is_used_where_it_was_given_away_only() {
    let (_dir, own) = second("daemon", "7\n8\n");
    let unit = own.parent().unwrap();
    assert_eq!(delegated_parent(&own, |path| path == unit, 7).unwrap(), unit);
    assert!(delegated_parent(&own, |_| false, 7).unwrap_err().contains("DelegateSubgroup"));
    // A service of its own without a subgroup stays as it is, as does a scope with others in it.
    assert!(delegated_parent(&own, |path| path == own, 7).is_err());
    let (_dir, shared) = second("run-1.scope", "7\n8\n");
    assert!(delegated_parent(&shared, |path| path == shared, 7).is_err());
    let (_dir, alone) = second("run-1.scope", "7\n");
    assert_eq!(delegated_parent(&alone, |path| path == alone, 7).unwrap(), alone);
    assert_eq!(fs::read_to_string(alone.join("sandpen-daemon/cgroup.procs")).unwrap(), "7");
}

#[test]
fn controllers_are_handed_on_if_all_are_there() {
    let (_dir, own) = second("daemon", "7\n");
    enable(&own).unwrap();
    assert_eq!(fs::read_to_string(own.join("cgroup.subtree_control")).unwrap(), "+memory +cpu +pids");
    fs::write(own.join("cgroup.controllers"), "cpu pids\n").unwrap();
    assert!(enable(&own).unwrap_err().contains("memory"));
}

#[test]
fn limits_follow_the_size_of_the_guest() {
    let limits = Limits::of(2, 256, 512);
    assert_eq!((limits.memory, limits.cpu_millis), (768 << 20, 3000));
    assert!(limits.tasks > 100);
}
