//! `run --kernel` with real microVMs of QEMU: the installed kernel as a file, with its modules, and one
//! that has everything built in.

use std::fs;
use std::path::PathBuf;

use sandpen_skip::{Reason, skip};

use crate::support::{Home, explain, kernels, until};

fn data_dir() -> PathBuf {
    std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, Into::into)
}

fn installed() -> sandpen::kernel::InstalledKernel {
    sandpen::kernel::find(&data_dir()).unwrap_or_else(|error| panic!("{error}; run `sandpen kernel install`"))
}

/// The copies of kernels that were kept.
fn copies(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.state().join("cache")).unwrap().map(|entry| entry.unwrap().path());
    let is_kernel = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("kernel-");
    entries.filter(is_kernel).collect()
}

#[test]
fn a_file_of_the_installed_version_boots_with_its_modules() {
    let home = Home::new();
    let (rootfs, installed) = (home.rootfs(), installed());
    let vmlinux = fs::read(installed.vmlinux()).unwrap();
    let (plain, packed) = (home.path().join("plain"), home.path().join("packed"));
    fs::write(&plain, &vmlinux).unwrap();
    fs::write(&packed, kernels::bzimage(&vmlinux)).unwrap();
    std::os::unix::fs::symlink(&packed, home.path().join("link")).unwrap();
    for name in ["plain", "link"] {
        let kernel = home.path().join(name);
        let script = "uname -r; grep -c '^virtiofs ' /proc/modules; ls /data; echo x >/file; exit 42";
        let (kernel, volume) = (kernel.to_str().unwrap(), format!("{rootfs}/etc:/data:ro"));
        let output = home.run(&[
            "run", "-n", "a", "--rm", "--driver", "qemu", "--kernel", kernel, "-v", &volume, &rootfs, "--", "sh", "-c",
            script,
        ]);
        assert_eq!(output.status.code(), Some(42), "{}", explain(&output));
        let expected = format!("{}\n1\n", installed.version());
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(&expected), "{}", explain(&output));
    }
    let copies = copies(&home);
    assert_eq!(copies.len(), 1, "one content, one copy: {copies:?}");
    assert!(fs::read(&copies[0]).unwrap() == vmlinux);
}

#[test]
fn restarts_boot_the_kernel_that_was_asked_for_whatever_the_file_holds_by_then() {
    let home = Home::new();
    let (rootfs, installed) = (home.rootfs(), installed());
    let kernel = home.path().join("vmlinux");
    fs::copy(installed.vmlinux(), &kernel).unwrap();
    let path = kernel.to_str().unwrap();
    let run = ["run", "-d", "-n", "a", "--driver", "qemu", "--kernel", path, "--restart", "always"];
    let script = "uname -r; until test -e /go; do sleep 0.1; done; rm /go; exit 1";
    let args: Vec<&str> = [&run[..], &[&rootfs, "--", "sh", "-c", script]].concat();
    home.ok(&args);
    let first = home.inspect("a");
    let digest = first["kernel_sha256"].as_str().unwrap().to_owned();
    let copy = home.state().join(format!("cache/kernel-{digest}.vmlinux"));
    for start in 2..=3 {
        // What is no part of the kernel's image: it would boot as well.
        let mut grown = fs::OpenOptions::new().append(true).open(&kernel).unwrap();
        std::io::Write::write_all(&mut grown, b"x").unwrap();
        fs::write(format!("{rootfs}/go"), "").unwrap();
        until("it was started again", || home.ok(&["logs", "a"]).lines().count() == start);
        assert_eq!(copies(&home), std::slice::from_ref(&copy), "one copy");
    }
    assert_eq!(home.ok(&["logs", "a"]), format!("{}\n", installed.version()).repeat(3));
    let row = home.inspect("a");
    assert_eq!((&row["kernel"], &row["restarts"], &row["state"]), (&path.into(), &2.into(), &"RUNNING".into()));
    assert_eq!(row["kernel_sha256"], digest);

    // A new daemon adopts the microVM, whatever became of the file and of the copy.
    fs::remove_file(&copy).unwrap();
    home.ok(&["shutdown"]);
    let again = home.inspect("a");
    assert_eq!((&again["state"], &again["microvm_pid"]), (&"RUNNING".into(), &row["microvm_pid"]));
    // But nobody has what its next start would boot.
    fs::write(format!("{rootfs}/go"), "").unwrap();
    let words = [path, &digest, "start the sandbox again by a request"];
    until("its restart fails with what to do", || {
        let events = home.ok(&["events", "a", "--json"]);
        events.lines().any(|event| words.iter().all(|word| event.contains(word)))
    });
    home.ok(&["kill", "a"]);

    // A request takes what the file holds now.
    home.ok(&args);
    let next = home.inspect("a")["kernel_sha256"].as_str().unwrap().to_owned();
    assert_ne!(next, digest);
    home.ok(&["kill", "a"]);

    // Without the file there is no next start of that name, and its row stays as it was.
    fs::remove_file(&kernel).unwrap();
    let error = home.fails(&args);
    assert!(error.contains(path) && error.contains("No such file"), "{error}");
    assert_eq!(home.inspect("a")["kernel_sha256"], next);
}

/// The kernel of libkrunfw finds its devices on its command line and loads no modules.
#[test]
fn a_kernel_with_everything_built_in_needs_no_modules_and_no_acpi() {
    let library = match sandpen::kernel::krunfw::find(None, &data_dir()) {
        Ok(library) => library,
        Err(error) => return skip(Reason::NoKrunfw, error),
    };
    let home = Home::new();
    let rootfs = home.rootfs();
    let kernel = home.path().join("own");
    fs::write(&kernel, kernels::of_libkrunfw(&library)).unwrap();
    let kernel = kernel.to_str().unwrap();
    let volume = format!("{rootfs}/etc:/data:ro");
    let script = "cat /proc/modules 2>/dev/null | wc -l; ls /sys/class/net | grep -c eth0; \
                  touch /data/x 2>/dev/null || echo refused; echo kept >/file; cat /file; uname -r >&2; \
                  ls /dev/net/tun /dev/fuse /dev/loop-control; : 3<> /dev/net/tun && echo tun; exit 42";
    let run = ["run", "--rm", "--driver", "qemu", "--kernel", kernel, "--disk", "32M", "--net", "published"];
    let output = home.run(&[&run[..], &["-v", &volume, &rootfs, "--", "sh", "-c", script]].concat());
    assert_eq!(output.status.code(), Some(42), "{}", explain(&output));
    assert_eq!(
        output.stdout,
        b"0\n1\nrefused\nkept\n/dev/fuse\n/dev/loop-control\n/dev/net/tun\ntun\n",
        "{}",
        explain(&output)
    );
    assert!(!String::from_utf8_lossy(&output.stderr).contains(installed().version()), "{}", explain(&output));
    // Its machine has fewer devices.
    let many: Vec<String> = (0..4).map(|number| format!("{rootfs}/etc:/data{number}")).collect();
    let volumes = many.iter().flat_map(|volume| ["-v", volume.as_str()]);
    let args: Vec<&str> = run.into_iter().chain(volumes).chain([rootfs.as_str(), "--", "true"]).collect();
    let error = home.fails(&args);
    assert!(error.contains("room for 4"), "{error}");
}
