//! Volumes, layers and disks with real microVMs: what the guest writes is where it belongs, what it may
//! not write stays as it is, and hostile paths lead nowhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
#[cfg(feature = "testing")]
use sandpen::driver::image_helper::HELD_BY_A_TEST;
use sandpen_skip::{Reason, skip};

use crate::support::{self, Home, explain, send, until};

/// Whatever its kernel is told, a guest cannot write to a read-only volume.
const TRY_TO_WRITE: &str = "
    echo x > /ro/new && echo written
    mount -o remount,rw /ro && grep -q ' /ro virtiofs rw' /proc/mounts && echo remounted
    echo x > /ro/new && echo written
    echo x >> /ro/file && echo appended
    true > /ro/file && echo cut
    rm /ro/file && echo removed
    mv /ro/file /ro/other && echo renamed
    mkdir /ro/dir && echo made
    ln -s x /ro/link && echo linked
    chmod 777 /ro/file && echo changed
    touch -d 2001-01-01 /ro/file && echo aged
    cat /ro/file
";

fn volume(host: &Path, rest: &str) -> String {
    format!("{}:{rest}", host.to_str().unwrap())
}

#[test]
fn volumes_are_shared_and_kept_read_only() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let dir = |name: &str| {
        let dir = home.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    };
    // What QEMU, a shell or an option's syntax could take apart.
    let odd = dir("a b,c=d:").join("x,,y\n:z \"\\");
    fs::create_dir(&odd).unwrap();
    let (rw, ro, nested, outside) = (dir("rw"), dir("ro"), dir("nested"), dir("outside"));
    fs::write(rw.join("from-host"), "hello\n").unwrap();
    fs::write(ro.join("file"), "kept\n").unwrap();
    // A hostile root directory: its links lead to the host's directories, were they not looked up
    // inside of the guest.
    symlink(&outside, format!("{rootfs}/escape")).unwrap();
    fs::create_dir_all(format!("{rootfs}{}", outside.display())).unwrap();
    symlink("../../../../../../..", format!("{rootfs}/up")).unwrap();

    let script = format!(
        "cat /rw/from-host; echo out > /rw/from-guest; cp /bin/busybox /rw/busybox && /rw/busybox echo runs
        echo n > /rw/deep/er/inner; ls /rw /rw/deep
        echo odd > /odd/o; echo e > /escape/in/e; echo u > /up/made/u; ls /made /rw/deep/er
        mknod /rw/node c 1 3 2>/dev/null && echo node
        {TRY_TO_WRITE}"
    );
    let volumes = [
        // Given first, mounted after the one that it lies in.
        volume(&nested, "/rw/deep/er"),
        volume(&rw, "/rw"),
        volume(&ro, "/ro:ro"),
        volume(&odd, "/odd:rw"),
        volume(&nested, "/escape/in"),
        volume(&nested, "/up/made"),
    ];
    let mut args = vec!["run", "-n", "a"];
    args.extend(volumes.iter().flat_map(|volume| ["-v", volume]));
    args.extend([rootfs.as_str(), "--", "sh", "-c", &script]);
    let output = home.run(&args);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let expected = "hello\nruns\n/rw:\nbusybox\ndeep\nfrom-guest\nfrom-host\n\n/rw/deep:\ner\n/made:\ne\ninner\nu\n\n\
        /rw/deep/er:\ne\ninner\nu\nremounted\nkept\n";
    assert_eq!(text, expected, "{}", explain(&output));

    assert_eq!(fs::read_to_string(rw.join("from-guest")).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(nested.join("inner")).unwrap(), "n\n");
    assert_eq!(fs::read_to_string(odd.join("o")).unwrap(), "odd\n");
    assert_eq!(fs::read_to_string(ro.join("file")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(&ro).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "a link of the root directory led out of it");

    let row = home.inspect("a");
    assert_eq!(row["volumes"][2]["host"], ro.to_str().unwrap());
    assert_eq!(row["volumes"][2]["guest"], "/ro");
    assert_eq!(row["volumes"][2]["read_only"], true);
    assert_eq!(row["volumes"][3]["host"], odd.to_str().unwrap());
}

/// Without root other means keep the guest from writing.
#[test]
fn an_ordinary_users_volume_is_read_only_too() {
    let home = Home::of_ordinary_user();
    let rootfs = home.rootfs();
    let ro = Path::new(&rootfs).parent().unwrap().join("ro");
    fs::create_dir(&ro).unwrap();
    fs::write(ro.join("file"), "kept\n").unwrap();
    for path in [&ro, &ro.join("file")] {
        std::os::unix::fs::chown(path, Some(home.uid()), Some(home.uid())).unwrap();
    }
    let output = home.run(&["run", "-v", &volume(&ro, "/ro:ro"), &rootfs, "--", "sh", "-c", TRY_TO_WRITE]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "remounted\nkept\n", "{}", explain(&output));
    assert_eq!(fs::read_to_string(ro.join("file")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(&ro).unwrap().count(), 1);
}

#[test]
fn volumes_that_cannot_be_are_refused_with_what_to_do() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let host = home.path().to_str().unwrap();
    // Twenty of them are one too many for QEMU's machine, with the root.
    let many: Vec<String> = (0..20).map(|number| format!("{host}:/v{number}")).collect();
    let mut args = vec!["run", "-n", "many", "--driver", "qemu"];
    args.extend(many.iter().flat_map(|volume| ["-v", volume]));
    args.extend([rootfs.as_str(), "--", "true"]);
    let error = home.fails(&args);
    assert!(error.contains("21 shared directories") && error.contains("room for 20"), "{error}");

    // A file in the place of the mount point shows inside only.
    fs::write(format!("{rootfs}/file"), "").unwrap();
    let output = home.run(&["run", "-v", &volume(home.path(), "/file"), &rootfs, "--", "true"]);
    assert_eq!(output.status.code(), Some(126), "{}", explain(&output));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("\"/file\" of a volume or tmpfs is not a directory"), "{error}");
}

/// What `dir` holds, as text, so that a change of it shows.
pub fn contents(dir: &str) -> String {
    let output = std::process::Command::new("find").args([dir, "-printf", "%P %y %s %m %U %T@\n"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn disk_of(home: &Home, name: &str) -> std::path::PathBuf {
    home.inspect(name)["disk"]["path"].as_str().unwrap().into()
}

fn has_disks() -> bool {
    let installed = std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, Into::into);
    let kernel = sandpen::kernel::find(&installed).unwrap();
    if let Some(error) = sandpen::driver::disk::MODULES.iter().find_map(|module| kernel.check_has(module).err()) {
        skip(Reason::NoKernel, error);
        return false;
    }
    support::has_mke2fs()
}

#[test]
fn layers_are_shared_and_what_is_written_is_not() {
    let home = Home::new();
    if !has_disks() {
        return;
    }
    let rootfs = home.rootfs();
    let top = home.path().join("top, of:all").to_str().unwrap().to_owned();
    fs::create_dir_all(format!("{top}/etc")).unwrap();
    for (path, text) in [("etc/both", "top\n"), ("only-top", "x\n")] {
        fs::write(format!("{top}/{path}"), text).unwrap();
    }
    fs::write(format!("{rootfs}/etc/both"), "base\n").unwrap();
    fs::write(format!("{rootfs}/etc/base"), "base\n").unwrap();
    let before = (contents(&rootfs), contents(&top));

    let run = |name: &str, extra: &[&str], script: &str| {
        let mut args = vec!["run", "-n", name, "--overlay", &top];
        args.extend(extra);
        args.extend([rootfs.as_str(), "--", "sh", "-c", script]);
        home.run(&args)
    };
    // One fills its disk, removes and changes what it finds.
    let output = run(
        "a",
        &["--disk", "32M"],
        "cat /etc/both /etc/base; echo mine > /etc/both; rm /only-top; mv /etc/base /etc/moved; rm -r /root
         mknod /pass c 1 3 && cat /pass 2>&1
         mount -o remount,rw /proc 2>/dev/null; grep -c ' / overlay' /proc/mounts
         dd if=/dev/zero of=/fill bs=64k 2>&1 | grep -o 'No space left.*'; rm /fill; echo goes on > /after; cat /after",
    );
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["top", "base"], "{}", explain(&output));
    assert!(lines[2].contains("Permission denied"), "a device node works: {}", explain(&output));
    assert_eq!(lines[3..], ["1", "No space left on device", "goes on"], "{}", explain(&output));
    assert_eq!(output.status.code(), Some(0));
    let disk = disk_of(&home, "a");
    let meta = fs::metadata(&disk).unwrap();
    assert_eq!(meta.len(), 32 << 20);
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 <= 33 << 20);
    let row = home.inspect("a");
    assert_eq!(row["rootfs"], format!("overlayfs:{}:{rootfs}", top.replace(':', "\\:")));
    assert_eq!(row["disk"]["bytes"], 32 << 20);

    // The other one over the same layers saw and sees nothing of it; nor does the host.
    let output = run("b", &[], "cat /etc/both /etc/base /only-top; ls /after /root; exit 7");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "top\nbase\nx\n/root:\n", "{}", explain(&output));
    assert_eq!((contents(&rootfs), contents(&top)), before, "a layer was written to");

    // The same name again begins anew, and a removed sandbox leaves no disk.
    let output = run("a", &["--disk", "64M"], "cat /etc/both /only-top");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "top\nx\n", "{}", explain(&output));
    assert_eq!(fs::metadata(&disk).unwrap().len(), 64 << 20);
    home.ok(&["rm", "a", "b"]);
    assert_eq!(fs::read_dir(disk.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn an_image_of_the_root_is_shared_follows_the_directory_and_is_not_written_to() {
    if !has_disks() {
        return;
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    fs::write(format!("{rootfs}/etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(format!("{rootfs}/etc/file"), "first\n").unwrap();
    let before = contents(&rootfs);
    let run = |name: &str, script: &str| {
        home.run(&["run", "-n", name, "--root", "image", "--disk", "64M", &rootfs, "--", "sh", "-c", script])
    };
    let script = "cat /etc/file /etc/machine-id; echo mine >/etc/file; rm -r /root
        echo x >/dev/vdb || echo no device; for disk in /sys/block/vd*; do cat $disk/serial $disk/ro; echo; done";
    let output = run("a", script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "first", "{}", explain(&output));
    assert!(lines[1].len() == 32 && !lines[1].starts_with("01234567"), "the machine id is its own: {text}");
    assert!(text.contains("sandpen-image-01") && text.contains("sandpen-disk0"), "{}", explain(&output));
    assert_eq!(contents(&rootfs), before, "the directory was written to");
    assert_eq!(home.inspect("a")["root_device"], "image");
    // What was written is this sandbox's; a change of the directory is seen by the next start.
    let output = run("b", "cat /etc/file; ls -d /root");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\n/root\n", "{}", explain(&output));
    fs::write(format!("{rootfs}/etc/file"), "other\n").unwrap();
    let output = run("c", "cat /etc/file");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "other\n", "{}", explain(&output));
    let images = || fs::read_dir(home.state().join("cache/images")).unwrap().flatten();
    assert_eq!(images().filter(|entry| entry.path().extension().is_some()).count(), 2);
    let refused = home.fails(&["run", "--root", "erofs", &rootfs, "--", "true"]);
    assert!(refused.contains("virtiofs"), "{refused}");
}

#[test]
fn a_named_disk_outlives_its_sandbox_a_killed_vmm_and_the_daemon() {
    let home = Home::new();
    if !has_disks() {
        return;
    }
    let rootfs = home.rootfs();
    let before = contents(&rootfs);
    let run = |name: &str, script: &str| {
        home.run(&["run", "--rm", "-n", name, "--keep-disk", "work", &rootfs, "--", "sh", "-c", script])
    };
    home.ok(&[
        "run",
        "-d",
        "-n",
        "a",
        "--disk",
        "64M",
        "--keep-disk",
        "work",
        &rootfs,
        "--",
        "sh",
        "-c",
        "echo first > /kept; echo x > /more; sync; echo ready; while :; do echo x >> /more; sync; done",
    ]);
    support::until("the first file is on disk", || home.ok(&["logs", "a"]).contains("ready"));

    // In use: the second is refused and nothing touched, also by a daemon that was not there before.
    let refused = |what: &[&str]| {
        let error = home.fails(what);
        assert!(error.contains("disk work is in use by sandbox default/a"), "{error}");
    };
    refused(&["run", "-n", "b", "--keep-disk", "work", &rootfs, "--", "true"]);
    refused(&["disk", "rm", "work"]);
    home.ok(&["shutdown"]);
    refused(&["run", "-n", "b", "--keep-disk", "work", &rootfs, "--", "true"]);
    assert!(home.fails(&["inspect", "b"]).contains("there is no sandbox"));
    let listed: serde_json::Value = serde_json::from_str(&home.ok(&["disk", "ls", "--json"])).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["used_by"]), (&"work".into(), &"default/a".into()), "{listed}");
    assert_eq!(listed[0]["bytes"], 64 << 20);

    // SIGKILL to the VMM while it writes: the journal makes the file system whole again.
    send(home.microvm_pid("a"), Signal::SIGKILL);
    home.run(&["wait", "a"]);
    home.ok(&["rm", "a"]);
    let output = run("c", "cat /kept; echo second >> /kept; test -e /more && echo more");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nmore\n", "{}", explain(&output));
    // Another size than it has is refused before anything happens to it.
    let output = home.run(&["run", "--rm", "--disk", "1G", "--keep-disk", "work", &rootfs, "--", "true"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("instead of 1073741824"), "{}", explain(&output));
    let output = run("d", "cat /kept");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nsecond\n", "{}", explain(&output));

    assert!(home.ok(&["disk", "ls"]).contains("work"));
    assert_eq!(home.ok(&["disk", "rm", "work"]), "work\n");
    assert!(home.fails(&["disk", "rm", "work"]).contains("there is no disk work"));
    assert_eq!(home.ok(&["disk", "ls", "--json"]).trim(), "[]");
    assert_eq!(contents(&rootfs), before, "the root directory was written to");
}

/// Somebody who may write beside it turns a sandbox's directory into a link between two starts of it.
#[test]
fn a_directory_that_became_a_link_is_not_shared_at_a_restart() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let (data, secret) = (home.path().join("data"), home.path().join("secret"));
    for directory in [&data, &secret] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(data.join("name"), "data\n").unwrap();
    fs::write(secret.join("name"), "secret\n").unwrap();
    let script = "cat /data/name; until test -e /go; do sleep 0.1; done; rm /go; exit 1";
    let volume = volume(&data, "/data");
    let run = ["run", "-d", "-n", "a", "--driver", "qemu", "--restart", "on-failure:1", "-v", &volume, &rootfs];
    home.ok(&[&run[..], &["--", "sh", "-c", script]].concat());
    until("it runs", || home.ok(&["logs", "a"]) == "data\n");
    fs::rename(&data, home.path().join("moved")).unwrap();
    symlink(&secret, &data).unwrap();
    fs::write(format!("{rootfs}/go"), "").unwrap();
    home.run(&["wait", "a"]);
    let row = home.inspect("a");
    let failure = row["failure"].as_str().unwrap();
    assert!(failure.contains("symbolic link") && failure.contains(data.to_str().unwrap()), "{failure}");
    assert_eq!((&row["restarts"], &home.ok(&["logs", "a"])[..]), (&1.into(), "data\n"));
}

/// A daemon is killed while a process makes an image for it; that goes on, and holds what it writes to.
#[cfg(feature = "testing")]
#[test]
fn a_killed_daemon_leaves_no_half_made_image_and_nobody_who_makes_it() {
    let home = Home::new();
    let rootfs = home.rootfs();
    fs::write(format!("{rootfs}/{HELD_BY_A_TEST}"), "").unwrap();
    let mut run = home.sandpen(&["run", "-n", "a", "--driver", "qemu", "--root", "image", &rootfs, "--", "true"]);
    let mut client = run.stderr(std::process::Stdio::null()).spawn().unwrap();
    let images = home.state().join("cache/images");
    let drafts = || -> Vec<_> {
        let entries = fs::read_dir(&images).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".draft-")).collect()
    };
    let makers = || -> Vec<_> {
        let all = home.processes();
        all.into_iter().filter(|(_, line)| line.contains("__image")).collect()
    };
    until("the image is being made", || !drafts().is_empty() && !makers().is_empty());
    home.kill_daemon();
    client.wait().unwrap();
    // One for the disk, and one for what is remembered meanwhile.
    assert_eq!((drafts().len(), makers().len()), (2, 1), "the process goes on");
    home.ok(&["ps", "-a"]);
    assert!(drafts().is_empty(), "{:?}", drafts());
    assert!(makers().is_empty(), "{:?}", makers());
    let events = home.ok(&["events"]);
    assert!(events.contains("reconciled"), "{events}");
}
