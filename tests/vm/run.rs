//! `sandpen run` with real microVMs: streams, exit codes, stdin, environment, files.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;

use crate::support::{Home, explain, feed, finish, succeeds};

#[test]
fn output_exit_code_row_and_log_agree() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let output = home.run(&["run", "-n", "a", &rootfs, "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(output.stdout, b"out\n", "{}", explain(&output));
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.status.code(), Some(42));
    let row = home.inspect("a");
    assert_eq!(row["state"], "STOPPED");
    assert_eq!(row["exit_code"], 42);
    assert_eq!(row["driver"], "qemu");
    let log = String::from_utf8(home.log("a")).unwrap();
    assert!(log == "out\nerr\n" || log == "err\nout\n", "{log:?}");
    assert_eq!(home.ok(&["logs", "--stream", "stderr", "a"]), "err\n");
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "a"]), "out\n");
    assert_eq!(home.ok(&["wait", "a"]).trim(), "42");
}

#[test]
fn stdin_passes_through_to_its_end() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let input: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let mut command = home.sandpen(&["run", "-i", &rootfs, "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = {
        let input = input.clone();
        std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input).unwrap())
    };
    let output = finish(child);
    writer.join().unwrap();
    assert!(output.status.success(), "{}", explain(&output));
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
}

#[test]
fn without_i_the_workload_reads_the_end_at_once() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let mut command = home.sandpen(&["run", &rootfs, "--", "sh", "-c", "wc -c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    feed(&mut child, b"ignored");
    assert_eq!(String::from_utf8(finish(child).stdout).unwrap().trim(), "0");
}

#[test]
fn values_of_any_bytes_arrive_unchanged_and_never_reach_the_kernel() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let odd = " a'b\"c\\d\n-- foo=bar init=/bad \u{e4}";
    let raw = OsString::from_vec(vec![b'x', 0xff, 0xfe, b' ', b'"']);
    let long = "v".repeat(4096);
    let workdir = "/work dir=1 \"x";
    fs::create_dir_all(format!("{rootfs}{workdir}")).unwrap();
    let script = "pwd; printf '%s|' \"$ODD\" \"$RAW\" \"$@\" | od -An -tx1 -v | tr -d ' \\n'; echo; echo ${#LONG}; cat /proc/cmdline";
    let mut raw_env = OsString::from("RAW=");
    raw_env.push(&raw);
    let mut command = home.sandpen(&["run", "-e", &format!("ODD={odd}"), "-e", &format!("LONG={long}")]);
    command.arg("-e").arg(raw_env).args(["-w", workdir, &rootfs, "--", "sh", "-c", script, "sh", odd]).arg(&raw);
    let output = succeeds(command);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], workdir);
    let expected: Vec<u8> = [odd.as_bytes(), raw.as_encoded_bytes(), odd.as_bytes(), raw.as_encoded_bytes()]
        .iter()
        .flat_map(|value| [*value, b"|"].concat())
        .collect();
    let hex: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(lines[1], hex);
    assert_eq!(lines[2], "4096");
    assert!(!lines[3].contains("foo=bar") && !lines[3].contains("vvvv") && !lines[3].contains("dir=1"), "{}", lines[3]);
}

#[test]
fn secrets_are_in_no_command_line_and_not_in_inspect() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", "a", "-e", "TOKEN=s3cret-value", &rootfs, "--", "sleep", "1000"]);
    for (_, command_line) in home.processes() {
        assert!(!command_line.contains("s3cret-value"), "{command_line}");
    }
    assert!(!home.inspect("a").to_string().contains("s3cret-value"));
    let daemon_log = fs::read_to_string(home.state().join("daemon.log")).unwrap_or_default();
    assert!(!daemon_log.contains("s3cret-value"));
    home.ok(&["kill", "a"]);
}

#[test]
fn what_cannot_be_executed_ends_with_the_shells_codes() {
    let home = Home::new();
    let rootfs = home.rootfs();
    fs::write(format!("{rootfs}/not-executable"), "data").unwrap();
    for (command, code) in [("/bin/nope", 127), ("nope", 127), ("/not-executable", 126)] {
        let output = home.run(&["run", &rootfs, "--", command]);
        assert_eq!(output.status.code(), Some(code), "{command}: {}", explain(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(command), "{}", explain(&output));
    }
    // A file is in the way of the working directory.
    let output = home.run(&["run", "-w", "/not-executable/dir", &rootfs, "--", "true"]);
    assert_eq!(output.status.code(), Some(126), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/not-executable/dir"), "{}", explain(&output));
}

#[test]
fn a_signal_in_the_workload_is_128_and_more() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let output = home.run(&["run", "-n", "a", &rootfs, "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137), "{}", explain(&output));
    assert_eq!(home.inspect("a")["exit_signal"], 9);
}

#[test]
fn the_guest_writes_into_the_root_directory_and_sees_its_limits() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "echo made in guest > /made; nproc; awk '/MemTotal/{print int($2/1024)}' /proc/meminfo; hostname";
    let output = home.run(&["run", "-n", "box", "--cpus", "2", "--memory", "192M", &rootfs, "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", explain(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "2");
    let memory: u32 = lines[1].parse().unwrap();
    assert!((128..=192).contains(&memory), "{memory}");
    assert_eq!(lines[2], "box");
    assert_eq!(fs::read_to_string(format!("{rootfs}/made")).unwrap(), "made in guest\n");
}

#[test]
fn background_children_of_the_workload_do_not_hold_the_end() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let output = home.run(&["run", &rootfs, "--", "sh", "-c", "sleep 1000 & echo done"]);
    assert_eq!(output.stdout, b"done\n", "{}", explain(&output));
    assert!(output.status.success());
}

#[test]
fn a_machine_whose_memory_is_used_up_says_so() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let output = home.run(&["run", "-n", "a", "--memory", "96M", &rootfs, "--", "tail", "/dev/zero"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(137), "{}", explain(&output));
    assert!(said.contains("its memory of 96 MiB was used up") && said.contains("ended tail"), "{said}");
    assert_eq!(home.inspect("a")["out_of_memory"], "tail");
    let events = home.ok(&["events", "a"]);
    assert_eq!(events.matches("out_of_memory").count(), 1, "{events}");
    // A child alone: the workload goes on, and its end says why that one went.
    let script = "tail /dev/zero; echo $?; exit 3";
    let output = home.run(&["run", "-n", "b", "--memory", "96M", &rootfs, "--", "sh", "-c", script]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"137\n"[..]), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ended tail"), "{}", explain(&output));
}
