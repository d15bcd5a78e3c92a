//! What the tests through the built binary share: a state directory of their own, the binary, a
//! busybox root directory, and a look at what is left behind.

#![allow(dead_code, reason = "each test binary uses its share")]

pub mod confinement;
pub mod features;
pub mod full_disk;
pub mod guests;
pub mod kernels;
pub mod loop_disk;
pub mod nested;
pub mod pty;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sandpen_skip::{Reason, skip};

/// Longest wait for anything: a boot under emulation on a busy machine takes some seconds.
pub const DEADLINE: Duration = Duration::from_mins(4);

/// A state directory with its daemon, both gone at the end.
pub struct Home {
    dir: tempfile::TempDir,
    /// Everything runs as this user, who is not root.
    user: Option<u32>,
}

/// A user that no package makes; it needs no entry in /etc/passwd.
const ORDINARY_USER: u32 = 61_617;

impl Home {
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// A home below a directory.
    pub fn new_in(parent: &Path) -> Self {
        Self { dir: tempfile::Builder::new().prefix("sandpen-test-").tempdir_in(parent).unwrap(), user: None }
    }

    /// A home in which an ordinary user runs everything: who runs the tests, or, where that is root,
    /// a made-up user with copies of the binary and of the guest kernel that it can read.
    pub fn of_ordinary_user() -> Self {
        let mut home = Self::new();
        if !nix::unistd::Uid::effective().is_root() {
            return home;
        }
        home.user = Some(ORDINARY_USER);
        let base = home.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o711)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_sandpen"), base.join("sandpen")).unwrap();
        let data_dir = std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, Into::into);
        copy_dir(&data_dir.join("kernel"), &base.join("data/kernel"));
        fs::create_dir(base.join("home")).unwrap();
        own(&base.join("home"), ORDINARY_USER);
        home
    }

    /// The user id that everything runs as.
    pub fn uid(&self) -> u32 {
        self.user.unwrap_or_else(|| nix::unistd::Uid::effective().as_raw())
    }

    /// Where the user may make files.
    fn own_dir(&self) -> PathBuf {
        if self.user.is_some() { self.path().join("home") } else { self.path().to_owned() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn state(&self) -> PathBuf {
        self.own_dir().join("state")
    }

    /// The built binary with this home's state directory.
    pub fn sandpen(&self, args: &[&str]) -> Command {
        let mut command = match self.user {
            None => Command::new(env!("CARGO_BIN_EXE_sandpen")),
            Some(user) => {
                let mut command = Command::new(self.path().join("sandpen"));
                let home = self.own_dir();
                // Without supplementary groups, as std documents for a caller that is root.
                command.uid(user).gid(user).current_dir(&home).env("HOME", home);
                command.env("SANDPEN_DATA_DIR", self.path().join("data"));
                command.env_remove("XDG_STATE_HOME").env_remove("XDG_DATA_HOME");
                command
            }
        };
        // A daemon that a test kills stays dead until the test asks for another one.
        command.args(args).env("SANDPEN_STATE_DIR", self.state()).env("SANDPEN_NO_KEEP", "1").stdin(Stdio::null());
        // For the trace of an injected panic, the daemon would keep the symbols of the whole program in memory.
        command.env("RUST_BACKTRACE", "0");
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
        let dir = self.own_dir().join("rootfs");
        if !dir.exists() {
            make_rootfs(&dir);
            if let Some(user) = self.user {
                own(&dir, user);
            }
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

    /// The waiter of a sandbox, by the runtime directory that it works in; `None` between two.
    pub fn waiter(&self, name: &str) -> Option<u32> {
        let dir = self.state().join("run/default").join(name);
        let works_there = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        let found =
            self.processes().into_iter().find(|(pid, line)| line.starts_with("sandpen-waiter") && works_there(pid));
        found.map(|(pid, _)| pid)
    }

    /// A sandbox's log, which is made with its first byte.
    pub fn log(&self, name: &str) -> Vec<u8> {
        match fs::read(self.state().join(format!("logs/default/{name}.log"))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            log => log.unwrap(),
        }
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

/// Gives a directory and all below it to a user, links themselves included.
fn own(dir: &Path, user: u32) {
    std::os::unix::fs::lchown(dir, Some(user), Some(user)).unwrap();
    if fs::symlink_metadata(dir).unwrap().is_dir() {
        for entry in fs::read_dir(dir).unwrap() {
            own(&entry.unwrap().path(), user);
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in
        fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}; run `sandpen kernel install`", from.display()))
    {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
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

/// Whether QEMU's machines are restored here, as they are under emulation alone; else `what` is skipped.
pub fn restores(what: &str) -> bool {
    if sandpen::driver::acceleration::acceleration().accelerator != sandpen::driver::acceleration::Accelerator::Tcg {
        skip(Reason::KvmWorks, what);
        return false;
    }
    if let Err(error) = sandpen::driver::disk::find_program() {
        skip(Reason::NoMke2fs, error);
        return false;
    }
    true
}

/// Runs a command to its end, at most until the deadline.
pub fn output(command: Command) -> Output {
    output_within(DEADLINE, command)
}

/// Runs a command to its end; kills it after `limit`.
pub fn output_within(limit: Duration, mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_within(limit, command.spawn().unwrap())
}

/// Waits for a child with its output; kills it at the deadline.
pub fn finish(child: Child) -> Output {
    finish_within(DEADLINE, child)
}

fn finish_within(limit: Duration, child: Child) -> Output {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
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

/// `sandpen run OPTIONS ROOTFS -- sh -c SCRIPT` with the driver `process`: on the host.
pub fn run_on_host(home: &Home, options: &[&str], script: &str) -> Command {
    let mut command = home.sandpen(&["run", "--driver", "process"]);
    command.args(options).arg(home.path()).args(["--", "/bin/sh", "-c", script]);
    command
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
