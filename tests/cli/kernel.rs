//! `run --kernel` through the built binary: files that are no kernel, or none that the driver could use,
//! are refused before anything is made. Guests that boot one are in `tests/vm/kernel.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use crate::support::kernels::{VERSION, bzimage, vmlinux};
use crate::support::{Home, explain, output};

/// Words in the image of a kernel that has all drivers that QEMU's guests need.
const ALL: &[&str] = &["virtio-mmio", "LNRO0005", "virtio_console", "virtiofs"];
const X86_64: u16 = 62;

struct Files<'a>(&'a Home);

impl Files<'_> {
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// An empty root directory, beside the kernels.
fn root(home: &Home) -> String {
    let root = home.path().join("root");
    fs::create_dir_all(&root).unwrap();
    root.to_str().unwrap().to_owned()
}

/// Otherwise each start of a workload that writes to it would leave another copy, and the next one boot it.
#[test]
fn a_kernel_where_a_guest_can_write_is_refused() {
    let home = Home::new();
    let root = root(&home);
    fs::create_dir_all(format!("{root}/boot")).unwrap();
    fs::create_dir(home.path().join("work")).unwrap();
    let whole = vmlinux(X86_64, true, ALL);
    std::os::unix::fs::symlink("root/boot", home.path().join("link")).unwrap();
    fs::write(format!("{root}/boot/vmlinux"), &whole).unwrap();
    fs::write(home.path().join("work/vmlinux"), &whole).unwrap();
    let at = |path: &str| home.path().join(path).to_str().unwrap().to_owned();
    let volume = format!("{}:/work", at("work"));
    for (kernel, more, outer) in [
        (at("root/boot/vmlinux"), &[][..], at("root")),
        (at("link/vmlinux"), &[], at("root")),
        (at("work/../root/boot/vmlinux"), &[], at("root")),
        (at("work/vmlinux"), &["-v", volume.as_str()], at("work")),
    ] {
        let mut args = vec!["run", "-n", "a", "--driver", "qemu", "--kernel", &kernel];
        args.extend(more);
        args.extend([root.as_str(), "--", "true"]);
        let error = home.fails(&args);
        assert!(error.contains(&outer) && error.contains("the sandbox itself can write to"), "{kernel}: {error}");
        assert!(error.contains("put the kernel somewhere else"), "{error}");
    }
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

#[test]
fn what_is_no_kernel_is_refused_and_nothing_is_made() {
    let home = Home::new();
    let rootfs = &root(&home);
    let files = Files(&home);
    let whole = vmlinux(X86_64, true, ALL);
    let fifo = home.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let dangling = home.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let huge = files.write("huge", &whole);
    fs::OpenOptions::new().write(true).open(&huge).unwrap().set_len((1 << 30) + 1).unwrap();
    let mut old = bzimage(&whole);
    old[0x206..0x208].copy_from_slice(&0x0207_u16.to_le_bytes());
    let mut broken = bzimage(&whole);
    let middle = broken.len() / 2;
    broken[middle..middle + 64].fill(0xff);
    for (path, words) in [
        ("/no/such/kernel".into(), &["No such file"][..]),
        (dangling, &["No such file"]),
        (home.path().to_owned(), &["is a directory"]),
        (fifo, &["not a regular file"]),
        ("/dev/zero".into(), &["not a regular file"]),
        (files.write("empty", b""), &["is empty"]),
        (huge, &["at most 1073741824"]),
        (files.write("text", b"#!/bin/sh\necho hello\n"), &["is not a Linux kernel", "vmlinuz"]),
        (files.write("magic", b"\x7fELF"), &["is not a Linux kernel"]),
        (fs::canonicalize("/bin/sh").unwrap(), &["is not a Linux kernel"]),
        (files.write("cut.elf", &whole[..whole.len() - 8]), &["is cut off"]),
        (files.write("cut.bz", &bzimage(&whole)[..1100]), &["is cut off"]),
        (files.write("broken.bz", &broken), &["cannot unpack"]),
        (files.write("old.bz", &old), &["boot protocol"]),
        (files.write("foreign", &vmlinux(183, true, ALL)), &["aarch64", "x86-64"]),
        (files.write("no-pvh", &vmlinux(X86_64, false, ALL)), &["CONFIG_PVH"]),
        (files.write("no-pvh.bz", &bzimage(&vmlinux(X86_64, false, ALL))), &["CONFIG_PVH"]),
        (files.write("bare", &vmlinux(X86_64, true, &[])), &["CONFIG_VIRTIO_MMIO=y", "kernel install"]),
        (files.write("no-fs", &vmlinux(X86_64, true, &ALL[..3])), &["CONFIG_VIRTIO_FS=y", "kernel install"]),
        (
            files.write("no-devices", &vmlinux(X86_64, true, &["virtio-mmio", "virtio_console", "virtiofs"])),
            &["CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y"],
        ),
    ] {
        let path = path.to_str().unwrap();
        let refused = home.run(&["run", "-n", "a", "--driver", "qemu", "--kernel", path, rootfs, "--", "true"]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(125), "{path}: {}", explain(&refused));
        assert!(error.contains(path) && words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
    for made in ["run/default/a", "logs/default/a.log", "disks"] {
        assert!(!home.state().join(made).exists(), "{made}");
    }
    let kept = |name: &str| name.starts_with("kernel-");
    let cache = fs::read_dir(home.state().join("cache"));
    assert!(cache.is_err() || cache.unwrap().all(|entry| !kept(entry.unwrap().file_name().to_str().unwrap())));
}

#[test]
fn drivers_that_a_sandbox_needs_more_are_looked_for_too() {
    let home = Home::new();
    let rootfs = &root(&home);
    let kernel = Files(&home).write("plain", &vmlinux(X86_64, true, ALL));
    let kernel = kernel.to_str().unwrap();
    for (option, word) in [(&["--net", "on"][..], "CONFIG_VIRTIO_NET=y"), (&["--disk", "32M"], "CONFIG_VIRTIO_BLK=y")] {
        let mut args = vec!["run", "--driver", "qemu", "--kernel", kernel];
        args.extend(option);
        args.extend([rootfs, "--", "true"]);
        let error = home.fails(&args);
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

/// libkrun wants other things of a kernel than QEMU: no entry of its own, devices by command line.
#[test]
#[cfg(feature = "krun-driver")]
fn each_driver_has_its_own_demands() {
    let home = Home::new();
    let rootfs = &root(&home);
    let files = Files(&home);
    let for_krun = ["virtio-mmio", "virtio_mmio.device", "virtio_console", "virtiofs"];
    let run = |kernel: &str, more: &[&str]| {
        let mut args = vec!["run", "--driver", "krun", "--kernel", kernel];
        args.extend(more);
        args.extend([rootfs, "--", "true"]);
        home.fails(&args)
    };
    let acpi = files.write("acpi", &vmlinux(X86_64, true, ALL));
    let error = run(acpi.to_str().unwrap(), &[]);
    assert!(error.contains("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y") && error.contains("--driver qemu"), "{error}");
    let good = files.write("good", &vmlinux(X86_64, false, &for_krun));
    let error = run(good.to_str().unwrap(), &["--net", "tsi"]);
    assert!(error.contains("patches of libkrunfw"), "{error}");
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

#[test]
#[cfg(feature = "testing")]
fn drivers_that_boot_no_kernel_say_so() {
    let home = Home::new();
    let rootfs = &root(&home);
    let kernel = Files(&home).write("kernel", &vmlinux(X86_64, true, ALL));
    for driver in ["process", "krun-bare"] {
        let error =
            home.fails(&["run", "--driver", driver, "--kernel", kernel.to_str().unwrap(), rootfs, "--", "true"]);
        assert!(error.contains(driver) && error.contains("boots none"), "{error}");
    }
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

/// A data directory with an install of an older sandpen, which looked for few modules, and an archive that is none.
struct OlderInstall {
    home: Home,
}

impl OlderInstall {
    const VERSION: &str = "6.1.0-1-cloud-amd64";

    fn new(origin: &str) -> Self {
        let older = Self { home: Home::new() };
        let directory = older.data().join("kernel").join(Self::VERSION);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("vmlinux"), "x").unwrap();
        let manifest = serde_json::json!({
            "format": 1, "version": Self::VERSION, "origin": origin, "vmlinux": {"size": 1, "sha256": ""},
            "modules": [], "builtin": ["virtiofs"],
        });
        fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
        fs::write(older.data().join("kernel/current"), Self::VERSION).unwrap();
        older.tool("apt-cache", "echo 'E: no network' >&2; exit 100");
        older.tool("apt-get", "echo 'E: no network' >&2; exit 100");
        older
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What is run in the place of a program of the host.
    fn tool(&self, name: &str, script: &str) {
        let directory = self.home.path().join("tools");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// An archive with a kernel that has everything built in.
    fn has_archive(&self) {
        let package = self.home.path().join("package");
        let modules = package.join("lib/modules").join(VERSION);
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir(package.join("boot")).unwrap();
        let kernel = bzimage(&vmlinux(X86_64, true, ALL));
        fs::write(package.join("boot/vmlinuz-new"), kernel).unwrap();
        let builtin = ["virtio_mmio", "virtio_console", "virtiofs", "fuse", "overlay"];
        let builtin: String = builtin.map(|name| format!("kernel/{name}.ko\n")).concat();
        fs::write(modules.join("modules.builtin"), builtin).unwrap();
        self.tool("apt-cache", &format!("echo 'Depends: linux-image-{VERSION} (= 1)'"));
        self.tool("apt-get", "touch linux.deb");
        self.tool("dpkg-deb", &format!("cp -r '{}'/. \"$3\"", package.display()));
    }

    fn install_if_missing(&self) -> Output {
        let mut command = self.home.sandpen(&["kernel", "install", "--if-missing", "--data-dir"]);
        let path = format!("{}:{}", self.home.path().join("tools").display(), std::env::var("PATH").unwrap());
        command.arg(self.data()).env("PATH", path);
        let installed = output(command);
        assert_eq!(installed.status.code(), Some(0), "{}", explain(&installed));
        installed
    }

    fn current(&self) -> String {
        fs::read_to_string(self.data().join("kernel/current")).unwrap().trim_end().to_owned()
    }
}

#[test]
fn an_install_of_debians_that_lacks_modules_is_replaced_where_that_is_possible() {
    // An older sandpen has recorded where it came from, and what else is of Debian's by its version.
    for origin in ["package linux-image-6.1.0-1-cloud-amd64=6.1.1-1", ""] {
        let older = OlderInstall::new(origin);
        let kept = older.install_if_missing();
        let told = String::from_utf8_lossy(&kept.stderr);
        assert!(told.contains("6.1.0-1-cloud-amd64 stays, without ") && told.contains("E: no network"), "{told}");
        assert!(told.contains("tun") && !told.contains("virtiofs"), "{told}");
        assert!(String::from_utf8_lossy(&kept.stdout).contains(OlderInstall::VERSION), "{}", explain(&kept));
        assert_eq!(older.current(), OlderInstall::VERSION);
        older.has_archive();
        let newer = older.install_if_missing();
        assert!(String::from_utf8_lossy(&newer.stdout).contains(VERSION), "{}", explain(&newer));
        assert_eq!(older.current(), VERSION);
        let again = older.install_if_missing();
        assert!(again.stderr.is_empty(), "what this one does not have is nobody's fault: {}", explain(&again));
    }
}

#[test]
fn an_install_of_a_users_own_is_nobody_elses_to_replace() {
    let own = OlderInstall::new("files /boot/vmlinuz and /lib/modules/6.1.0-1-cloud-amd64");
    own.has_archive();
    let kept = own.install_if_missing();
    assert!(kept.stderr.is_empty(), "{}", explain(&kept));
    assert_eq!(own.current(), OlderInstall::VERSION);
}
