//! Command lines that are wrong are refused in a line or two that say what to do, before anything
//! is started; help texts are as reviewed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use crate::support::{self, Home, explain, output};

/// Runs a command line that must fail with `code` and must not start anything.
pub fn refused(home: &Home, args: &[&str], code: i32) -> String {
    let output = home.run(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", explain(&output));
    assert!(output.stdout.is_empty(), "{args:?}: {}", explain(&output));
    assert!(!home.state().exists(), "{args:?} made a state directory");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_rootfs_must_be_a_directory_that_looks_like_one() {
    let home = Home::new();
    let file = home.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for (rootfs, word) in [
        ("", "./rootfs"),
        ("Rootfs", "./rootfs"),
        ("~/rootfs", "./rootfs"),
        ("./no/such", "No such file"),
        ("/no/such", "No such file"),
        (file.to_str().unwrap(), "not a directory"),
    ] {
        let error = refused(&home, &["run", rootfs, "--", "true"], 125);
        assert!(error.contains(word) && error.contains("rootfs"), "{rootfs}: {error}");
        assert!(error.lines().count() <= 2, "{error}");
    }
    let odd = home.path().join(OsString::from_vec(b"not-utf8-\xff".to_vec()));
    std::fs::create_dir(&odd).unwrap();
    let mut command = home.sandpen(&["run"]);
    let output = output({
        command.arg(&odd);
        command
    });
    assert_eq!(output.status.code(), Some(125), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not UTF-8"), "{}", explain(&output));
}

#[test]
fn names_are_checked() {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    let long = "a".repeat(64);
    for name in ["", "..", "../x", "a/../b", "a/b/c", "/a", "a/", "a b", "ä", ".a", "a..b", "a\nb", long.as_str()] {
        let error = refused(&home, &["run", "-n", name, rootfs, "--", "true"], 125);
        assert!(error.contains("not allowed"), "{name}: {error}");
        for command in ["inspect", "history", "logs", "wait", "stop", "kill", "rm"] {
            let error = refused(&home, &[command, "--", name], 1);
            assert!(error.contains("not allowed"), "{command} {name}: {error}");
        }
    }
    let error = refused(&home, &["rm", "good", "../bad"], 1);
    assert!(error.contains("../bad") || error.contains("\"..\""), "{error}");
    let error = refused(&home, &["stop", "--config", "a", "b/c"], 1);
    assert!(error.contains("either"), "{error}");
}

#[test]
fn values_are_checked_and_their_form_said() {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    for (option, value, word) in [
        ("--env-file", "/no/such", "No such file"),
        ("--env-fd", "1", "0, or 3"),
        ("--env-fd", "99999999999", "0, or 3"),
        ("--env-fd", "999", "not open"),
        ("-e", "=s3cret", "NAME=VALUE"),
        ("-e", "", "NAME=VALUE"),
        ("--memory", "256", "256M"),
        ("--memory", "1T", "256M"),
        ("--memory", "1M", "96"),
        ("--cpus", "0", "1 to 64"),
        ("--cpus", "many", "--cpus"),
        ("--timeout", "30", "30s"),
        ("--timeout", "0s", "no time"),
        ("--log-max-size", "1K", "4096"),
        ("--log-keep", "0", "1 to 1000"),
        ("--log-keep", "1001", "1 to 1000"),
        ("-w", "relative", "absolute"),
        ("--hostname", "a_b", "no host name"),
        ("--hostname", "", "no host name"),
        ("--stop-signal", "RTMIN+31", "no signal"),
        ("--stop-signal", "0", "does not exist"),
        ("--disk", "1M", "16M"),
        ("--disk", "2048G", "1024G"),
        ("--overlay", "layer", "./rootfs"),
        ("--overlay", rootfs, "twice"),
        ("--keep-disk", "../x", "not allowed"),
        ("-v", "da ta:/data", "./data:/data"),
        ("-u", "a b", "USER[:GROUP]"),
        ("-u", "web:", "USER[:GROUP]"),
        ("--tmpfs", "/tmp:size=x", "is not a size"),
        ("--tmpfs", "/dev/x", "the guest's own"),
        ("--shm-size", "1G", "4K to the size of the memory"),
        ("--add-host", "db", "NAME:ADDRESS"),
        ("--sysctl", "../x=1", "below /proc/sys"),
        ("-l", "a b=1", "label key"),
        ("-v", "./data", "HOST:GUEST"),
        ("-v", "./no/such:/data", "make that directory"),
        ("-v", "/dev/null:/data", "neither a directory nor a regular file"),
        ("-v", ".:/data/../etc", "\"..\""),
        ("-v", ".:/proc/self", "/proc"),
    ] {
        let error = refused(&home, &["run", option, value, rootfs, "--", "true"], 125);
        assert!(error.contains(word), "{option} {value}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    for command in ["kill", "stop", "restart"] {
        let error = refused(&home, &[command, "-s", "NOPE", "a"], 2);
        assert!(error.contains("TERM"), "{error}");
    }
    // Also where there is nothing to list.
    let error = refused(&home, &["ps", "--format", "{{.nam}}"], 1);
    assert!(error.contains("there is no field \"nam\"; there are name, "), "{error}");
    let error = refused(&home, &["ps", "--filter", "health=unhealthy"], 2);
    assert!(error.contains("there are starting, healthy, failing"), "{error}");
    refused(&home, &["nope"], 2);
    refused(&home, &["run"], 125);
    refused(&home, &["--state-dir", "x", "run", "--nope"], 125);
    refused(&home, &["stop"], 2);
}

#[test]
fn too_much_environment_is_refused_with_its_size() {
    let home = Home::new();
    let mut command = home.sandpen(&["run"]);
    for i in 0..20 {
        command.arg("-e").arg(format!("V{i}={}", "x".repeat(60_000)));
    }
    command.args([home.path().to_str().unwrap(), "--", "true"]);
    let output = output(command);
    assert_eq!(output.status.code(), Some(125), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1048576"), "{}", explain(&output));
}

#[test]
fn what_is_not_there_is_said_by_name() {
    let home = Home::new();
    for command in ["inspect", "history", "logs", "wait", "start", "restart", "stop", "kill", "rm"] {
        let error = home.fails(&[command, "nope"]);
        assert!(error.starts_with("sandpen: there is no sandbox default/nope"), "{command}: {error}");
        assert_eq!(error.lines().count(), 1, "{command}: {error}");
    }
    let error = home.fails(&["--debug", "inspect", "nope"]);
    assert!(error.contains("code: not_found (HTTP status 404)"), "{error}");
}

#[test]
fn a_driver_that_is_not_there_is_said_and_leaves_no_row() {
    let home = Home::new();
    let output = home.run(&["run", "--driver", "nope", home.path().to_str().unwrap(), "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("driver \"nope\""), "{}", explain(&output));
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

#[test]
fn a_closed_stdout_is_no_panic() {
    let home = Home::new();
    for args in [&["ps"][..], &["completion", "bash"], &["--help"]] {
        let mut command = home.sandpen(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = support::finish(output);
        assert!(output.status.success(), "{args:?}: {}", explain(&output));
        assert!(output.stderr.is_empty(), "{args:?}: {}", explain(&output));
    }
}

#[test]
fn what_is_no_kernel_is_refused_and_nothing_installed() {
    let home = Home::new();
    let data = home.path().join("data");
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut cut = vec![0; 4096];
    cut[0x1f1] = 4; // setup sectors
    cut[0x202..0x206].copy_from_slice(b"HdrS");
    cut[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    cut[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes()); // payload_offset
    cut[0x24c..0x250].copy_from_slice(&9_000_000_u32.to_le_bytes()); // payload_length
    let fifo = home.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let sh = std::fs::canonicalize("/bin/sh").unwrap();
    for (kernel, word) in [
        (sh.to_str().unwrap(), "is not a Linux kernel"),
        (&file("text", b"hello"), "is not a Linux kernel"),
        (&file("cut", &cut), "is cut off"),
        ("/dev/zero", "is not a Linux kernel"),
        (fifo.to_str().unwrap(), "is not a Linux kernel"),
        ("/no/such", "No such file"),
        ("/", "directory"),
    ] {
        let args = ["--data-dir", data.to_str().unwrap(), "kernel", "install", "--kernel", kernel, "--modules", "/"];
        let error = home.fails(&args);
        assert!(error.contains(word) && error.contains(kernel), "{kernel}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!data.join("kernel/current").exists());
    }
    let error = home.fails(&["kernel", "install", "--kernel", "/no/such"]);
    assert!(error.contains("--modules"), "{error}");
}

#[test]
fn a_missing_kernel_is_said_with_the_command_that_helps() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let data = home.path().join("data");
    let output = home.run(&["--data-dir", data.to_str().unwrap(), "run", "--driver", "qemu", &rootfs, "--", "true"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{}", explain(&output));
    assert!(error.contains("sandpen kernel install") && error.contains(data.to_str().unwrap()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn help_texts() {
    let home = Home::new();
    let commands = [
        "",
        "run",
        "exec",
        "cp",
        "shell",
        "commit",
        "attach",
        "ps",
        "inspect",
        "top",
        "sessions",
        "jobs",
        "history",
        "logs",
        "events",
        "metrics",
        "wait",
        "start",
        "restart",
        "stop",
        "kill",
        "rm",
        "stats",
        "df",
        "prune",
        "reconcile",
        "doctor",
        "port-forward",
        "ssh-config",
        "kernel",
        "daemon",
        "shutdown",
        "completion",
        "config",
        "login",
        "logout",
        "man",
    ];
    for command in commands {
        let args: Vec<_> = [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        let name = if command.is_empty() { "sandpen" } else { command };
        insta::assert_snapshot!(format!("help_{name}"), home.ok(&args));
    }
    insta::assert_snapshot!("help_image", home.ok(&["image", "--help"]));
    for command in ["pull", "push", "load", "save", "import", "ls", "inspect", "tag", "rm", "prune"] {
        insta::assert_snapshot!(format!("help_image_{command}"), home.ok(&["image", command, "--help"]));
    }
    insta::assert_snapshot!("help_file", home.ok(&["file", "--help"]));
    let commands = ["ls", "stat", "read", "write", "append", "mkdir", "rm", "mv", "chmod", "chown", "watch"];
    let helps = commands.map(|command| home.ok(&["file", command, "--help"]));
    insta::assert_snapshot!("help_file_commands", helps.join("\n----\n\n"));
    insta::assert_snapshot!("help_volume_prune", home.ok(&["volume", "prune", "--help"]));
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.ok(&["completion", shell]).contains("sandpen"));
    }
}

#[test]
#[cfg(feature = "testing")]
fn a_port_alone_asks_for_no_way_out() {
    let home = Home::new();
    let cases: [(&[&str], &str); 4] = [
        (&[], "none"),
        (&["-p", "0:80"], "published"),
        (&["--net", "on", "-p", "0:80"], "on"),
        (&["--net", "tsi", "-p", "0:80", "-p", "0:81"], "tsi"),
    ];
    for (options, network) in cases {
        let ran = output(support::run_on_host(&home, &[&["-n", "a"], options].concat(), "true"));
        assert!(ran.status.success(), "{options:?}: {}", explain(&ran));
        let row = home.inspect("a");
        assert_eq!(row["network"], network, "{options:?}");
        let ports = options.iter().filter(|option| **option == "-p").count();
        assert_eq!(row["ports"].as_array().map(Vec::len), Some(ports), "{options:?}");
    }
}
