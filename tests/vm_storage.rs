//! Volumes with real microVMs: what the guest writes is on the host, what it may not write stays as
//! it is, and hostile paths lead nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::{Home, explain};

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
    assert!(error.contains("\"/file\" of a volume is not a directory"), "{error}");
}
