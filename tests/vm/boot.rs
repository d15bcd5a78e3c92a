//! Booting when the machine is busy, in the least memory, and being stopped while booting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{self, Home, explain, until};

/// Keeps every core busy until dropped.
struct Busy(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Busy {
    fn new() -> Self {
        let go_on = Arc::new(AtomicBool::new(true));
        let cores = std::thread::available_parallelism().unwrap().get();
        let spin = |go_on: Arc<AtomicBool>| {
            move || {
                while go_on.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        let threads = (0..cores).map(|_| std::thread::spawn(spin(go_on.clone()))).collect();
        Self(go_on, threads)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn twenty_boots_in_a_row_on_busy_cores() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let busy = Busy::new();
    for boot in 1..=20 {
        let output = home.run(&["run", "--rm", &rootfs, "--", "echo", "up"]);
        assert_eq!(output.stdout, b"up\n", "boot {boot}: {}", explain(&output));
    }
    drop(busy);
}

#[test]
fn the_least_memory_boots_and_less_is_refused() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let output = home.run(&["run", "--memory", "96M", &rootfs, "--", "echo", "up"]);
    assert_eq!(output.stdout, b"up\n", "{}", explain(&output));
    let refused = home.run(&["run", "--memory", "95M", &rootfs, "--", "true"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("95 MiB"), "{}", explain(&refused));
    assert_eq!(home.ok(&["ps", "-a", "--json"]).matches("\"name\"").count(), 1);
}

#[test]
fn a_stop_while_booting_ends_it_without_ever_running_the_workload() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let mut run = home.sandpen(&["run", "-d", "-n", "a", &rootfs, "--", "touch", "/ran"]);
    let child = run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("it boots", || home.run(&["inspect", "a"]).status.success() && home.inspect("a")["state"] == "STARTING");
    home.ok(&["stop", "a"]);
    let output = support::finish(child);
    let row = home.inspect("a");
    assert_eq!(row["state"], "STOPPED", "{row} {}", explain(&output));
    assert_eq!(row["exit_signal"], 15, "{row}");
    assert!(!std::path::Path::new(&rootfs).join("ran").exists());
}

#[test]
fn a_daemon_that_dies_while_a_guest_boots_leaves_it_to_the_next_one() {
    let home = Home::new();
    let rootfs = home.rootfs();
    // Secrets go over the control port only, more of them than a pipe holds.
    let secret = format!("SECRET={}", "x".repeat(100_000));
    let script = "echo ${#SECRET}; exit 7";
    let mut run = home.sandpen(&["run", "-d", "-n", "a", "-e", &secret, &rootfs, "--", "sh", "-c", script]);
    let child = run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let is_qemu = |line: &str| line.split(' ').next().is_some_and(|program| program.contains("qemu-system"));
    let vmm = || home.processes().into_iter().find(|(_, line)| is_qemu(line));
    until("its VMM runs", || vmm().is_some());
    let (pid, _) = vmm().unwrap();
    home.kill_daemon();
    assert_eq!(home.ok(&["wait", "a"]), "7\n", "{}", home.inspect("a"));
    assert_eq!(home.log("a"), b"100000\n");
    let row = home.inspect("a");
    let running = row["history"].as_array().unwrap().iter().find(|entry| entry["state"] == "RUNNING");
    assert_eq!(running.expect("it ran")["microvm_pid"], pid, "the same microVM: {row}");
    assert_eq!(row["generation"], 1, "{row}");
    support::finish(child);
}
