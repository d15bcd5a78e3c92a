//! What the tests through the built binary share: a state directory of their own, the binary, a
//! busybox root directory, and a look at what is left behind.

#![allow(dead_code, reason = "each test binary uses its share")]

pub mod guests;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything: a boot under emulation on a busy machine takes some seconds.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A state directory with its daemon, both gone at the end.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("sandpen-test-").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The built binary with this home's state directory.
    pub fn sandpen(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen"));
        command.args(args).env("SANDPEN_STATE_DIR", self.state()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        output(self.sandpen(args))
    }

    /// Runs it; its stdout when it succeeded.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "sandpen {args:?}: {}", explain(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it; its stderr when it failed, which it must.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "sandpen {args:?} succeeded: {}", explain(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn inspect(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["inspect", name])).unwrap()
    }

    /// A small root directory with busybox, made for this test alone.
    pub fn rootfs(&self) -> String {
        let dir = self.dir.path().join("rootfs");
        if !dir.exists() {
            make_rootfs(&dir);
        }
        dir.to_str().unwrap().to_owned()
    }

    /// Every process whose command line or working directory names this home.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let home = self.dir.path().to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if pid != std::process::id() && (command_line.contains(&home) || cwd.starts_with(&home)) {
                found.push((pid, command_line));
            }
        }
        found
    }

    /// The daemon's process, as its version answer says.
    pub fn daemon_pid(&self) -> u32 {
        let text = fs::read_to_string(self.state().join("daemon.lock")).unwrap();
        text.trim().parse().unwrap()
    }

    pub fn log(&self, name: &str) -> Vec<u8> {
        fs::read(self.state().join(format!("logs/default/{name}.log"))).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.state().join("daemon.lock").exists() {
            let _ = self.run(&["shutdown", "--stop-sandboxes"]);
        }
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && !self.processes().is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let left = self.processes();
        for (pid, _) in &left {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(*pid).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

pub fn make_rootfs(dir: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists());
    let busybox = busybox.expect("busybox is missing; `make test` installs the package busybox-static");
    for sub in ["bin", "etc", "root", "tmp", "dev", "proc", "sys"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::copy(&busybox, dir.join("bin/busybox")).unwrap();
    let applets = Command::new(&busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
}

/// Runs a command to its end, at most until the deadline.
pub fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().unwrap())
}

/// Waits for a child with its output; kills it at the deadline.
pub fn finish(child: Child) -> Output {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    output
}

pub fn explain(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not before the deadline: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes to a child's stdin and closes it.
pub fn feed(child: &mut Child, bytes: &[u8]) {
    child.stdin.take().unwrap().write_all(bytes).unwrap();
}
