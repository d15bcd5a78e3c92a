//! A state directory of a test's own, with its daemon and what is left of both.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::commands::{explain, output};
use super::signals::{send, send_if_there};

/// A state directory with its daemon, both gone at the end.
pub struct Home {
    dir: tempfile::TempDir,
    /// Everything runs as this user, who is not root.
    user: Option<u32>,
    /// Whether kernels and images are this home's own, in [`Home::data`].
    has_data: bool,
}

/// A user that no package makes; it needs no entry in /etc/passwd.
const ORDINARY_USER: u32 = 61_617;

impl Home {
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// A home below a directory.
    pub fn new_in(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("sandpen-test-").tempdir_in(parent).unwrap();
        Self { dir, user: None, has_data: false }
    }

    /// A home with a data directory of its own, in which is a copy of the guest kernel.
    pub fn with_data() -> Self {
        let mut home = Self::new();
        home.has_data = true;
        copy_kernel(&home.data());
        home
    }

    /// A home in which an ordinary user runs everything: who runs the tests, or, where that is root,
    /// a made-up user with copies of the binary and of the guest kernel that it can read.
    pub fn of_ordinary_user() -> Self {
        let home = Self::of_user_without_kernel();
        if let Some(user) = home.user {
            copy_kernel(&home.data());
            // The store of images lies in there.
            own(&home.data(), user);
        }
        home
    }

    /// The same for tests that boot no guest.
    pub fn of_user_without_kernel() -> Self {
        let mut home = Self::new();
        if !nix::unistd::Uid::effective().is_root() {
            return home;
        }
        home.user = Some(ORDINARY_USER);
        let base = home.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o711)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_sandpen"), base.join("sandpen")).unwrap();
        fs::create_dir(base.join("home")).unwrap();
        own(&base.join("home"), ORDINARY_USER);
        home
    }

    /// A home with a microVM `a` that waits for sessions.
    pub fn idle() -> Self {
        let home = Self::new();
        home.run_idle(&home.rootfs());
        home
    }

    /// Starts such a microVM with this root directory.
    pub fn run_idle(&self, rootfs: &str) {
        assert_eq!(self.ok(&["run", "-d", "--idle", "-n", "a", rootfs]), "a\n");
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

    /// The data directory of a home that has its own.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The built binary with this home's state directory.
    pub fn sandpen(&self, args: &[&str]) -> Command {
        let mut command = match self.user {
            None => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen"));
                if self.has_data {
                    command.env("SANDPEN_DATA_DIR", self.data());
                }
                command
            }
            Some(user) => {
                let mut command = Command::new(self.path().join("sandpen"));
                let home = self.own_dir();
                // Without supplementary groups, as std documents for a caller that is root.
                command.uid(user).gid(user).current_dir(&home).env("HOME", home);
                command.env("SANDPEN_DATA_DIR", self.data());
                command.env_remove("XDG_STATE_HOME").env_remove("XDG_DATA_HOME");
                command
            }
        };
        // A daemon that a test kills stays dead until the test asks for another one.
        command.args(args).env("SANDPEN_STATE_DIR", self.state()).env("SANDPEN_NO_KEEP", "1").stdin(Stdio::null());
        // What whoever runs the tests has as defaults is not tested.
        command.env("SANDPEN_CONFIG", "");
        // For the trace of an injected panic, the daemon would keep the symbols of the whole program in memory.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        output(self.sandpen(args))
    }

    /// Runs it to its end, and the daemon that it may start, with at most so many open files.
    pub fn run_with_files(&self, limit: u32, args: &[&str]) -> Output {
        let ready = self.sandpen(args);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(ready.get_program());
        command.args(ready.get_args()).envs(ready.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(user) = self.user {
            command.uid(user);
        }
        output(command)
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

    /// The process that is a sandbox's microVM.
    pub fn microvm_pid(&self, name: &str) -> u32 {
        u32::try_from(self.inspect(name)["microvm_pid"].as_u64().expect("a microVM")).unwrap()
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

    /// Gives everything below a path to the user that everything runs as.
    pub fn own(&self, path: &str) {
        if let Some(user) = self.user {
            own(Path::new(path), user);
        }
    }

    /// Every process whose command line, working directory, standard input or standard error names this home.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let home = self.dir.path().to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            let is_here =
                |link: &str| fs::read_link(entry.path().join(link)).is_ok_and(|target| target.starts_with(&home));
            if pid != std::process::id()
                && (command_line.contains(&home) || is_here("cwd") || is_here("fd/0") || is_here("fd/2"))
            {
                found.push((pid, command_line));
            }
        }
        found
    }

    /// Every sandbox, ended ones too, as `ps --json` shows them.
    pub fn rows(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.ok(&["ps", "-a", "--json"])).unwrap()
    }

    /// Who holds the state directory or held it last, as the lock file says.
    pub fn lock_holder(&self) -> Option<u32> {
        fs::read_to_string(self.state().join("daemon.lock")).ok()?.trim().parse().ok()
    }

    /// The daemon's process, which there is.
    pub fn daemon_pid(&self) -> u32 {
        self.lock_holder().expect("a daemon")
    }

    /// Kills the daemon, which there is.
    pub fn kill_daemon(&self) {
        send(self.daemon_pid(), Signal::SIGKILL);
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
            send_if_there(*pid, Signal::SIGKILL);
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

/// Copies the installed guest kernel.
fn copy_kernel(data: &Path) {
    let installed = std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, Into::into);
    copy_dir(&installed.join("kernel"), &data.join("kernel"));
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
