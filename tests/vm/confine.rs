//! What the host processes of a real microVM of QEMU have given up, as the kernel tells it, as they
//! themselves tell it, and as the daemon shows it. The same of libkrun is in `krun.rs`.

use crate::support::confinement::{descriptors, status};
use crate::support::{self, Home, until};

#[test]
fn qemu_and_virtiofsd_hold_no_more_than_they_need() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sh", "-c", "echo up; sleep 1000"]);
    until("it runs", || home.ok(&["logs", "a"]) == "up\n");
    let processes = home.processes();
    let pids = |word: &str| -> Vec<u32> {
        processes.iter().filter(|(_, line)| line.contains(word)).map(|(pid, _)| *pid).collect()
    };
    let (qemu, virtiofsd) = (pids("-M microvm"), pids("__virtiofsd"));
    assert_eq!((qemu.len(), virtiofsd.len()), (1, 1), "{processes:?}");
    for pid in qemu.iter().chain(&virtiofsd) {
        assert_eq!(status(*pid, "NoNewPrivs"), "1");
        assert_eq!(status(*pid, "Seccomp"), "2", "{pid} {processes:?}");
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{limits}");
    }
    assert_eq!(u64::from_str_radix(&status(qemu[0], "CapEff"), 16), Ok(0));
    assert_eq!(u64::from_str_radix(&status(qemu[0], "CapPrm"), 16), Ok(0));
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(qemu[0].cast_signed()))).unwrap();
    assert_ne!(session, nix::unistd::getsid(None).unwrap());
    let run = home.state().join("run/default/a");
    let kernels = support::nested::data_dir().join("kernel");
    for target in descriptors(qemu[0], &[&kernels, &home.state().join("cache")]) {
        let known = ["pipe:", "socket:", "anon_inode:", "/memfd:", "/dev/null", "/dev/kvm", "/dmabuf"];
        // What it boots, for reading.
        let booted = target.ends_with("/vmlinux") || target.contains("/cache/initramfs-");
        let ours = target.starts_with(run.to_str().unwrap()) || known.iter().any(|known| target.starts_with(known));
        let ours = ours || booted;
        assert!(ours, "QEMU has {target} open");
    }

    let confinement = &home.inspect("a")["confinement"];
    let (vmm, companion) = (&confinement["vmm"], &confinement["virtiofsd"]);
    assert_eq!((&vmm["no_new_privs"], &companion["no_new_privs"]), (&true.into(), &true.into()), "{confinement}");
    assert_eq!(vmm["capabilities"].as_array().unwrap().len(), 0);
    assert_eq!((&vmm["rlimits"]["core"], &vmm["rlimits"]["open_files"]), (&0.into(), &1024.into()));
    support::confinement::landlock_is_as_the_doctor_says(&home, vmm);
    assert_eq!((&vmm["seccomp"], &companion["seccomp"]), (&"deny_list".into(), &"allow_list".into()));
    support::confinement::landlock_is_as_the_doctor_says(&home, companion);
    let cgroups = support::confinement::cgroups_are_as_the_doctor_says(&home, vmm);
    assert_eq!(vmm["cgroup"], companion["cgroup"]);
    for directory in &cgroups {
        let inside = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap();
        let inside: Vec<u32> = inside.lines().map(|pid| pid.parse().unwrap()).collect();
        assert!(qemu.iter().chain(&virtiofsd).all(|pid| inside.contains(pid)), "{inside:?} {processes:?}");
    }
    home.ok(&["stop", "--time", "0", "a"]);
    assert!(home.inspect("a")["confinement"].is_null());
    until("its cgroups are gone", || cgroups.iter().all(|directory| !directory.exists()));
}
