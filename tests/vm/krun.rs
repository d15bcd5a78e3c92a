//! Real microVMs of libkrun, with bare-metal guests in the place of Linux: the driver, the waiter, the
//! helper process, the ports, the control protocol and the log are as with Linux, and this works on
//! every host where /dev/kvm opens. Linux itself is in `tests/nested`.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use sandpen_skip::{Reason, skip};

use crate::support::confinement::{
    cgroups_are_as_the_doctor_says, descriptors, landlock_is_as_the_doctor_says, status,
};
use crate::support::{Home, explain, feed, finish, guests, output, send, succeeds, until};

/// `sandpen run` with a guest.
fn run(home: &Home, args: &[&str], guest: &str) -> Command {
    let image = guests::build(home.path(), guest);
    let rootfs = home.path().to_str().unwrap();
    let mut command = home.sandpen(&["run", "--driver", "krun-bare", "--memory", "96M"]);
    command.args(args).args([rootfs, "--", image.to_str().unwrap()]);
    command
}

fn vmm_log(home: &Home, name: &str) -> String {
    let log = home.run(&["logs", "--vmm", name]);
    assert_eq!(log.status.code(), Some(0), "{}", explain(&log));
    String::from_utf8_lossy(&log.stdout).into_owned()
}

/// The process that is the microVM.
fn vmm(home: &Home) -> u32 {
    let processes = home.processes();
    let vmm = processes.iter().find(|(_, line)| line.contains("__krun")).unwrap_or_else(|| panic!("{processes:?}"));
    vmm.0
}

#[test]
fn streams_exit_code_row_and_vmm_log_agree() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let output = output(run(&home, &["-n", "a", "-e", "TOKEN=s3cret-value"], "print"));
    assert_eq!(output.stdout, b"out\n", "{}\n{}", explain(&output), vmm_log(&home, "a"));
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.status.code(), Some(42));
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["exit_code"]), (&"STOPPED".into(), &42.into()));
    assert_eq!(row["driver"], "krun-bare");
    assert!(vmm_log(&home, "a").contains("hello from the guest"));
    until("nothing of it runs", || home.processes().iter().all(|(_, line)| !line.contains("waiter")));
    until("nothing of it is left", || !home.state().join("run/default/a").exists());
}

#[test]
fn a_crash_is_failed_although_the_vmm_ends_with_code_0() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let output = output(run(&home, &["-n", "a"], "crash"));
    assert_eq!(output.stdout, b"before\n", "{}\n{}", explain(&output), vmm_log(&home, "a"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("sandpen logs --vmm a"), "{}", explain(&output));
    assert_eq!(home.inspect("a")["state"], "FAILED");
}

#[test]
fn a_killed_vmm_is_failed_and_a_halted_one_is_ended_by_kill() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    succeeds(run(&home, &["-d", "-n", "a"], "idle"));
    until("it runs", || home.ok(&["logs", "a"]) == "idle\n");
    send(vmm(&home), Signal::SIGKILL);
    until("its end is seen", || home.inspect("a")["state"] == "FAILED");

    succeeds(run(&home, &["-d", "-n", "b"], "idle"));
    until("it runs", || home.ok(&["logs", "b"]) == "idle\n");
    let started = std::time::Instant::now();
    home.run(&["stop", "--time", "1", "b"]);
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
    until("its end is seen", || !matches!(home.inspect("b")["state"].as_str(), Some("RUNNING" | "STOPPING")));
    until("nothing of it runs", || home.processes().iter().all(|(_, line)| !line.contains("__krun")));
}

#[test]
fn a_flood_arrives_whole_while_daemons_and_waiters_are_killed() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let mut command = run(&home, &["-d", "-n", "a", "--log-max-size", "1G"], "flood");
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", explain(&output));
    let log = home.state().join("logs/default/a.log");
    let pid = home.inspect("a")["microvm_pid"].clone();
    for part in 1..4 {
        let enough = part * (48 << 20);
        until("more of the flood", || fs::metadata(&log).is_ok_and(|meta| meta.len() >= enough));
        // The daemon, its waiter, both.
        if part != 2 {
            home.kill_daemon();
        }
        if part != 1 {
            // Part 2 has killed one, too, and the next one may not be there yet.
            until("a waiter", || home.waiter("a").is_some());
            send(home.waiter("a").unwrap(), Signal::SIGKILL);
        }
        until("a new daemon", || home.run(&["inspect", "a"]).status.success());
        assert_eq!(home.inspect("a")["microvm_pid"], pid);
    }
    until("its end", || home.inspect("a")["state"] == "STOPPED");
    assert_eq!(home.inspect("a")["exit_code"], 0);
    let bytes = fs::read(&log).unwrap();
    assert_eq!(bytes.len(), 256 << 20);
    for (number, word) in bytes.chunks_exact(8).enumerate() {
        let (block, index) = (number / 4096, number % 4096);
        let expected = if index == 0 { block } else { index };
        assert_eq!(u64::from_le_bytes(word.try_into().unwrap()), expected as u64, "block {block}");
    }
}

#[test]
fn stdin_passes_through_to_its_end() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let input: Vec<u8> = (0..8_000u32).flat_map(u32::to_le_bytes).collect();
    let mut child = run(&home, &["-i"], "echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    feed(&mut child, &input);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
}

#[test]
fn linux_is_refused_where_kvm_runs_none() {
    let home = Home::new();
    let doctor: serde_json::Value = serde_json::from_slice(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let krun = checks.iter().find(|check| check["name"] == "krun").unwrap();
    if krun["status"] == "ok" {
        return skip(Reason::KvmWorks, "a host that refuses Linux under libkrun");
    }
    assert_ne!(doctor["auto"], "krun");
    let rootfs = home.rootfs();
    let message = home.fails(&["run", "--driver", "krun", &rootfs, "--", "true"]);
    assert!(message.contains("KVM") || message.contains("kernel install"), "{message}");
}

#[test]
fn the_process_of_a_microvm_holds_no_more_than_it_needs() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    succeeds(run(&home, &["-d", "-n", "a"], "idle"));
    until("it runs", || home.ok(&["logs", "a"]) == "idle\n");
    let pid = vmm(&home);
    assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".into(), "2".into()));
    assert_eq!(u64::from_str_radix(&status(pid, "CapEff"), 16), Ok(0));
    // Its table of descriptors is large from the beginning: growing it takes long once it has threads, and libkrun
    // opens the 65th while its guest waits.
    assert!(status(pid, "FDSize").parse::<u64>().unwrap() >= 512);
    let run = home.state().join("run/default/a");
    for target in descriptors(pid, &[home.path()]) {
        let known = ["pipe:", "anon_inode:", "/memfd:", "/dev/null", "/dev/kvm"];
        let is_its_kernel = target.ends_with("/idle.elf");
        let ours = target.starts_with(run.to_str().unwrap()) || known.iter().any(|known| target.starts_with(known));
        assert!(ours || is_its_kernel, "it has {target} open");
    }
    let confinement = &home.inspect("a")["confinement"];
    assert_eq!(confinement["vmm"]["no_new_privs"], true, "{confinement}");
    assert_eq!(confinement["vmm"]["seccomp"], "allow_list", "{confinement}");
    assert!(confinement["virtiofsd"].is_null());
    landlock_is_as_the_doctor_says(&home, &confinement["vmm"]);
    home.run(&["kill", "a"]);
}

#[test]
fn a_cgroup_outlives_the_daemon_and_goes_with_its_microvm() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    for name in ["a", "b"] {
        succeeds(run(&home, &["-d", "-n", name], "idle"));
        until("it runs", || home.ok(&["logs", name]) == "idle\n");
    }
    let report = |name: &str| home.inspect(name)["confinement"]["vmm"].clone();
    let cgroups = ["a", "b"].map(|name| cgroups_are_as_the_doctor_says(&home, &report(name)));
    if cgroups[0].is_empty() {
        return;
    }
    let gone = |name: usize| cgroups[name].iter().all(|directory| !directory.exists());
    home.kill_daemon();
    // As a daemon that died in the middle of a clean-up leaves it.
    let left = cgroups[0][0].with_file_name("default:left");
    fs::create_dir(&left).unwrap();
    until("a new daemon", || home.run(&["inspect", "a"]).status.success());
    assert!(!left.exists());
    assert!(!gone(0) && !gone(1));
    home.ok(&["kill", "a"]);
    until("its cgroup is gone", || gone(0));
    assert!(!gone(1));

    // The kernel ends what takes too much memory: a stranger in the cgroup does, and the microVM is
    // the first that it chooses.
    let limits = cgroups[1].iter().flat_map(|path| ["memory.limit_in_bytes", "memory.max"].map(|file| path.join(file)));
    let limit = limits.into_iter().find(|file| file.exists()).unwrap();
    fs::write(&limit, "64M").unwrap();
    fs::write(format!("/proc/{}/oom_score_adj", vmm(&home)), "1000").unwrap();
    let mut stranger = Command::new("sh");
    stranger.args(["-c", "echo $$ > \"$0\" && exec tail /dev/zero"]).arg(limit.with_file_name("cgroup.procs"));
    output(stranger);
    until("its end is seen", || home.inspect("b")["state"] == "FAILED");
    assert_eq!(home.inspect("b")["failure_kind"], "out_of_memory");
    until("its cgroup is gone", || gone(1));
    until("nothing is left of them", || cgroups[1].iter().all(|directory| !directory.parent().unwrap().exists()));
}

#[test]
fn a_port_alone_is_refused_and_the_way_out_that_it_would_bring_is_named() {
    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let refused = output(run(&home, &["-n", "a", "-p", "0:80"], "idle"));
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("-p") && said.contains("--net tsi") && said.contains("--driver qemu"), "{said}");
    assert_eq!(home.inspect("a")["network"], "published");
}
