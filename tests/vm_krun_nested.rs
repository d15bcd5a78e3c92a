//! Linux under libkrun, on every host: QEMU emulates a processor with SVM, KVM runs inside of that
//! guest, and sandpen in it makes microVMs of libkrun. Both sides are this build.
//!
//! Needs `sandpen kernel install` (with the KVM modules) and `sandpen kernel install --krunfw`;
//! without, it says so and passes, unless `SANDPEN_REQUIRE_KRUNFW` is set.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;

use support::{Home, explain, features, nested, output_within};

/// Some thirty boots in an emulated machine: some minutes alone, more beside other tests.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(20);

/// A line before each scenario's output, so that they are told apart.
const SCRIPT: &str = r#"
mkdir /root/bare /root/bare/bin
cp /inner/bin/busybox /root/bare/bin/busybox

echo "== doctor"
sandpen doctor --json | grep '"auto"'

echo "== streams"
sandpen run -n a /root/inner -- sh -c 'echo out; echo err >&2; echo made > /made; exit 42' 2>/root/err
echo "code $?; $(cat /root/err); $(cat /root/inner/made); $(ls /root/inner)"
sandpen inspect a | grep -E '"(state|driver|exit_code)"' | head -3

echo "== secrets"
sandpen run -e 'TOKEN=s3cret" init=/bad' -w '/tmp' /root/inner -- sh -c 'pwd; echo "$TOKEN"; cat /proc/cmdline; ls /sys/class/net'

echo "== stdin"
head -c 100000 /bin/busybox > /root/data
sandpen run -i /root/inner -- cat < /root/data | cmp - /root/data && echo same

echo "== bytes"
head -c 8388608 /dev/urandom > /root/inner/data
sandpen run -n bytes /root/inner -- cat /data 2>/root/err | cmp - /root/inner/data && echo same
# Said where the microVM died instead.
cat /root/err; sandpen logs --vmm bytes
sandpen logs bytes | cmp - /root/inner/data && echo same
rm /root/inner/data

echo "== terminal"
sandpen run -t -e TERM=dumb /root/inner -- sh -c 'tty; stty size; echo err >&2; exit 4' 2>/dev/null | tr '\r' '#'
sandpen run -dt -n t /root/inner -- sh -c '[ -t 0 ] && echo on a terminal; exit 6' >/dev/null
echo "code $(sandpen wait t); $(sandpen logs t | tr -d '\r')"

echo "== bare root"
sandpen run /root/bare -- /bin/busybox echo no directories needed
echo "code $?"

echo "== not found"
sandpen run /root/inner -- nope 2>/dev/null
echo "code $?"

echo "== volumes"
mkdir -p "/root/v,1:x" /root/ro && echo kept > /root/ro/file
sandpen run -v "/root/v,1:x:/data" -v /root/ro:/data/ro:ro /root/inner -- sh -c '
    echo out > /data/out; mount -o remount,rw /data/ro && echo remounted
    echo x > /data/ro/new; rm /data/ro/file; chmod 777 /data/ro/file; cat /data/ro/file' 2>/dev/null
echo "$(cat /root/v,1:x/out) $(ls /root/ro) $(stat -c %a /root/ro/file)"

echo "== layers"
mkdir -p /root/top/etc && echo top > /root/top/etc/both && echo base > /root/inner/etc/both
sandpen run -n o --overlay /root/top --disk 16M /root/inner -- sh -c '
    cat /etc/both; echo mine > /etc/both; rm -r /root; dd if=/dev/zero of=/fill 2>&1 | grep -o "No space.*"; rm /fill; cat /etc/both'
echo "$? $(echo $(cat /root/top/etc/both /root/inner/etc/both)) $(ls -d /root/inner/root) $(ls /root/state/disks/sandbox/default)"
sandpen run --rm --keep-disk k /root/inner -- sh -c 'echo kept > /etc/k' && sandpen run --rm --keep-disk k /root/inner -- cat /etc/k
sandpen rm o; sandpen disk ls --json | grep '"name"'; ls /root/state/disks/sandbox/default

echo "== network"
mkdir /root/inner/www /root/www && echo from the guest > /root/inner/www/page && echo from the host > /root/www/page
httpd -p 127.0.0.1:7000 -h /root/www
# busybox's wget, linked statically, crashes where it looks up an address.
page() { printf 'GET /page HTTP/1.0\r\n\r\n' | nc -w 9 127.0.0.1 $1 2>/dev/null | grep '^from'; }
sandpen run -d -n w -p 8080:80 --rlimit nofile=3000:4000 --rlimit core=0 /root/inner -- sh -c '
    ulimit -n; ulimit -Hn; ulimit -c; printf "GET /page HTTP/1.0\r\n\r\n" | nc -w 9 127.0.0.1 7000 | grep "^from"
    exec httpd -f -p 127.0.0.1:80 -h /www' >/dev/null
for i in $(seq 60); do page 8080 && break; sleep 1; done
sandpen logs w
sandpen run -p 7000:80 /root/inner -- true 2>&1 | grep -o 'port 7000 of [0-9.]*'
sandpen run -p 127.0.0.1:8081:80 /root/inner -- true 2>&1 | grep -o -e '--driver qemu'
sandpen run /root/inner -- nc -w 9 127.0.0.1 7000 </dev/null 2>/dev/null || echo no way out
sandpen kill w >/dev/null

echo "== stop"
sandpen run -d -n s /root/inner -- sh -c 'trap "echo asked; exit 5" TERM; echo ready; while :; do sleep 1; done' >/dev/null
for i in $(seq 100); do sandpen logs s | grep -q ready && break; sleep 1; done
sandpen stop s >/dev/null
sandpen logs s
sandpen inspect s | grep '"exit_code"' | head -1

echo "== adopted"
sandpen run -d -n d /root/inner -- sh -c 'for i in $(seq 60); do echo $i; sleep 0.1; done; exit 3' >/dev/null
sleep 2
kill -9 $(cat /root/state/daemon.lock)
echo "code $(sandpen wait d) $(sandpen logs d | md5sum)"
seq 60 | md5sum

echo "== reset"
sandpen run -n p /root/inner -- sh -c 'echo before; reboot -f; sleep 100' 2>/dev/null
sandpen inspect p | grep '"state"' | head -1
"#;

/// The last lines.
const END: &str = r#"
sandpen shutdown --stop-sandboxes
echo "== end $(ls /root/state/run/default | wc -l)"
"#;

fn skipped(reason: &str) {
    assert!(std::env::var_os("SANDPEN_REQUIRE_KRUNFW").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}

/// What the script printed below a heading.
fn scenario<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let begin = format!("== {heading}\n");
    let section = text.split_once(&begin).unwrap_or_else(|| panic!("no {heading:?} in {text}")).1;
    section.split("== ").next().unwrap().lines().collect()
}

#[test]
fn linux_runs_in_microvms_of_libkrun() {
    if sandpen::driver::host::acceleration().accelerator != sandpen::driver::qemu_args::Accelerator::Tcg {
        return skipped("with KVM, QEMU's processor is the host's");
    }
    let firmware = match sandpen::kernel::krunfw::find(None, &nested::data_dir()) {
        Ok(firmware) => firmware,
        Err(error) => return skipped(&error.to_string()),
    };
    let kernel = sandpen::kernel::find(&nested::data_dir()).unwrap();
    let modules = kernel.directory().join("modules");
    if !modules.join("kvm_amd.ko").exists() {
        return skipped("the installed kernel has no KVM modules; run `sandpen kernel install` again");
    }
    let home = Home::new();
    let root = home.path().join("outer");
    nested::outer_root(&root, Path::new(env!("CARGO_BIN_EXE_sandpen")), &modules, &firmware);
    let mke2fs = sandpen::driver::disk::find_program().expect("mke2fs (`make test` installs it)");
    // Busybox's own is another one.
    std::fs::remove_file(root.join("bin/mke2fs")).unwrap();
    nested::add_program(&root, &mke2fs, "mke2fs");
    std::fs::write(root.join("script"), [nested::PREPARE, SCRIPT, &features::script(), END].concat()).unwrap();
    let mut command = home.sandpen(&["run", "-n", "outer", "--driver", "qemu", "--cpus", "2", "--memory", "1G"]);
    command
        .args([root.to_str().unwrap(), "--", "sh", "/script"])
        .env("PATH", nested::qemu_with_svm(&home.path().join("wrap")));
    let output = output_within(LIMIT, command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", explain(&output));
    eprintln!("{text}");

    assert_eq!(scenario(&text, "doctor"), [r#"  "auto": "krun","#]);
    let streams = scenario(&text, "streams");
    assert_eq!(streams[0], "out");
    let (line, files) = streams[1].split_once("made; ").unwrap();
    assert_eq!(line, "code 42; err; ");
    assert!(!files.contains("init.krun"), "{files}");
    assert!(text.contains(r#""driver": "krun""#) && text.contains(r#""state": "STOPPED""#));
    let secrets = scenario(&text, "secrets");
    assert_eq!(secrets[..2], ["/tmp", "s3cret\" init=/bad"]);
    assert!(!secrets[2].contains("s3cret") && !secrets[2].contains("bad"), "{}", secrets[2]);
    assert!(secrets[3..].iter().all(|device| ["dummy0", "lo"].contains(device)), "no network: {secrets:?}");
    assert_eq!(scenario(&text, "stdin"), ["same"]);
    assert_eq!(scenario(&text, "bytes"), ["same", "same"], "{text}");
    assert_eq!(scenario(&text, "terminal"), ["/dev/pts/0#", "24 80#", "err#", "code 6; on a terminal"]);
    assert_eq!(scenario(&text, "bare root"), ["no directories needed", "code 0"]);
    assert_eq!(scenario(&text, "not found"), ["code 127"]);
    assert_eq!(scenario(&text, "volumes"), ["remounted", "kept", "out file 644"]);
    let layers = [
        "top",
        "No space left on device",
        "mine",
        "0 top base /root/inner/root o.img",
        "kept",
        "o",
        r#"    "name": "k","#,
    ];
    assert_eq!(scenario(&text, "layers"), layers);
    let network = ["from the guest", "3000", "4000", "0", "from the host"];
    let refusals = ["port 7000 of 0.0.0.0", "--driver qemu", "no way out"];
    assert_eq!(scenario(&text, "network"), [&network[..], &refusals].concat());
    let stop = scenario(&text, "stop");
    assert_eq!(stop[..2], ["ready", "asked"]);
    assert!(stop[2].contains("\"exit_code\": 5"), "{stop:?}");
    let adopted = scenario(&text, "adopted");
    assert_eq!(adopted[0], format!("code 3 {}", adopted[1]));
    let reset = scenario(&text, "reset");
    assert!(reset[0] == "before" && reset[1].contains("FAILED"), "{reset:?}");
    let failures = features::failures(&text);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(text.contains("== end 0"));
}
