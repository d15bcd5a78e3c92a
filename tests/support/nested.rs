//! A guest of QEMU in which libkrun runs Linux: emulated SVM, KVM's modules, libkrunfw and sandpen.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::{Home, explain, make_rootfs};

/// How long that guest may say nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(140);

/// The first lines of a script in that guest: KVM is made to work, and `/root/inner` is a root
/// directory in memory.
pub const PREPARE: &str = "\
set -e
for module in irqbypass kvm kvm_amd; do insmod /modules/$module.ko; done
[ -e /dev/kvm ] || mknod /dev/kvm c 10 232
mount -t tmpfs none /root
cp -r /inner /root/inner
# Programs and libraries in memory too: each page from the outside is a trip through two machines.
mkdir -p /root/.memory/bin
for program in sandpen bench; do [ ! -e /bin/$program ] || cp /bin/$program /root/.memory/bin; done
for libraries in lib lib64; do cp -r /$libraries /root/.memory && mount -o bind /root/.memory/$libraries /$libraries; done
export PATH=/root/.memory/bin:$PATH
export SANDPEN_STATE_DIR=/root/state SANDPEN_KRUNFW=/libkrunfw.so.5 HOME=/root
set +e
";

/// Where the guest kernels of the tests are installed.
pub fn data_dir() -> PathBuf {
    std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, PathBuf::from)
}

/// A root directory with a build of sandpen, its libraries, a smaller root directory (`inner`), the
/// KVM modules and libkrunfw.
pub fn outer_root(dir: &Path, program: &Path, modules: &Path, firmware: &Path) {
    make_rootfs(dir);
    make_rootfs(&dir.join("inner"));
    add_program(dir, program, "sandpen");
    fs::create_dir(dir.join("modules")).unwrap();
    for module in ["irqbypass", "kvm", "kvm_amd"] {
        let name = format!("{module}.ko");
        fs::copy(modules.join(&name), dir.join("modules").join(&name)).unwrap();
    }
    fs::copy(firmware, dir.join("libkrunfw.so.5")).unwrap();
}

/// Lets the programs in a root directory find their libraries at once.
fn cache_libraries(dir: &Path) {
    fs::create_dir_all(dir.join("etc")).unwrap();
    let mut ldconfig = Command::new("/sbin/ldconfig");
    let cached = ldconfig.arg("-r").arg(dir).args(["/lib/x86_64-linux-gnu", "/lib", "/lib64"]).output();
    // Without it they are looked for.
    if !cached.is_ok_and(|output| output.status.success()) {
        eprintln!("ldconfig made no cache in {}", dir.display());
    }
}

/// Puts a program of this host and its libraries into a root directory, as `/bin/NAME`.
pub fn add_program(dir: &Path, program: &Path, name: &str) {
    let place = dir.join("bin").join(name);
    // Symbols are many times what runs, and all of it goes into the guest's memory.
    let stripped = Command::new("objcopy").arg("--strip-all").args([program, &place]).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, &place).unwrap();
    }
    add_libraries(dir, program);
}

/// Puts the libraries of a program of this host into a root directory.
pub fn add_libraries(dir: &Path, program: &Path) {
    let libraries = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let target = dir.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(word, target).unwrap();
    }
    cache_libraries(dir);
}

/// That guest while it runs `/script`.
pub struct OuterGuest<'a> {
    home: &'a Home,
    child: Child,
    lines: Receiver<String>,
}

impl<'a> OuterGuest<'a> {
    /// Boots `root` with these entries in the script's environment, and options of `run` for its memory and disk.
    pub fn boot(home: &'a Home, root: &Path, path: &OsStr, env: &[String], options: &[&str]) -> Self {
        let mut command = home.sandpen(&["run", "--rm", "-n", "outer", "--driver", "qemu", "--cpus", "2"]);
        command.args(options).args(env.iter().flat_map(|entry| ["-e", entry]));
        command.args([root.to_str().unwrap(), "--", "sh", "/script"]).env("PATH", path);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // As it comes: a machine that hangs shows where.
                eprintln!("{line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { home, child, lines }
    }

    /// The next line that the script writes; `None` after its end, and where nothing more is heard of it.
    pub fn next_line(&self) -> Option<String> {
        self.lines.recv_timeout(SILENCE_LIMIT).ok()
    }

    /// Waits until it has ended by itself; whether the script succeeded.
    pub fn wait(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// Ends it.
    pub fn kill(mut self) {
        let mut kill = self.home.sandpen(&["kill", "outer"]);
        eprintln!("{}", explain(&kill.output().unwrap()));
        self.child.wait().unwrap();
    }
}

/// QEMU whose emulated processor has SVM; it comes first in `PATH`.
pub fn qemu_with_svm(dir: &Path) -> std::ffi::OsString {
    fs::create_dir(dir).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|dir| dir.join("qemu-system-x86_64")).find(|path| path.exists());
    let real = real.expect("qemu-system-x86_64 (`make test` installs it)");
    let script = format!(
        "#!/bin/sh\nfor a; do shift; [ \"$a\" = max ] && a=EPYC,+svm,+npt; set -- \"$@\" \"$a\"; done\nexec {} \"$@\"\n",
        real.display()
    );
    let wrapper = dir.join("qemu-system-x86_64");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    std::env::join_paths(std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path))).unwrap()
}
