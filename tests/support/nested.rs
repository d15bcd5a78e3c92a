//! A guest of QEMU in which libkrun runs Linux: emulated SVM, KVM's modules, libkrunfw and sandpen.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::make_rootfs;

/// The first lines of a script in that guest: KVM is made to work, and `/root/inner` is a root
/// directory in memory.
pub const PREPARE: &str = "\
set -e
for module in irqbypass kvm kvm_amd; do insmod /modules/$module.ko; done
[ -e /dev/kvm ] || mknod /dev/kvm c 10 232
mount -t tmpfs none /root
cp -r /inner /root/inner
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

/// Puts a program of this host and its libraries into a root directory, as `/bin/NAME`.
pub fn add_program(dir: &Path, program: &Path, name: &str) {
    let place = dir.join("bin").join(name);
    if fs::hard_link(program, &place).is_err() {
        fs::copy(program, &place).unwrap();
    }
    let libraries = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let target = dir.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(word, target).unwrap();
    }
}

/// QEMU whose emulated processor has SVM; it comes first in `PATH`.
pub fn qemu_with_svm(dir: &Path) -> std::ffi::OsString {
    fs::create_dir(dir).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|dir| dir.join("qemu-system-x86_64")).find(|path| path.exists());
    let real = real.expect("qemu-system-x86_64 (`make test` installs it)");
    let script = format!(
        "#!/bin/sh\nfor a; do shift; [ \"$a\" = qemu64 ] && a=EPYC,+svm,+npt; set -- \"$@\" \"$a\"; done\nexec {} \"$@\"\n",
        real.display()
    );
    let wrapper = dir.join("qemu-system-x86_64");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    std::env::join_paths(std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path))).unwrap()
}
